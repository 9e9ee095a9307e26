package mountclient

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

var programs struct {
	sync.Mutex
	byName map[string]string
}

// program builds ../cmd/NAME once for all tests, the way it is linked into an initramfs: without the race detector.
func program(t testing.TB, name string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if path := programs.byName[name]; path != "" {
		return path
	}
	dir, err := os.MkdirTemp("", "programs-")
	testrig.Must(t, err)
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-o", path, "../cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if programs.byName == nil {
		programs.byName = map[string]string{}
	}
	programs.byName[name] = path
	return path
}

// A rootProc is a process that carries a root file system.
type rootProc struct {
	t   *testing.T
	pid int
	dir string // where it was mounted
}

// startRoot runs a command `NAME ARGS... DIR` as an initramfs would, in the directory root if that is not empty, and finds
// the process that it leaves behind.
func startRoot(t *testing.T, root, name string, args ...string) *rootProc {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if root != "" {
		cmd.Dir = "/"
	}
	cmd.Env = append(os.Environ(), "TMPDIR=/tmp")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	r := &rootProc{t: t, dir: args[len(args)-1]}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		if line, _ := os.ReadFile(proc + "/cmdline"); bytes.HasSuffix(line, []byte("\x00"+strings.Join(args, "\x00")+"\x00")) {
			r.pid, _ = strconv.Atoi(filepath.Base(proc))
		}
	}
	if r.pid == 0 {
		t.Fatalf("no process is left behind by %s %q", name, args)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(r.pid, syscall.SIGCONT)
		_ = syscall.Kill(r.pid, syscall.SIGKILL)
		_ = unix.Unmount(r.dir, unix.MNT_DETACH)
		testrig.Eventually(t, "end of the client", func() bool { return !r.lives() })
		os.Remove(socketPath("", r.pid))
	})
	return r
}

func (r *rootProc) proc(name string) string { return fmt.Sprintf("/proc/%d/%s", r.pid, name) }

func (r *rootProc) lives() bool {
	stat, err := os.ReadFile(r.proc("stat"))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// readProc returns the content of a file of the process.
func (r *rootProc) readProc(name string) string {
	r.t.Helper()
	return strings.TrimRight(string(testrig.ReadFile(r.t, r.proc(name))), "\n")
}

// ends unmounts and waits for the end of the process.
func (r *rootProc) ends() {
	r.t.Helper()
	testrig.Unmount(r.t, r.dir)
	testrig.Eventually(r.t, "end of the client after the unmount", func() bool { return !r.lives() })
}

// canLowerOOM tells whether this machine lets root protect a process from the OOM killer, as a shell sees it.
func canLowerOOM() bool {
	return exec.Command("/bin/sh", "-c", "echo -1000 >/proc/self/oom_score_adj").Run() == nil
}

// wearsMark checks what systemd and the kernel look at.
func (r *rootProc) wearsMark(comm string) {
	r.t.Helper()
	if line := r.readProc("cmdline"); !strings.HasPrefix(line, "@") {
		r.t.Errorf("command line %q, want an @ first", line)
	}
	if got := r.readProc("comm"); got != comm {
		r.t.Errorf("comm is %q, want %q", got, comm)
	}
	if got := r.readProc("oom_score_adj"); got != "-1000" && canLowerOOM() {
		r.t.Errorf("oom_score_adj is %s, want -1000", got)
	}
	_, mask, _ := strings.Cut(r.readProc("status"), "SigIgn:")
	ignored, err := strconv.ParseUint(strings.Fields(mask)[0], 16, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE} {
		if ignored&(1<<(s-1)) == 0 {
			r.t.Errorf("%v is not ignored", s)
		}
	}
}

// No signal that can be ignored ends the client of a root, and none makes a reader fail; being stopped for a while is
// nothing to it.
func TestRootSignals(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, noZone)
	s := p.serve(t)
	bin := program(t, "bootprof-mount")
	dir := t.TempDir()
	r := startRoot(t, "", bin, "--root", s.URL("pack.bpk"), dir)
	r.wearsMark("bootprof-mount")
	compare, out := role(roleCompare, p.source, dir)
	if err := compare.Start(); err != nil {
		t.Fatal(err)
	}
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGSTOP}
	for _, sig := range signals {
		if err := syscall.Kill(r.pid, sig); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
	testrig.Eventually(t, "stop of the client", func() bool { return strings.Contains(r.readProc("stat"), ") T ") })
	time.Sleep(time.Second) // that long
	if err := syscall.Kill(r.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := compare.Wait(); err != nil {
		t.Errorf("the tree differs from its source: %v\n%s", err, out)
	}
	r.wearsMark("bootprof-mount")
	r.ends()
}

// Called by the name of live-boot's client, the image file appears under its name on the server. The name may be a copy or
// a link; comm stays what live-boot looks for.
func TestHTTPFS(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, small)
	s := p.serve(t)
	bin := program(t, "bootprof-mount")
	for _, kind := range []string{"copy", "link"} {
		httpfs, dir := filepath.Join(t.TempDir(), "httpfs"), t.TempDir()
		if kind == "copy" {
			testrig.Must(t, os.Link(bin, httpfs))
		} else {
			testrig.Must(t, os.Symlink(bin, httpfs))
		}
		r := startRoot(t, "", httpfs, s.URL("live/filesystem.squashfs")+"?v=1", dir)
		r.wearsMark("httpfs")
		code, sum := runRole(t, roleSum, dir+"/filesystem.squashfs")
		if want := fmt.Sprintf("%x\n", sha256.Sum256(p.image)); code != 0 || sum != want {
			t.Errorf("%s: the image file has the sum %s, want %s", kind, sum, want)
		}
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("%s: %v in the directory, want the image file alone", kind, names)
		}
		r.ends()
	}
}

// A start that makes no progress is still ended by a signal: nothing depends on it yet.
func TestRootStartIsInterrupted(t *testing.T) {
	s := packOf(t, small).serve(t)
	s.Stop()
	bin := program(t, "bootprof-mount")
	dir := t.TempDir()
	cmd := exec.Command(bin, "--root", "--start-timeout", "0", "--foreground", s.URL("pack.bpk"), dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testrig.Eventually(t, "the client ignores SIGUSR1", func() bool { // SIGHUP may be ignored from the test's start on
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		_, mask, _ := strings.Cut(string(b), "SigIgn:\t")
		n, _ := strconv.ParseUint(strings.Fields(mask + " 0")[0], 16, 64)
		return n&(1<<(syscall.SIGUSR1-1)) != 0
	})
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != ExitSignal {
		t.Errorf("exit code %d, want %d", code, ExitSignal)
	}
	if testrig.IsMounted(dir) {
		t.Error("left mounted")
	}
}

// A read of the root that panics is done again; the reader gets its bytes.
func TestRootPanic(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, noZone)
	r := mountPack(t, p.serve(t), func(o *MountOptions) { o.Root, o.Raw = true, true })
	defer r.unmount()
	var panics atomic.Int32
	need := r.Client.need
	r.Client.need = nil // of the first reads; a call of it panics
	r.Client.fetch.log = NewLog(logFunc(func(line string) {
		if strings.Contains(line, "BUG: a read panicked") && panics.Add(1) == 1 {
			r.Client.need = need
		}
	}), 0)
	cold := p.coldChunk(t, 0)
	b := make([]byte, bpk.PageSize)
	off := cold.Page * bpk.PageSize
	if _, err := r.read(t.Context(), b, off); err != nil || !bytes.Equal(b, p.image[off:off+bpk.PageSize]) {
		t.Errorf("the read after the panic: %v", err)
	}
	if panics.Load() == 0 {
		t.Error("nothing panicked")
	}
}

type logFunc func(line string)

func (f logFunc) Write(b []byte) (int, error) {
	f(string(b))
	return len(b), nil
}

// With the server gone, every page of the boot zone can still be read, from the client's memory however small it is to
// be: what a machine needs to power off is there.
func TestRootBootZoneStays(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	r := mountPack(t, s, func(o *MountOptions) { o.Root, o.Raw, o.MemoryBytes = true, true, 64<<10 })
	defer r.unmount()
	r.hot()
	s.Stop()
	f, err := os.Open(r.dir + "/" + imageName)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, b := range r.Client.index.Ranges {
		off, n := b.Page*bpk.PageSize, b.Pages*bpk.PageSize
		if err := unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, n)
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, p.image[off:off+n]) {
			t.Fatalf("boot pages [%d +%d): %v", b.Page, b.Pages, err)
		}
	}
	if s := r.Status(); s.HeldPages == s.ImagePages {
		t.Error("the memory was not short")
	}
}

// What the kernel's log gets has a priority that the console shows, and a length that it takes.
func TestKernelLines(t *testing.T) {
	var lines []string
	log := NewLog(logFunc(func(l string) { lines = append(lines, l) }), 0)
	log.Info("before")
	toKernel(log)
	log.Warn("outage", "error", strings.Repeat("é", 2000))
	log.Info("fine")
	if lines[0] != "bootprof: before\n" || !strings.HasPrefix(lines[1], "<3>bootprof: outage: é") || lines[2] != "<5>bootprof: fine\n" {
		t.Errorf("%q", lines)
	}
	if len(lines[1]) > maxKernelLine+4 || !strings.HasSuffix(lines[1], "é\n") {
		t.Errorf("a line of %d bytes: %q", len(lines[1]), lines[1])
	}
}

// The kernel must not end a mount because a read waits (Linux 6.15 and later): what can be turned off is, the rest is told.
func TestRequestTimeouts(t *testing.T) {
	for _, c := range []struct{ first, second, want, says string }{
		{"0\n", "0\n", "0\n", ""},
		{"60\n", "0\n", "0\n", ""},
		{"60\n", "600\n", "0\n", "fs.fuse.max_request_timeout"},
		{"", "", "", ""}, // an older kernel
	} {
		dir := t.TempDir()
		if c.first != "" {
			testrig.WriteFile(t, dir+"/default_request_timeout", c.first)
			testrig.WriteFile(t, dir+"/max_request_timeout", c.second)
		}
		log := &syncBuffer{}
		disableRequestTimeout(dir, NewLog(log, 0))
		got, _ := os.ReadFile(dir + "/default_request_timeout")
		if string(got) != c.want && string(got) != c.want+c.first[min(2, len(c.first)):] || !strings.Contains(log.String(), c.says) || c.says == "" && log.String() != "" {
			t.Errorf("%q, %q: left at %q, said %q", c.first, c.second, got, log)
		}
	}
}

// A root whose image has become local needs no client: the note and the new file of the loop device are brought about
// with what the client held, though no path leads anywhere any more.
func TestRootHandsOver(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := squashed(t, packOf(t, small))
	s := p.serve(t)
	dir := t.TempDir()
	// It fills once the boot is over, some 20 s after its last page: other tests run meanwhile.
	r := startRoot(t, "", program(t, "bootprof-mount"), "--root", "--cache", t.TempDir(), "--fill", "max", s.URL("pack.bpk"), dir)
	testrig.Eventually(t, "end of the client, whose image is local", func() bool { return !r.lives() })
	s.Stop()
	dropCaches(t)
	if code, out := runRole(t, roleCompare, p.source, dir); code != 0 {
		t.Errorf("the tree differs from its source:\n%s", out)
	}
	local, err := ReadStatus("")
	found := false
	for _, st := range local {
		found = found || st.Dir == dir && st.Phase == "local" && st.LocalFile != ""
	}
	if err != nil || !found {
		t.Errorf("status does not tell of the mount: %v, %v", local, err)
	}
	testrig.Unmount(t, dir)
	_, _ = ReadStatus("") // which removes the note
}
