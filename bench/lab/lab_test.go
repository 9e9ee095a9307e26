package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

func TestMain(m *testing.M) {
	RunStage()
	os.Exit(m.Run())
}

// makeRoot makes a root directory with a shell, a few tools and the given script as /sbin/init.
func makeRoot(t *testing.T, script string) string {
	t.Helper()
	testrig.NeedRoot(t)
	t.Setenv("TMPDIR", t.TempDir()) // other tests' guests have their files elsewhere
	root := t.TempDir()
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "etc", "sbin"} {
		testrig.Must(t, os.Mkdir(filepath.Join(root, d), 0o755))
	}
	for _, tool := range []string{"sh", "sleep", "cat", "hostname"} {
		testrig.NeedProgram(t, tool)
		path, err := exec.LookPath(tool)
		testrig.Must(t, err)
		files := []string{path}
		for word := range strings.FieldsSeq(testrig.Run(t, "ldd", path)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
		for _, f := range files {
			copyFile(t, f, filepath.Join(root, f))
		}
		copyFile(t, path, filepath.Join(root, "bin", tool))
	}
	testrig.Must(t, os.WriteFile(filepath.Join(root, "sbin/init"), []byte("#!/bin/sh\n"+script), 0o755))
	return root
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	testrig.WriteFile(t, to, testrig.ReadFile(t, from))
	testrig.Must(t, os.Chmod(to, 0o755))
}

// hostState is what a guest must leave as it was.
func hostState(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	testrig.Must(t, err)
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "bench-lab-*"))
	testrig.Must(t, err)
	state := []string{name}
	for _, m := range testrig.Mounts() { // mounts of other programs come and go: only ours count
		if strings.Contains(m.Path, "bench-lab") || strings.Contains(m.Path, t.Name()) {
			state = append(state, m.Path)
		}
	}
	return strings.Join(append(state, left...), "\n")
}

// openFiles is the number of descriptors, after the collector has closed those of forgotten files.
func openFiles(t *testing.T) int {
	t.Helper()
	runtime.GC()
	runtime.GC()
	fds, err := os.ReadDir("/proc/self/fd")
	testrig.Must(t, err)
	return len(fds)
}

func TestBoot(t *testing.T) {
	root := makeRoot(t, `
echo "hello from $$ on $(hostname)" >/dev/console
echo changed >/etc/changed
echo booted >/run/bench-booted
sleep 1000 & sleep 1000
`)
	if _, err := Boot(t.Context(), root, Options{Init: "/sbin/init"}); err != nil { // opens epoll for good
		t.Fatal(err)
	}
	before, filesBefore := hostState(t), openFiles(t)
	g, err := Start(t.Context(), root, Options{Init: "/sbin/init", Timeout: testrig.Patience})
	if err != nil {
		t.Fatal(err)
	}
	if g.Booted <= 0 {
		t.Errorf("booted after %v", g.Booted)
	}
	group := g.group.name
	if b, err := os.ReadFile("/proc/" + strconv.Itoa(g.PID()) + "/cgroup"); err != nil || !bytes.Contains(b, []byte(group)) {
		t.Errorf("cgroups of process 1: %v\n%s", err, b)
	}
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(g.Console, "hello from 1 on lab") {
		t.Errorf("console: %q", g.Console)
	}
	if err := unix.Kill(g.PID(), 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process 1 after Stop: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/changed")); !os.IsNotExist(err) {
		t.Errorf("the guest wrote to the lower layer: %v", err)
	}
	if after := hostState(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	if after := openFiles(t); after > filesBefore {
		t.Errorf("%d descriptors before, %d after", filesBefore, after)
	}
}

// TestRootIsFreeAgain mounts a file system, boots it and unmounts it at once: a mount that a guest still held would
// keep its loop device or tmpfs busy, and its files alive.
func TestRootIsFreeAgain(t *testing.T) {
	root := makeRoot(t, "echo booted >/run/bench-booted; sleep 1000\n")
	image := filepath.Join(t.TempDir(), "image")
	testrig.NeedDevices(t, "/dev/loop-control")
	testrig.Run(t, "mkfs.erofs", image, root)
	dir := t.TempDir()
	for range 3 {
		testrig.Run(t, "mount", "-t", "erofs", "-o", "loop,ro", image, dir)
		_, err := Boot(t.Context(), dir, Options{Init: "/sbin/init"})
		if out, uerr := exec.Command("umount", dir).CombinedOutput(); uerr != nil {
			t.Fatalf("umount after Boot: %v %s", uerr, out)
		}
		testrig.Must(t, err)
		// That comes a moment after umount when somebody else, udev or another test's losetup, has the
		// device open just then.
		testrig.Eventually(t, "the kernel to let go of the loop device", func() bool {
			return testrig.Run(t, "losetup", "-j", image) == ""
		})
	}
}

func TestBootFails(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
		timeout            time.Duration
		init               string
	}{
		{name: "no marker", script: "echo last words; sleep 1000\n", want: "last words", timeout: 300 * time.Millisecond},
		{name: "init ends", script: "echo giving up; exit 3\n", want: "giving up"},
		{name: "no init", script: "", init: "/sbin/none", want: "running /sbin/none: no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := makeRoot(t, c.script)
			before := hostState(t)
			if c.init == "" {
				c.init = "/sbin/init"
			}
			_, err := Boot(t.Context(), root, Options{Init: c.init, Timeout: c.timeout})
			for c.timeout > 0 && c.timeout < testrig.Patience && err != nil && !strings.Contains(err.Error(), c.want) {
				c.timeout *= 2 // a busy machine had no time yet for the script's first line
				_, err = Boot(t.Context(), root, Options{Init: c.init, Timeout: c.timeout})
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), root) {
				t.Errorf("error %v, want one with %q and the directory", err, c.want)
			}
			if after := hostState(t); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	t.Run("no directory", func(t *testing.T) {
		testrig.NeedRoot(t)
		_, err := Boot(t.Context(), "/nonexistent/root", Options{})
		if err == nil || !strings.Contains(err.Error(), "/nonexistent/root") {
			t.Errorf("error %v, want one with the directory", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		root := makeRoot(t, "sleep 1000\n")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := Boot(ctx, root, Options{Init: "/sbin/init"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the context's", err)
		}
	})
}

func TestFailedUnits(t *testing.T) {
	console := "[\x1b[0;32m  OK  \x1b[0m] Started a.service\r\n[\x1b[0;1;31mFAILED\x1b[0m] Failed to start b.service - B.\r\n"
	got := failedUnits(console)
	if len(got) != 1 || got[0] != "[FAILED] Failed to start b.service - B." {
		t.Errorf("%q", got)
	}
}
