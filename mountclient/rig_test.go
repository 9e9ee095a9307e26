package mountclient

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/faultserver"
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
	if !isMounted(o.Dir) {
		t.Errorf("nothing is mounted at %s", o.Dir)
	}
	return r
}

// mountOptions are options for a mount of url at a new directory.
func mountOptions(t testing.TB, url string, change func(*MountOptions)) MountOptions {
	t.Helper()
	tmp := t.TempDir()
	o := MountOptions{Options: Options{URL: url, StartTimeout: testWait, Log: testLog(t)}, Dir: tmp + "/mnt", RunDir: runDir(t)}
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

// unmount ends the mount and checks that nothing of it is left.
func (r *rig) unmount() {
	r.t.Helper()
	if err := r.Unmount(); err != nil {
		r.t.Fatal(err)
	}
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
	case <-time.After(testWait):
		r.t.Fatal("the client does not end after the unmount")
	}
	r.gone()
}

func (r *rig) gone() {
	r.t.Helper()
	if isMounted(r.dir) {
		r.t.Errorf("%s is still mounted", r.dir)
	}
	if r.loop >= 0 {
		eventually(r.t, "loop device is let go", testWait, func() bool {
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
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		now = takeCensus()
		more := now.goroutines > c.goroutines || now.temp > c.temp
		for kind, n := range now.files {
			more = more || n > c.files[kind]
		}
		if !more {
			return
		}
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
	eventually(r.t, "the boot zone", testWait, func() bool { return r.Client.hot.Load() > 0 })
}
