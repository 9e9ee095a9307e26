package fidelity

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/profiles"
)

// privateEnv says that this process has a mount namespace of its own.
const privateEnv = "FIDELITY_TEST_PRIVATE"

// command is the path of the built bootprof.
var command string

func TestMain(m *testing.M) {
	switch {
	case os.Geteuid() != 0:
		os.Exit(m.Run()) // every test skips
	case os.Getenv(privateEnv) == "":
		os.Exit(runPrivately())
	}
	leaveMounts()
	if err := unix.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "mounting an empty /run:", err)
		os.Exit(1)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fidelity-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	command = dir + "/bootprof"
	if out, err := exec.Command("go", "build", "-o", command, "bootprof/cmd/bootprof").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building bootprof: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func runPrivately() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "starting the tests in a mount namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// leaveMounts takes other programs' images out of this namespace: a copy of their mount would keep them alive.
func leaveMounts() {
	for _, f := range mountinfo() {
		if strings.HasPrefix(f[2], "7:") || strings.Contains(strings.Join(f, " "), " - fuse.") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

func mountinfo() (out [][]string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 5 {
			out = append(out, f)
		}
	}
	return out
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices and owners, and mounts")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sh runs a program and fails the test with the end of its output.
func sh(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %.200s: %v\n%.400s\n...%s", name, strings.Join(args, " "), err, out, out[max(0, len(out)-400):])
	}
}

// scratch returns a directory on a tmpfs of its own, until the end of the test.
func scratch(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "tmpfs", 0, "size=2g,nr_inodes=1m,mode=755"))
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// unmount waits a little for a child of another test that has not come to its exec yet, and holds copies of this
// process's open files.
func unmount(t testing.TB, dir string) {
	t.Helper()
	err := unix.Unmount(dir, 0)
	for end := time.Now().Add(10 * time.Second); err == unix.EBUSY && time.Now().Before(end); err = unix.Unmount(dir, 0) {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("unmounting %s: %v", dir, err)
	}
}

// pack packs the input with the command.
func pack(t testing.TB, input string, more ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "x.bpk")
	sh(t, command, append([]string{"pack", input, "-o", out, "--level", "fastest"}, more...)...)
	return out
}

// zoned packs the input with pages all over the image in the boot zone.
func zoned(t testing.TB, input string) string {
	t.Helper()
	ctx := context.Background()
	img, err := imagepack.Open(ctx, input, "")
	must(t, err)
	defer img.Close()
	r := rand.New(rand.NewPCG(1, 2))
	pages := img.Size() / bpk.PageSize
	var boot []profiles.Range
	for range 40 {
		boot = append(boot, profiles.Range{ImageOff: r.Int64N(pages) * bpk.PageSize, Len: 1 + r.Int64N(2*bpk.PageSize)})
	}
	out := filepath.Join(t.TempDir(), "zoned.bpk")
	st, err := imagepack.Write(ctx, out, img, imagepack.WriteOptions{Boot: boot, BodyLevel: zstd.SpeedFastest})
	must(t, err)
	if st.BootPages == 0 {
		t.Fatal("no page in the boot zone")
	}
	return out
}

// loopMount mounts the image that is in a pack, extracted, by a loop device.
func loopMount(t testing.TB, packPath string) string {
	t.Helper()
	f, err := os.Open(packPath)
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	p, err := bpk.Open(f, st.Size())
	must(t, err)
	image := filepath.Join(t.TempDir(), "image")
	out, err := os.Create(image)
	must(t, err)
	defer out.Close()
	must(t, out.Truncate(p.Header.ImageSize))
	must(t, p.Extract(context.Background(), out, out))
	return mountImage(t, p.Header.Filesystem, image)
}

// mountImage mounts an image file until the end of the test.
func mountImage(t testing.TB, fs, image string) string {
	t.Helper()
	dir := t.TempDir()
	sh(t, "mount", "-t", fs, "-o", "loop,ro", image, dir)
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// webMount serves the pack's directory by `bootprof serve` and mounts the pack from there with the command.
func webMount(t testing.TB, packPath string) string {
	t.Helper()
	server := exec.Command(command, "serve", filepath.Dir(packPath), "--listen", "127.0.0.1:0")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := server.StderrPipe()
	must(t, err)
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		_ = server.Wait()
	})
	line, err := bufio.NewReader(said).ReadString('\n') // "serving DIR at http://127.0.0.1:12345/"
	must(t, err)
	go io.Copy(io.Discard, said)
	url := strings.TrimSpace(line[strings.LastIndex(line, "http://"):])
	dir := t.TempDir()
	sh(t, command, "mount", url+filepath.Base(packPath), dir)
	for _, f := range mountinfo() {
		if f[4] == dir && (strings.Contains(f[5], "nosuid") || strings.Contains(f[5], "nodev") || strings.Contains(f[5], "noexec")) {
			t.Errorf("mounted with the options %s: no root file system", f[5])
		}
	}
	t.Cleanup(func() {
		unmount(t, dir)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			left, _ := os.ReadDir("/run/bootprof")
			if len(left) == 0 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the client does not end after the unmount: %v", left)
			}
		}
	})
	return dir
}

// refused runs the command, which must end with the code, say one line that holds each of the words, and leave
// nothing at out.
func refused(t testing.TB, code int, out string, cmd *exec.Cmd, words ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	said := stderr.String()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	if stdout.Len() > 0 || strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") || !strings.HasPrefix(said, "bootprof: ") {
		t.Errorf("said %q and %q on stdout, want one line", said, stdout.String())
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("said %q, want it to hold %q", said, w)
		}
	}
	if _, err := os.Lstat(out); err == nil {
		t.Errorf("%s is there", out)
	}
	t.Logf("%.300s", said)
}
