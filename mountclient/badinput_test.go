package mountclient

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// What cannot be mounted is told in one line with the documented exit code, and leaves nothing behind.
func TestMountBadInput(t *testing.T) {
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	nz := packOf(t, noZone)
	flipped := func(raw []byte, off int64) []byte { b := bytes.Clone(raw); b[off] ^= 1; return b }
	short := func(o *MountOptions) { o.StartTimeout = 200 * time.Millisecond } // no answer need come
	brief := func(o *MountOptions) { o.StartTimeout = 10 * time.Second }       // the first answer is told of
	before := takeCensus()
	defer before.check(t)
	cases := []struct {
		name   string
		file   []byte
		script faultserver.Script
		change func(o *MountOptions)
		code   int
		says   string
	}{
		{name: "truncated", file: p.raw[:len(p.raw)-1], code: ExitFormat, says: "uploaded in part"},
		{name: "truncated in the boot zone", file: p.raw[:100_000], code: ExitFormat, says: "uploaded in part"},
		{name: "truncated in the boot index", file: p.raw[:600], code: ExitFormat, says: "uploaded in part"},
		{name: "truncated in the header", file: p.raw[:300], code: ExitFormat, says: "300 bytes long"},
		{name: "longer than it should be", file: append(bytes.Clone(p.raw), 0), code: ExitFormat, says: "instead of"},
		{name: "foreign, short", file: []byte("hello\n"), code: ExitFormat, says: "not a bootprof pack"},
		{name: "foreign, one byte", file: []byte("x"), code: ExitFormat, says: "not a bootprof pack"},
		{name: "foreign, long", file: bytes.Repeat([]byte("squash"), 200_000), code: ExitFormat, says: "not a bootprof pack"},
		{name: "empty", file: []byte{}, code: ExitNetwork, says: "empty"},
		{name: "newer", file: p.newer(), code: ExitFormat, says: "update bootprof"},
		{name: "header damaged", file: flipped(p.raw, 40), code: ExitFormat, says: "header"},
		{name: "boot index damaged", file: flipped(p.raw, p.pack.Header.BootIndex.PackOff+9), code: ExitFormat, says: "boot index"},
		{name: "boot chunk damaged", file: flipped(p.raw, p.pack.Header.Boot.PackOff+9), code: ExitFormat, says: "boot chunk"},
		{name: "body index damaged", file: flipped(nz.raw, nz.pack.Header.BodyRoot.PackOff+9), code: ExitFormat, says: "body index"},
		{name: "body chunk damaged", file: flipped(nz.raw, nz.coldChunk(t, 0).PackOff+9), code: ExitFormat, says: "body chunk"},
		{name: "404", script: faultserver.Always(faultserver.Status(404)), code: ExitNetwork, says: "404 Not Found"},
		{name: "403", script: faultserver.Always(faultserver.Status(403)), code: ExitNetwork, says: "403 Forbidden"},
		{name: "404 after the header", script: faultserver.After(len(openingSegments), faultserver.Status(404)), code: ExitNetwork, says: "404 Not Found"},
		{name: "HTML with 200", script: faultserver.Always(faultserver.HTML()), code: ExitNetwork, says: "HTML"},
		{name: "gzip", script: faultserver.Always(faultserver.Gzip()), code: ExitNetwork, says: "gzip"},
		{name: "another file in between", script: faultserver.After(len(openingSegments), faultserver.ETag(`"v2"`)), code: ExitNetwork, says: "replaced"},
		{name: "500", script: faultserver.Always(faultserver.Status(500)), change: brief, code: ExitNetwork, says: "500"},
		{name: "hangs", script: faultserver.Always(faultserver.Hang()), change: short, code: ExitNetwork, says: "given up"},
		{name: "stalls", script: faultserver.Always(faultserver.Stall(100)), change: short, code: ExitNetwork, says: "given up"},
		{name: "hangs after the header", script: faultserver.After(len(openingSegments), faultserver.Hang()), change: short, code: ExitNetwork, says: "given up"},
		{name: "huge headers", script: faultserver.Always(faultserver.Headers(100_000)), change: brief, code: ExitNetwork, says: "header"},
		{name: "redirects in a circle", script: faultserver.Always(faultserver.Redirect("/x")), change: brief, code: ExitNetwork, says: "redirect"},
		{name: "wrong digest", change: func(o *MountOptions) { o.Digest = "sha256:" + strings.Repeat("0", 64) }, code: ExitTrust, says: "want sha256:000"},
		{name: "digest of no known form", change: func(o *MountOptions) { o.Digest = "md5:1" }, code: ExitTrust, says: "want md5:1"},
		{name: "refused", change: func(o *MountOptions) { brief(o); o.URL = "http://127.0.0.1:1/x" }, code: ExitNetwork, says: "refused"},
		{name: "no such host", change: func(o *MountOptions) { brief(o); o.URL = "http://no-such-host.invalid/x" }, code: ExitNetwork, says: "no-such-host"},
		{name: "no URL", change: func(o *MountOptions) { o.URL = "disk.bpk" }, code: ExitUsage, says: "http://HOST/PATH"},
		{name: "DIR not empty", change: func(o *MountOptions) { os.WriteFile(o.Dir+"/file", nil, 0o600) }, code: ExitSetup, says: "not empty"},
		{name: "DIR missing", change: func(o *MountOptions) { o.Dir += "/missing" }, code: ExitSetup, says: "no such file"},
		{name: "DIR a file", change: func(o *MountOptions) { o.Dir += "-file"; os.WriteFile(o.Dir, nil, 0o600) }, code: ExitSetup, says: "not a directory"},
		{name: "cache directory a file", change: func(o *MountOptions) { o.CacheDir = o.Dir + "-file"; os.WriteFile(o.CacheDir, nil, 0o600) }, code: ExitSetup, says: "cache"},
	}
	t.Run("all", func(t *testing.T) { // ends when they have ended
		for _, c := range cases {
			for _, raw := range []bool{false, true} {
				// In raw mode nothing reads the image at the start.
				late := strings.HasSuffix(c.name, "chunk damaged") || c.name == "body index damaged" ||
					strings.Contains(c.name, "after the header") || c.name == "another file in between"
				if raw && (late || c.name == "no such host") { // a name server may take seconds
					continue
				}
				name := c.name
				if raw {
					name += ", raw"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					file := c.file
					if file == nil {
						file = p.raw
					}
					if strings.HasSuffix(c.name, "after the header") || c.name == "another file in between" {
						file = nz.raw // mounting needs more than the opening requests bring
					}
					s := serveBytes(t, file)
					s.Script(c.script)
					o := mountOptions(t, s.URL("pack.bpk"), func(o *MountOptions) {
						o.Raw = raw
						if c.change != nil {
							c.change(o)
						}
					})
					cannotMount(t, o, c.code, c.says)
				})
			}
		}
	})
}

// cannotMount checks that a mount ends with an exit code and one line. An error that more attempts do not mend ends it by
// itself, long before the start's time-out.
func cannotMount(t *testing.T, o MountOptions, code int, says string) {
	t.Helper()
	m, err := Mount(t.Context(), o)
	if err == nil {
		_ = unix.Unmount(o.Dir, unix.MNT_DETACH)
		_ = m.Wait()
		t.Fatal("mounted")
	}
	line := oneLine(err)
	if ExitCode(err) != code || !strings.Contains(line, says) || len(line) > 400 {
		t.Errorf("exit code %d, want %d; says %q, want %q", ExitCode(err), code, line, says)
	}
	if o.StartTimeout == testrig.Patience && strings.Contains(line, "given up") {
		t.Errorf("attempts went on until the time-out: %q", line)
	}
	if testrig.IsMounted(o.Dir) {
		t.Error("left mounted")
		_ = unix.Unmount(o.Dir, unix.MNT_DETACH)
	}
	if left, _ := os.ReadDir(o.RunDir); len(left) > 0 {
		t.Errorf("left in the run directory: %v", left)
	}
}

// mountLine runs the mount command and returns its exit code and the line it said. before is a shell command
// that runs first, in the mount namespace of the command.
func mountLine(t *testing.T, before string, cred *syscall.Credential, url, dir string) (int, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	mode := "fs"
	if strings.Contains(before, "mknod") {
		mode = "loop"
	}
	args := []string{runDir(t), "", testrig.Patience.String(), "0", mode, "bg", url, dir}
	cmd, out := role(roleMount, args...)
	if before != "" {
		sh, shOut := role(roleMount)
		sh.Path, _ = exec.LookPath("unshare")
		sh.Args = append([]string{"unshare", "-m", "/bin/sh", "-c", before + ` && exec "$0" "$@"`, self}, args...)
		cmd, out = sh, shOut
	}
	cmd.SysProcAttr.Credential = cred
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatal(err)
	}
	said := ""
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "error: coverage ") { // of `go test -cover`, run as another user
			said += line
		}
	}
	return cmd.ProcessState.ExitCode(), said
}

// What a machine may lack.
func TestMountWithout(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	s := packOf(t, small).serve(t)
	for _, c := range []struct {
		name, before string
		cred         *syscall.Credential
		says         string
	}{
		{"root", "", &syscall.Credential{Uid: 65534, Gid: 65534}, "needs root"},
		{"/dev/fuse", "mount -t tmpfs none /dev", nil, "/dev/fuse is missing"},
		{"loop devices", "mount -t tmpfs none /dev && mknod /dev/fuse c 10 229 && mknod /dev/null c 1 3", nil, "/dev/loop-control"},
		{"a directory for temporary files", "export TMPDIR=/proc/none", nil, "directory for the image file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(runDir(t), "mnt")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			code, out := mountLine(t, c.before, c.cred, s.URL("pack"), dir)
			line, rest, _ := strings.Cut(out, "\n")
			if code != ExitSetup || rest != "" || !strings.HasPrefix(line, "bootprof: ") || !strings.Contains(line, c.says) {
				t.Errorf("exit code %d, said %q; want %d and one line with %q", code, out, ExitSetup, c.says)
			}
			if testrig.IsMounted(dir) {
				t.Error("left mounted")
			}
		})
	}
}

// The command tells an error of the process behind it in the same way.
func TestRunMountErrors(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, small)
	s := p.serve(t)
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		switch r.Path {
		case "/missing":
			return faultserver.Status(404)
		case "/page":
			return faultserver.HTML()
		}
		return nil
	})
	for name, c := range map[string]struct {
		url  string
		code int
		says string
	}{
		"404":  {s.URL("missing"), ExitNetwork, "404 Not Found"},
		"HTML": {s.URL("page"), ExitNetwork, "HTML"},
		"URL":  {"nowhere", ExitUsage, "http://HOST/PATH"},
	} {
		dir := t.TempDir()
		code, out := mountLine(t, "", nil, c.url, dir)
		if code != c.code || strings.Count(out, "\n") != 1 || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit code %d, said %q; want %d and %q in one line", name, code, out, c.code, c.says)
		}
	}
}

// Every class of error has its own exit code.
func TestExitCodes(t *testing.T) {
	seen := map[int]bool{}
	for _, code := range []int{ExitOK, ExitOther, ExitUsage, ExitSetup, ExitNetwork, ExitFormat, ExitTrust, ExitSignal} {
		if seen[code] {
			t.Errorf("exit code %d twice", code)
		}
		seen[code] = true
	}
	if c := ExitCode(nil); c != ExitOK {
		t.Errorf("no error: %d", c)
	}
	if c := ExitCode(errors.New("x")); c != ExitOther {
		t.Errorf("unknown error: %d", c)
	}
}
