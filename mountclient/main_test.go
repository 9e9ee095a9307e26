package mountclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// The test binary runs again as other programs, chosen by testRole.
const (
	testRole    = "BOOTPROF_TEST_ROLE"
	roleCompare = "compare" // compare: SOURCE MOUNTED
	roleMount   = "mount"   // a mount command: see mountCommand
	roleTouch   = "touch"   // reads files: PATH...
	roleSoak    = "soak"    // soakMain: SOURCE MOUNTED DURATION
	roleSum     = "sum"     // prints the SHA-256 of a file: PATH
)

func TestMain(m *testing.M) {
	if os.Getenv(testRole) != "" {
		closeInherited()
	}
	switch os.Getenv(testRole) {
	case roleCompare:
		os.Exit(compareMain(os.Args[1], os.Args[2]))
	case roleMount:
		os.Exit(mountMain(os.Args[1:]))
	case roleTouch:
		os.Exit(touchMain(os.Args[1:]))
	case roleSoak:
		os.Exit(soakMain(os.Args[1], os.Args[2], os.Args[3]))
	case roleSum:
		os.Exit(sumMain(os.Args[1]))
	case roleCable:
		os.Exit(cableMain(os.Args[1], os.Args[2], os.Args[3]))
	case roleProxy:
		os.Exit(proxyMain(os.Args[1], os.Args[2]))
	}
	testrig.Private()
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // tests that mount skip
	}
	os.Exit(testMain(m))
}

// closeInherited closes FUSE descriptors of the process that started this one. go-fuse opens them without O_CLOEXEC, so a
// child that is forked just then gets them, too. It would keep the connection alive, and show a number that another
// connection gets when the file system is gone.
func closeInherited() {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, e := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to == "/dev/fuse" {
			if fd, err := strconv.Atoi(e.Name()); err == nil {
				_ = unix.Close(fd)
			}
		}
	}
}

// fusectl is where this namespace shows the FUSE connections.
var fusectl string

// testMain runs the tests in their mount namespace and fails if they leave anything behind.
func testMain(m *testing.M) int {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" { // there it is the number of processes
		_ = flag.Set("test.parallel", "8") // these tests wait more than they work
	}
	tmp, err := os.MkdirTemp("", "mountclient-test-")
	if err == nil {
		defer os.RemoveAll(tmp)
		fusectl = tmp + "/fusectl"
		err = errors.Join(os.Mkdir(fusectl, 0o700), os.Mkdir(tmp+"/tmp", 0o777), os.Setenv("TMPDIR", tmp+"/tmp"))
	}
	if err == nil {
		// Tests that fill caches would wait for a disk.
		err = errors.Join(unix.Mount("fusectl", fusectl, "fusectl", 0, ""),
			unix.Mount("tmpfs", tmp+"/tmp", "tmpfs", 0, "mode=1777"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the tests:", err)
		return 1
	}
	defer unix.Unmount(fusectl, unix.MNT_DETACH)
	defer unix.Unmount(tmp+"/tmp", unix.MNT_DETACH)
	code := m.Run()
	removePacks()
	left, _ := os.ReadDir(tmp + "/tmp")
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "bootprof-") {
			fmt.Println("FAIL: left behind:", e.Name())
			code = 1
		}
	}
	for _, path := range testrig.ImageMounts() {
		fmt.Println("FAIL: left mounted:", path)
		code = 1
	}
	return code
}

// compareMain tells the differences between a directory and its mounted image. It is a process of its own,
// as readers of a mount are; the kernel's view of both is compared.
func compareMain(source, mounted string) int {
	root, err := tree.FromDir(context.Background(), source, tree.DirOptions{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	diffs := treetest.Diff(mounted, root, treetest.Options{})
	for _, d := range diffs {
		fmt.Println(d)
	}
	return min(len(diffs), 1)
}

func sumMain(path string) int {
	f, err := os.Open(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("%x\n", h.Sum(nil))
	return 0
}

func touchMain(paths []string) int {
	for _, p := range paths {
		f, err := os.Open(p)
		if err == nil {
			_, err = io.Copy(io.Discard, f)
			f.Close()
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// mountMain is the mount command as cmd/bootprof has it, with the run directory as an argument:
// RUNDIR CACHEDIR START-TIMEOUT TIMEOUT raw|fs|loop|fill fg|bg URL DIR; fill: at once, without bound.
func mountMain(a []string) int {
	start, _ := time.ParseDuration(a[2])
	timeout, _ := time.ParseDuration(a[3])
	var rate int64
	var window time.Duration
	if a[4] == "fill" {
		rate, window = FillMax, time.Millisecond
	}
	return RunMount(MountOptions{window: window,
		Options: Options{URL: a[6], CacheDir: a[1], StartTimeout: start, Timeout: timeout, FillRate: rate, Log: NewLog(os.Stderr, slog.LevelInfo)},
		Dir:     a[7], Raw: a[4] == "raw", Loop: a[4] == "loop", RunDir: a[0]}, a[5] == "fg", os.Stderr)
}

// role is this binary in another role. Its standard error is kept for the test's log.
func role(name string, args ...string) (*exec.Cmd, *syncBuffer) {
	cmd := exec.Command("/proc/self/exe", args...)
	// Under the race detector a process would sleep for a second at its end.
	cmd.Env = append(os.Environ(), testRole+"="+name, "GORACE=atexit_sleep_ms=0")
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// A client that serves a mount keeps the output open when its command has ended. Without one, what was said is waited for.
	cmd.WaitDelay = 100 * time.Millisecond
	if name != roleMount {
		cmd.WaitDelay = 20 * time.Second
	}
	return cmd, out
}

// run runs the binary in a role and returns its exit code.
func runRole(t testing.TB, name string, args ...string) (int, string) {
	t.Helper()
	cmd, out := role(name, args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// testLog writes what a client logs to the test's log.
func testLog(t testing.TB) *slog.Logger {
	b := &syncBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the client:\n%s", b)
		}
	})
	return NewLog(b, slog.LevelDebug)
}

// hangs is when a test is taken for hanging: later than what it waits for in vain.
const hangs = testrig.Patience + time.Minute

// watchdog aborts the FUSE connections of this test binary's processes when the test hangs: without that, a deadlock
// between a push and a READ would leave a process that nothing can kill.
func watchdog(t testing.TB) { watchdogAfter(t, hangs) }

func watchdogAfter(t testing.TB, d time.Duration) {
	testrig.NeedMounts(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		seen := map[string]bool{} // a process that is being killed shows none any more
		deadline := time.After(d)
		look := time.NewTicker(2 * time.Second)
		defer look.Stop()
		for {
			select {
			case <-stop:
				return
			case <-look.C:
				for _, id := range fuseConnections() {
					seen[id] = true
				}
			case <-deadline:
				for id := range seen {
					t.Errorf("after %v: aborting FUSE connection %s", d, id)
					abort(id)
				}
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
}

// abort ends a FUSE connection: all that waits for it gets an error.
func abort(connection string) { _ = os.WriteFile(fusectl+"/"+connection+"/abort", []byte("1"), 0) }

// fuseConnections returns the numbers of the FUSE connections that processes of this test binary serve.
func fuseConnections() (ids []string) {
	self, _ := os.Stat("/proc/self/exe")
	procs, _ := filepath.Glob("/proc/[0-9]*")
	return fuseConnectionsOf(self, procs...)
}

// fuseConnectionsOf does so for some processes, by their directories in /proc.
func fuseConnectionsOf(self os.FileInfo, procs ...string) (ids []string) {
	for _, proc := range procs {
		if exe, err := os.Stat(proc + "/exe"); err != nil || !os.SameFile(exe, self) {
			continue
		}
		fds, _ := os.ReadDir(proc + "/fd")
		for _, fd := range fds {
			if l, err := os.Readlink(proc + "/fd/" + fd.Name()); err != nil || l != "/dev/fuse" {
				continue
			}
			b, _ := os.ReadFile(proc + "/fdinfo/" + fd.Name())
			if _, id, ok := strings.Cut(string(b), "fuse_connection:"); ok {
				ids = append(ids, strings.Fields(id)[0])
			}
		}
	}
	return ids
}

// loopBacking returns the device number of the file system that the file behind a loop device lies on.
func loopBacking(n int) (dev uint64, ok bool) {
	f, err := os.Open(fmt.Sprintf("/dev/loop%d", n))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return 0, false
	}
	return info.Device, true
}
