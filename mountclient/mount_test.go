package mountclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/faultserver"
	"bootprof/internal/loopdev"
	"bootprof/internal/testrig"
)

// The mounted tree is the packed one, and after the unmount nothing is left.
func TestMountAndUnmount(t *testing.T) {
	testrig.Slow(t)
	for _, procs := range []int{runtime.GOMAXPROCS(0), 1} {
		for _, kind := range []string{hotAndCold, noZone, small, hotAndCold + ", loop"} {
			t.Run(fmt.Sprintf("%s, GOMAXPROCS=%d", kind, procs), func(t *testing.T) {
				watchdog(t)
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				kind, loop := strings.CutSuffix(kind, ", loop")
				p := packOf(t, kind)
				s := p.serve(t)
				before := takeCensus()
				r := mountPack(t, s, func(o *MountOptions) { o.Loop = loop })
				r.compare(p)
				r.compare(p)
				st := r.Status()
				if st.Phase != "running" || st.BootPagesLoaded != st.BootPages || st.BootPages != int64(p.pack.Boot.Pages()) ||
					st.ReadySeconds <= 0 || st.Requests != int64(len(s.Requests())) || st.Retries != 0 || st.DamagedChunks != 0 {
					t.Errorf("status: %+v", st)
				}
				if kind == hotAndCold && st.PushedPages < st.BootPages/2 {
					t.Errorf("%d of %d boot pages pushed", st.PushedPages, st.BootPages)
				}
				r.unmount()
				s.Stop()
				before.check(t)
			})
		}
	}
}

func TestMountRaw(t *testing.T) {
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	before := takeCensus()
	r := mountPack(t, s, func(o *MountOptions) { o.Raw = true })
	if ents, err := os.ReadDir(r.dir); err != nil || len(ents) > 1 {
		t.Errorf("%v, %v", ents, err)
	}
	code, out := runRole(t, roleSum, r.dir+"/image")
	if want := fmt.Sprintf("%x\n", sha256.Sum256(p.image)); code != 0 || out != want {
		t.Errorf("the image file has the SHA-256 %s, want %s", out, want)
	}
	if st, err := os.Stat(r.dir + "/image"); err != nil || st.Size() != int64(len(p.image)) || st.Mode() != 0o400 {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := os.OpenFile(r.dir+"/image", os.O_RDWR, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("opening the image file for writing: %v", err)
	}
	if _, err := os.Stat(r.dir + "/other"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another name: %v", err)
	}
	r.unmount()
	s.Stop()
	before.check(t)
}

// While the mount is in use it cannot be unmounted; a lazy unmount lets the user finish, and then ends it.
func TestMountInUse(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	r := mountPack(t, p.serve(t), nil)
	user := exec.Command("/bin/sh", "-c", `exec 3<"$1" && echo open && read go && exec sha256sum <&3`, "sh", r.dir+"/big/file-0")
	in, _ := user.StdinPipe()
	stdout, _ := user.StdoutPipe()
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if err := r.Unmount(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmounting while in use: %v", err)
	}
	if err := unix.Unmount(r.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("the client ended while a file was open: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	fmt.Fprintln(in, "go")
	in.Close()
	sum, err := io.ReadAll(stdout)
	if err := errors.Join(err, user.Wait()); err != nil {
		t.Error(err)
	}
	want, _ := os.ReadFile(p.source + "/big/file-0")
	if w := fmt.Sprintf("%x", sha256.Sum256(want)); !strings.HasPrefix(string(sum), w) {
		t.Errorf("read after the lazy unmount: %s, want %s", sum, w)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testrig.Patience):
		t.Fatal("the client does not end with its last user")
	}
	r.gone()
}

// umount(8), as a user would.
func TestUmountCommand(t *testing.T) {
	t.Parallel()
	watchdog(t)
	r := mountPack(t, packOf(t, small).serve(t), nil)
	testrig.Run(t, "umount", r.dir)
	r.ended()
}

// Two mounts of one pack by one machine do not disturb each other.
func TestMountTwice(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	cache := t.TempDir()
	a := mountPack(t, s, func(o *MountOptions) { o.CacheDir = cache })
	b := mountPack(t, s, func(o *MountOptions) { o.CacheDir = cache })
	b.compare(p)
	a.unmount()
	b.compare(p)
	b.unmount()
}

// A small memory budget costs time, not bytes.
func TestMountSmallMemory(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	r := mountPack(t, p.serve(t), func(o *MountOptions) { o.MemoryBytes = 1 << 20 })
	r.compare(p)
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err == nil {
		r.compare(p)
	}
	r.unmount()
}

// settle's readahead: none while booting.
func TestMountReadahead(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	r := mountPack(t, packOf(t, small).serve(t), func(o *MountOptions) { o.Loop = true })
	if kb, err := loopdev.Readahead(r.loop); err != nil || kb != 0 {
		t.Errorf("readahead of the loop device while booting: %d KiB, %v", kb, err)
	}
	r.unmount()
}

// Push and READ of the same pages meet in the kernel: many readers while the pages come slowly, one thread,
// and nothing locks up.
func TestPushAndReadDoNotDeadlock(t *testing.T) {
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	for _, procs := range []int{1, 2} {
		for _, how := range []string{"file", "loop", "raw"} {
			t.Run(fmt.Sprintf("GOMAXPROCS=%d, %s", procs, how), func(t *testing.T) {
				watchdog(t)
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				s := p.serve(t)
				s.Script(func(r faultserver.Request) *faultserver.Fault {
					if r.Off < p.pack.Header.Boot.PackOff+p.pack.Header.Boot.Len {
						return faultserver.Slow(3 << 20)
					}
					return nil
				})
				r := mountPack(t, s, func(o *MountOptions) { o.Raw, o.Loop = how == "raw", how == "loop" })
				var readers []*exec.Cmd
				for range 3 {
					cmd, out := role(roleCompare, p.source, r.dir)
					if how == "raw" {
						cmd, out = role(roleSum, r.dir+"/image")
					}
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					readers = append(readers, cmd)
					defer func() {
						if t.Failed() {
							t.Logf("reader: %s", out)
						}
					}()
				}
				for _, cmd := range readers {
					if err := cmd.Wait(); err != nil {
						t.Error(err)
					}
				}
				r.unmount()
			})
		}
	}
}

// startMount runs the mount command in the background mode and returns the process that it left behind.
func startMount(t *testing.T, s *faultserver.Server, mode string) (dir, run string, pid int) {
	t.Helper()
	dir, run = t.TempDir(), runDir(t)
	code, out := runRole(t, roleMount, run, "", testrig.Patience.String(), "0", mode, "bg", s.URL("pack"), dir)
	if code != ExitOK || out != "" {
		t.Fatalf("exit code %d, said %q", code, out)
	}
	all, err := ReadStatus(run)
	if err != nil || len(all) != 1 || all[0].Dir != dir {
		t.Fatalf("status: %+v, %v", all, err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = syscall.Kill(all[0].PID, syscall.SIGKILL)
	})
	return dir, run, all[0].PID
}

func processEnds(t *testing.T, pid int, run string) {
	t.Helper()
	testrig.Eventually(t, "the client's process ends", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(b, []byte(") Z "))
	})
	if left, _ := os.ReadDir(run); len(left) > 0 {
		t.Errorf("left in the run directory: %v", left)
	}
}

// The command returns when the mount is ready; the process behind it ends with umount, or with SIGTERM once
// nobody uses the mount.
func TestRunMount(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	t.Run("umount", func(t *testing.T) {
		dir, run, pid := startMount(t, s, "fs")
		if code, out := runRole(t, roleCompare, p.source, dir); code != 0 {
			t.Error(out)
		}
		if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); cwd != "/" {
			t.Errorf("the client stays in directory %s", cwd)
		}
		testrig.Unmount(t, dir)
		processEnds(t, pid, run)
	})
	t.Run("raw", func(t *testing.T) {
		dir, run, pid := startMount(t, s, "raw")
		if _, out := runRole(t, roleSum, dir+"/image"); out != fmt.Sprintf("%x\n", sha256.Sum256(p.image)) {
			t.Errorf("SHA-256 %s", out)
		}
		testrig.Unmount(t, dir)
		processEnds(t, pid, run)
	})
	t.Run("SIGTERM", func(t *testing.T) {
		dir, run, pid := startMount(t, s, "fs")
		user := exec.Command("sleep", "100")
		user.Dir = dir
		if err := user.Start(); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
		time.Sleep(300 * time.Millisecond)
		if code, out := runRole(t, roleCompare, p.source, dir); code != 0 {
			t.Errorf("after SIGTERM while in use: %s", out)
		}
		_ = user.Process.Kill()
		_ = user.Wait()
		_ = syscall.Kill(pid, syscall.SIGTERM)
		processEnds(t, pid, run)
		if testrig.IsMounted(dir) {
			t.Error("still mounted")
		}
	})
	t.Run("status of a killed client", func(t *testing.T) {
		dir, run, pid := startMount(t, s, "fs")
		_ = syscall.Kill(pid, syscall.SIGKILL)
		testrig.Eventually(t, "the client's process ends", func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || bytes.Contains(b, []byte(") Z "))
		})
		if all, err := ReadStatus(run); err != nil || len(all) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
		if left, _ := os.ReadDir(run); len(left) > 0 {
			t.Errorf("the socket is left: %v", left)
		}
		// Readers get an error; they do not hang.
		if code, _ := runRole(t, roleTouch, filepath.Join(dir, "big/file-1")); code == 0 {
			t.Log("all of the file was in the page cache")
		}
	})
}

// An interrupted start ends, wherever it waits, and leaves nothing.
func TestMountInterrupted(t *testing.T) {
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, noZone)
	for name, c := range map[string]struct {
		script   faultserver.Script
		requests int // that have come when the start is interrupted
	}{
		"before the header": {faultserver.Always(faultserver.Hang()), len(openingSegments)},
		"in mount(2)":       {faultserver.After(len(openingSegments), faultserver.Hang()), len(openingSegments) + 1},
		"while refused":     {faultserver.Always(faultserver.Status(503)), len(openingSegments) + 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := p.serve(t)
			s.Script(c.script)
			before := takeCensus()
			o := mountOptions(t, s.URL("pack"), func(o *MountOptions) { o.StartTimeout = 0 })
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				s.Wait(c.requests, testrig.Patience)
				cancel()
			}()
			if _, err := Mount(ctx, o); !errors.Is(err, context.Canceled) || ExitCode(err) != ExitSignal {
				t.Errorf("%v, exit code %d", err, ExitCode(err))
			}
			s.Stop()
			if testrig.IsMounted(o.Dir) {
				t.Error("left mounted")
			}
			before.check(t)
		})
	}
}
