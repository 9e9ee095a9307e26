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
)

func TestMain(m *testing.M) {
	RunStage()
	os.Exit(m.Run())
}

// makeRoot makes a root directory with a shell, a few tools and the given script as /sbin/init.
func makeRoot(t *testing.T, script string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces and mounts")
	}
	t.Setenv("TMPDIR", t.TempDir()) // other tests' guests have their files elsewhere
	root := t.TempDir()
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "etc", "sbin"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tool := range []string{"sh", "sleep", "cat", "hostname"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Skipf("needs the host's %s: %v", tool, err)
		}
		files := []string{path}
		libs, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Skipf("needs a dynamically linked %s", tool)
		}
		for word := range strings.FieldsSeq(string(libs)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
		for _, f := range files {
			copyFile(t, f, filepath.Join(root, f))
		}
		if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		copyFile(t, path, filepath.Join(root, "bin", tool))
	}
	init := filepath.Join(root, "sbin/init")
	if err := os.WriteFile(init, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// hostState is what a guest must leave as it was.
func hostState(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "bench-lab-*"))
	if err != nil {
		t.Fatal(err)
	}
	var other []string // mounts of other programs come and go: only ours count
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "bench-lab") || strings.Contains(line, t.Name()) {
			other = append(other, line)
		}
	}
	return strings.Join(other, "") + name + strings.Join(left, " ")
}

// openFiles is the number of descriptors, after the collector has closed those of forgotten files.
func openFiles(t *testing.T) int {
	t.Helper()
	runtime.GC()
	runtime.GC()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestBoot(t *testing.T) {
	root := makeRoot(t, `
echo "hello from $$ on $(hostname)" >/dev/console
echo changed >/etc/changed
echo booted >/run/bench-booted
sleep 1000 & sleep 1000
`)
	if _, err := Boot(context.Background(), root, Options{Init: "/sbin/init"}); err != nil { // opens epoll for good
		t.Fatal(err)
	}
	before, filesBefore := hostState(t), openFiles(t)
	g, err := Start(context.Background(), root, Options{Init: "/sbin/init", Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if g.Booted <= 0 || g.Booted > 10*time.Second {
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
	if out, err := exec.Command("mkfs.erofs", image, root).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.erofs: %v %s", err, out)
	}
	dir := t.TempDir()
	for range 3 {
		if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v %s", err, out)
		}
		_, err := Boot(context.Background(), dir, Options{Init: "/sbin/init"})
		if out, uerr := exec.Command("umount", dir).CombinedOutput(); uerr != nil {
			t.Fatalf("umount after Boot: %v %s", uerr, out)
		}
		if err != nil {
			t.Fatal(err)
		}
		awaitNoLoop(t, image)
	}
}

// awaitNoLoop waits for the kernel to let go of image's loop device. That comes a moment after umount when somebody
// else, udev or another test's losetup, has the device open just then.
func awaitNoLoop(t *testing.T, image string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, err := exec.Command("losetup", "-j", image).Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(out) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("loop device left: %s", out)
		}
	}
}

func TestBootFails(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
		timeout            time.Duration
		init               string
	}{
		{name: "no marker", script: "echo last words; sleep 1000\n", want: "last words", timeout: 700 * time.Millisecond},
		{name: "init ends", script: "echo giving up; exit 3\n", want: "giving up"},
		{name: "no init", script: "", init: "/sbin/none", want: "running /sbin/none: no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := makeRoot(t, c.script)
			before := hostState(t)
			if c.init == "" {
				c.init = "/sbin/init"
			}
			_, err := Boot(context.Background(), root, Options{Init: c.init, Timeout: c.timeout})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), root) {
				t.Errorf("error %v, want one with %q and the directory", err, c.want)
			}
			if after := hostState(t); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	t.Run("no directory", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("needs root for namespaces and mounts")
		}
		_, err := Boot(context.Background(), "/nonexistent/root", Options{})
		if err == nil || !strings.Contains(err.Error(), "/nonexistent/root") {
			t.Errorf("error %v, want one with the directory", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		root := makeRoot(t, "sleep 1000\n")
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
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
