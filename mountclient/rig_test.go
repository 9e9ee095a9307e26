package mountclient

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// A rig is a mount of a test pack, and what is known of it to see that it goes.
type rig struct {
	*Mounted
	t    testing.TB
	dir  string // where it is mounted
	run  string // run directory
	loop int    // number of the loop device; -1: none
	sb   uint64 // device number of the FUSE file system behind it
}

// mountPack mounts what s serves.
func mountPack(t testing.TB, s *faultserver.Server, change func(*MountOptions)) *rig {
	t.Helper()
	o := mountOptions(t, s.URL("pack.bpk"), change)
	if o.CacheDir != "" {
		afterForks(o.CacheDir)
	}
	m, err := Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Mounted: m, t: t, dir: o.Dir, run: o.RunDir, loop: -1}
	var st unix.Stat_t
	if err := unix.Stat(o.Dir, &st); err != nil {
		t.Fatal(err)
	}
	if onLoop := unix.Major(st.Dev) == 7; onLoop {
		r.loop = int(unix.Minor(st.Dev))
		r.sb, _ = loopBacking(r.loop)
	} else if o.Loop {
		t.Errorf("%s lies on device %d:%d, not on a loop device", o.Dir, unix.Major(st.Dev), unix.Minor(st.Dev))
	}
	if !testrig.IsMounted(o.Dir) {
		t.Errorf("nothing is mounted at %s", o.Dir)
	}
	return r
}

// mountOptions are options for a mount of url at a new directory.
func mountOptions(t testing.TB, url string, change func(*MountOptions)) MountOptions {
	t.Helper()
	tmp := t.TempDir()
	o := MountOptions{Options: Options{URL: url, StartTimeout: testrig.Patience, Log: testLog(t)}, Dir: tmp + "/mnt", RunDir: runDir(t)}
	if err := os.Mkdir(o.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	return o
}

// runDir makes a directory whose name is short enough for a socket in it.
func runDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// compare has another process compare the mounted tree with its source.
func (r *rig) compare(p *testPack) {
	r.t.Helper()
	if code, out := runRole(r.t, roleCompare, p.source, r.dir); code != 0 {
		r.t.Errorf("the mounted tree differs from its source:\n%s", out)
	}
}

// compareDuring starts the comparison, calls f while it runs, and waits for its end.
func (r *rig) compareDuring(p *testPack, f func()) {
	r.t.Helper()
	cmd, out := role(roleCompare, p.source, r.dir)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	f()
	if err := cmd.Wait(); err != nil {
		r.t.Errorf("the mounted tree differs from its source: %v\n%s", err, out)
	}
}

// afterForks waits until no child of another test, which has not closed everything on its exec yet, holds copies of files
// below dir that were closed here: a cache is still locked by them. It is called before a cache is opened
// again.
func afterForks(dir string) {
	syscall.ForkLock.RLock() // waits until a child that is being forked can be seen; what comes later has no copies
	//lint:ignore SA2001 the lock is only waited for
	syscall.ForkLock.RUnlock()
	testrig.Await(testrig.Patience, func() bool { return !heldByChild(dir) })
}

func heldByChild(dir string) bool {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for _, pid := range strings.Fields(string(children)) {
			links, _ := filepath.Glob("/proc/" + pid + "/fd/*")
			for _, l := range links {
				if to, _ := os.Readlink(l); strings.HasPrefix(to, dir+"/") {
					return true
				}
			}
		}
	}
	return false
}

// unmount ends the mount and checks that nothing of it is left.
func (r *rig) unmount() {
	r.t.Helper()
	// Busy for a moment: children of other tests that have not come to their exec hold copies of open files, and a look at
	// /proc/PID/fd, as the watchdog takes, holds what it finds there.
	var err error
	testrig.Await(testrig.Patience, func() bool { err = r.Unmount(); return !errors.Is(err, unix.EBUSY) })
	testrig.Must(r.t, err)
	r.ended()
}

// ended waits for the end of a mount that was unmounted, and checks that nothing of it is left.
func (r *rig) ended() {
	r.t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			r.t.Errorf("the end of the mount: %v", err)
		}
	case <-time.After(testrig.Patience):
		r.t.Fatal("the client does not end after the unmount")
	}
	r.gone()
}

func (r *rig) gone() {
	r.t.Helper()
	if testrig.IsMounted(r.dir) {
		r.t.Errorf("%s is still mounted", r.dir)
	}
	if r.loop >= 0 {
		testrig.Eventually(r.t, "loop device is let go", func() bool {
			dev, attached := loopBacking(r.loop)
			return !attached || dev != r.sb
		})
	}
	if left, _ := os.ReadDir(r.run); len(left) > 0 {
		r.t.Errorf("left in the run directory: %v", left)
	}
}

// openFiles returns what the descriptors of this process name.
func openFiles() (out []string) {
	ents, _ := os.ReadDir("/proc/self/fd")
	for _, e := range ents {
		if l, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out = append(out, l)
		}
	}
	return out
}

// A census counts what a mount could leave in this process and on this machine. Tests that take one must not
// run in parallel.
type census struct {
	goroutines int
	files      map[string]int
	temp       int
}

func takeCensus() census {
	c := census{goroutines: runtime.NumGoroutine(), files: map[string]int{}}
	for _, l := range openFiles() {
		for _, kind := range []string{"/dev/fuse", "/dev/loop", "/memfd:bootprof", "socket:"} {
			if strings.HasPrefix(l, kind) {
				c.files[kind]++
			}
		}
	}
	ents, _ := os.ReadDir(os.TempDir())
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), "bootprof-") {
			c.temp++
		}
	}
	return c
}

// check waits until everything that came since the census is gone.
func (c census) check(t testing.TB) {
	t.Helper()
	var now census
	if testrig.Await(testrig.Patience, func() bool {
		now = takeCensus()
		more := now.goroutines > c.goroutines || now.temp > c.temp
		for kind, n := range now.files {
			more = more || n > c.files[kind]
		}
		return !more
	}) {
		return
	}
	b := make([]byte, 1<<20)
	t.Errorf("left behind: %d goroutines more, files %v (were %v), %d temporary directories more\n%s",
		now.goroutines-c.goroutines, now.files, c.files, now.temp-c.temp, b[:runtime.Stack(b, true)])
}

// outage stops the server for d, from the moment that a request was under way or d/2 has passed.
func outage(s *faultserver.Server, d time.Duration) {
	s.Wait(len(s.Requests())+1, d/2)
	s.Stop()
	time.Sleep(d) // the length of the outage is what is tested
	if err := s.Start(); err != nil {
		panic(err)
	}
}

// hot waits until the boot zone is complete.
func (r *rig) hot() {
	r.t.Helper()
	testrig.Eventually(r.t, "the boot zone", func() bool { return r.Client.hot.Load() > 0 })
}
