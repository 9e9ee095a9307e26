// Package testrig holds what the tests of several packages share: programs that are run, what a test needs of the
// machine, mounts, private mount namespaces, and conditions that are awaited. Only tests import it.
//
// # Tiers
//
// A test belongs to one of three tiers, which scripts/test.sh runs:
//
//	make check     go test -short: leaves out tests that call Slow
//	make test      everything but tests that call Long
//	make test-all  everything, with $BOOTPROF_LONG set
//
// # Skips
//
// A test that the machine cannot run skips through Missing, which says why. With $BOOTPROF_NEED_ALL set, as in make test, it
// fails instead: set-up has installed everything. No test calls t.Skip by itself (TestNoOtherSkips).
//
// All functions are for the goroutine that runs the test, as t.Fatal is, unless they say otherwise.
package testrig

import (
	"bytes"
	"cmp"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The environment that scripts/test.sh sets.
const (
	NeedAllEnv = "BOOTPROF_NEED_ALL" // not empty: what is missing fails the test
	LongEnv    = "BOOTPROF_LONG"     // not empty: tests that call Long run
	MemoryEnv  = "BOOTPROF_MEMORY"   // a directory in memory, instead of /dev/shm
)

// Patience bounds a wait for something that must happen. It is reached only if it never does, so it is
// long enough for a machine whose processors are busy with other work.
const Patience = 2 * time.Minute

// Missing skips the test, or fails it if NeedAllEnv is set. The text names what is missing.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(NeedAllEnv) != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Slow leaves the test out of make check. A test that takes more than about a second calls it first.
func Slow(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow: make test runs it")
	}
}

// SlowRaced leaves the test out of the fast tests under the race detector, where compressors take ten times as long. It stays in
// make check.
func SlowRaced(t testing.TB) {
	t.Helper()
	if Raced && testing.Short() {
		t.Skip("slow under the race detector: make test-all runs it there")
	}
}

// Long leaves the test to make test-all. docs/testing.md lists such tests with the reason (TestLongTestsAreListed).
func Long(t testing.TB) {
	t.Helper()
	if os.Getenv(LongEnv) == "" {
		t.Skip("long: make test-all runs it (docs/testing.md)")
	}
}

// Elsewhere skips a test that another step of the suite runs, with what that step has made for it; the
// text names the step. That is no failure under NeedAllEnv: there the test runs.
func Elsewhere(t testing.TB, format string, args ...any) {
	t.Helper()
	t.Skipf(format, args...)
}

// KernelLacks skips a test of what only newer kernels have. That is no failure under NeedAllEnv: set-up installs no kernel.
func KernelLacks(t testing.TB, format string, args ...any) {
	t.Helper()
	t.Skipf("this kernel lacks "+format, args...)
}

// NeedRoot skips the test without root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root: makes devices, owners, mounts or namespaces")
	}
}

// NeedDevices skips the test without root or without one of the devices, such as "/dev/fuse".
func NeedDevices(t testing.TB, devices ...string) {
	t.Helper()
	NeedRoot(t)
	for _, dev := range devices {
		if _, err := os.Stat(dev); err != nil {
			Missing(t, "needs %s: %v", dev, err)
		}
	}
}

// NeedMounts skips the test where FUSE and loop devices cannot be had.
func NeedMounts(t testing.TB) {
	t.Helper()
	NeedDevices(t, "/dev/fuse", "/dev/loop-control")
}

// NeedProgram skips the test unless all programs are on the PATH.
func NeedProgram(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, "needs %s: scripts/setup.sh installs it", name)
		}
	}
}

// Run runs a program in the C locale and returns its standard output. If it fails, the test ends with what
// the program printed; if it is not installed, as NeedProgram says.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return RunInput(t, "", name, args...)
}

// RunInput is Run with a standard input.
func RunInput(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	NeedProgram(t, name)
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MKE2FS_SKIP_CHECK_MSG=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %.300s: %v\n%s%s", name, strings.Join(args, " "), err, tail(stdout.Bytes()), tail(stderr.Bytes()))
	}
	return stdout.String()
}

// tail is the end of an output that may be long.
func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// WriteFile writes a file of mode 0644 and makes the directories it lies in.
func WriteFile[T ~string | ~[]byte](t testing.TB, path string, content T) {
	t.Helper()
	Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	Must(t, os.WriteFile(path, []byte(content), 0o644))
}

// ReadFile returns what a file holds.
func ReadFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	Must(t, err)
	return b
}

// OpenFile opens a file for reading until the end of the test and returns its size in bytes.
func OpenFile(t testing.TB, path string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(path)
	Must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	Must(t, err)
	return f, st.Size()
}

// Noise returns n bytes, none of them zero, that do not compress and differ by seed.
func Noise(seed uint32, n int) []byte {
	b := make([]byte, n)
	x := seed*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x>>24) | 1
	}
	return b
}

// MemoryDir returns a new directory in memory, where there is one: a test that would otherwise wait for a
// disk takes it. It lies in MemoryEnv if that is set, which make test removes, even after a test that was killed.
func MemoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(cmp.Or(os.Getenv(MemoryEnv), "/dev/shm"), "bootprof-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	Must(t, os.Chmod(dir, 0o755)) // as t.TempDir
	return dir
}

// FreePort returns a TCP port of 127.0.0.1 on which nobody listens.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Eventually waits until cond holds and ends the test if it does not within Patience.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !Await(Patience, cond) {
		t.Fatalf("%s: not within %v", what, Patience)
	}
}

// Await asks cond every few milliseconds and says whether it held within d. Any goroutine may call it.
func Await(d time.Duration, cond func() bool) bool {
	for end := time.Now().Add(d); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return cond()
		}
	}
	return true
}
