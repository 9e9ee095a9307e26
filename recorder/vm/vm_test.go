package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/cpio"
	"bootprof/internal/testrig"
	"bootprof/recorder/vm"
	"bootprof/recorder/vm/vmtest"
)

// guestInitrd makes the initramfs of testdata/guest, with a shell and a few programs of this machine.
func guestInitrd(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-o", init, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var a cpio.Archive
	add := func(name, path string) { a.File(name, 0o755, testrig.ReadFile(t, path)) }
	add("init", init)
	libs := map[string]bool{}
	for _, program := range []string{"sh", "stty", "seq", "sleep", "cat"} {
		path, err := exec.LookPath(program)
		testrig.Must(t, err)
		add("bin/"+program, path)
		for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(testrig.Run(t, "ldd", path), -1) {
			libs[lib] = true
		}
	}
	for lib := range libs {
		add(strings.TrimPrefix(lib, "/"), lib)
	}
	a.Dir("proc", 0o755)
	a.Device("dev/console", cpio.ModeChar, 0o600, 5, 1)
	return writeArchive(t, &a)
}

func writeArchive(t *testing.T, a *cpio.Archive) string {
	t.Helper()
	var b bytes.Buffer
	_, err := a.WriteTo(&b)
	testrig.Must(t, err)
	path := filepath.Join(t.TempDir(), "initrd")
	testrig.WriteFile(t, path, b.Bytes())
	return path
}

// start boots the guest of guestInitrd, and ends it with the test.
func start(t *testing.T, o vm.Options) (context.Context, *vm.VM) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	o.Append, o.CPUs = "console=ttyS0 quiet panic=-1 "+o.Append, 1
	o.ConsoleLog = filepath.Join(t.TempDir(), "console.log")
	o.TempDir = t.TempDir()
	v, err := vm.Start(ctx, o)
	testrig.Must(t, err)
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(o.TempDir); len(left) > 0 {
			t.Errorf("Close left %v", left)
		}
		if t.Failed() {
			t.Logf("console:\n%s", v.Console())
		}
	})
	return ctx, v
}

func await(ctx context.Context, t *testing.T, v *vm.VM, re string, from int64) int64 {
	t.Helper()
	end, err := v.WaitConsole(ctx, regexp.MustCompile(re), from)
	testrig.Must(t, err)
	return end
}

// TestGuest boots one guest and does with it what can be done. A boot costs seconds.
func TestGuest(t *testing.T) {
	kernel := vmtest.Kernel(t)
	t.Parallel()
	initrd := guestInitrd(t)
	var extra1, extra2 cpio.Archive
	extra1.File("extra-1", 0o644, []byte("one"))
	extra2.File("extra-2", 0o644, []byte("two"))
	disk := filepath.Join(t.TempDir(), "a,disk")
	testrig.WriteFile(t, disk, strings.Repeat("sector. ", 512))
	ctx, v := start(t, vm.Options{
		Kernel: kernel, Initrds: []string{initrd, writeArchive(t, &extra1), writeArchive(t, &extra2)},
		RTC: time.Date(2000, 2, 3, 4, 5, 6, 0, time.UTC), Net: true,
		Disks: []vm.Disk{{Path: disk, ReadOnly: true, Serial: "lab", Direct: true, AIO: "threads"}},
	})
	await(ctx, t, v, `^order: $`, 0) // an unfinished line
	await(ctx, t, v, `^guest: year 2000$`, 0)
	await(ctx, t, v, `^guest: /extra-1: "one" <nil>$`, 0)
	await(ctx, t, v, `^guest: /extra-2: "two" <nil>$`, 0)

	pos := v.ConsolePos()
	testrig.Must(t, v.Type("hello\n"))
	pos = await(ctx, t, v, `^guest: heard "hello"`, pos)
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	var c *vm.ConsoleError
	if _, err := v.WaitConsole(short, regexp.MustCompile(`heard "hello"`), pos); !errors.As(err, &c) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("what was said before the position was found, or %v", err)
	} else if !strings.Contains(c.Tail, "guest: year 2000") || !strings.Contains(err.Error(), "\n  order:") {
		t.Errorf("the error does not show the last lines: %v", err)
	}

	t.Run("shell", func(t *testing.T) { testShell(ctx, t, v) })
	t.Run("monitor", func(t *testing.T) { testMonitor(ctx, t, v) })

	testrig.Must(t, v.Type("poweroff\n"))
	if end, err := v.Wait(ctx); err != nil || end != vm.EndPowerOff {
		t.Errorf("the guest powered off: %q, %v", end, err)
	}
	if _, err := v.WaitConsole(ctx, regexp.MustCompile("never said"), 0); !errors.Is(err, vm.ErrEnded) {
		t.Errorf("waiting for a machine that has ended: %v", err)
	}
	if _, _, err := v.Shell(ctx, "true"); !errors.Is(err, vm.ErrEnded) {
		t.Errorf("the shell of a machine that has ended: %v", err)
	}
	if err := v.Powerdown(ctx); err == nil {
		t.Error("the power button of a machine that has ended: no error")
	}
}

func testShell(ctx context.Context, t *testing.T, v *vm.VM) {
	long := strings.Repeat("0123456789", 2000)
	tests := []struct {
		name, command, output string
		code                  int
	}{
		{"output", "echo one; echo two", "one\ntwo\n", 0},
		{"no line end", "printf abc", "abc", 0},
		{"nothing", "true", "", 0},
		{"empty lines", "echo; echo", "\n\n", 0},
		{"status", "exit 3", "", 3},
		{"status of the last", "false", "", 1},
		{"stderr", "echo oops >&2", "oops\n", 0},
		{"no stdin", "cat", "", 0},
		{"quotes", `echo 'it'"'"'s' "$((1+1))" \\ 100% "a\tb"`, "it's 2 \\ 100% a\tb\n", 0},
		{"lines", "for i in 1 2\ndo\n\techo line $i\ndone", "line 1\nline 2\n", 0},
		{"here document", "cat <<E\ntext\nE", "text\n", 0},
		{"long", "echo " + long, long + "\n", 0},
		{"bytes", "echo 'gr\u00fc\u00df dich'", "gr\u00fc\u00df dich\n", 0},
		{"syntax error does not end it", "if", "", 2},
		{"much", "seq 20000", seq(20000), 0},
	}
	for _, tt := range tests {
		output, code, err := v.Shell(ctx, tt.command)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if tt.name == "syntax error does not end it" {
			output = "" // the shell's own words
		}
		if output != tt.output || code != tt.code {
			t.Errorf("%s: got status %d, %q, want %d, %q", tt.name, code, ends(output), tt.code, ends(tt.output))
		}
	}
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	pos, ended := v.ConsolePos(), make(chan error)
	go func() {
		_, _, err := v.Shell(short, "echo it runs >/dev/console; sleep 1000")
		ended <- err
	}()
	await(ctx, t, v, `it runs`, pos)
	cancel()
	var c *vm.ConsoleError
	if err := <-ended; !errors.As(err, &c) || !errors.Is(err, context.Canceled) {
		t.Errorf("a command that does not end: %v", err)
	}
	if output, code, err := v.Shell(ctx, "echo after"); output != "after\n" || code != 0 || err != nil {
		t.Errorf("after an interrupted command: %q, %d, %v", output, code, err)
	}
}

func seq(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i+1)
	}
	return b.String()
}

func ends(s string) string {
	if len(s) < 200 {
		return s
	}
	return s[:100] + "..." + s[len(s)-100:]
}

func testMonitor(ctx context.Context, t *testing.T, v *vm.VM) {
	carrier := func() string {
		out, _, err := v.Shell(ctx, "cat /proc/uptime")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	testrig.Must(t, v.Pause(ctx))
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	pos := v.ConsolePos()
	testrig.Must(t, v.Type("paused\n"))
	if _, err := v.WaitConsole(short, regexp.MustCompile(`heard "paused"`), pos); err == nil {
		t.Error("a paused guest answers")
	}
	testrig.Must(t, v.Resume(ctx))
	await(ctx, t, v, `heard "paused"`, pos)
	if carrier() == "" {
		t.Error("no answer after the pause")
	}
	for _, up := range []bool{false, true} {
		if err := v.SetLink(ctx, up); err != nil {
			t.Errorf("link %v: %v", up, err)
		}
	}
	if err := v.QMP(ctx, "no-such-command", nil); err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("an unknown command: %v", err)
	}
}

func TestReboot(t *testing.T) {
	kernel := vmtest.Kernel(t)
	t.Parallel()
	ctx, v := start(t, vm.Options{Kernel: kernel, Initrds: []string{guestInitrd(t)}})
	await(ctx, t, v, `^order: $`, 0)
	testrig.Must(t, v.Type("reboot\n"))
	if end, err := v.Wait(ctx); err != nil || end != vm.EndReboot {
		t.Errorf("the guest rebooted: %q, %v", end, err)
	}
}

func TestProcessEnds(t *testing.T) {
	kernel := vmtest.Kernel(t)
	t.Run("quit", func(t *testing.T) {
		ctx, v := start(t, vm.Options{Kernel: kernel})
		testrig.Must(t, v.Quit(ctx))
		if end, err := v.Wait(ctx); err != nil || end != "host-qmp-quit" {
			t.Errorf("%q, %v", end, err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		ctx, v := start(t, vm.Options{Kernel: kernel})
		syscall.Kill(v.Pid(), syscall.SIGKILL)
		var q *vm.QEMUError
		if end, err := v.Wait(ctx); end != "" || !errors.As(err, &q) {
			t.Errorf("%q, %v", end, err)
		}
	})
	t.Run("close", func(t *testing.T) {
		_, v := start(t, vm.Options{Kernel: kernel})
		testrig.Must(t, v.Close())
		if err := syscall.Kill(v.Pid(), 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("QEMU's process after Close: %v", err)
		}
	})
}

func TestStartErrors(t *testing.T) {
	kernel := vmtest.Kernel(t)
	log := filepath.Join(t.TempDir(), "log")
	tests := []struct {
		name string
		o    vm.Options
		want string
	}{
		{"no kernel", vm.Options{ConsoleLog: log}, "needs a kernel"},
		{"no such kernel", vm.Options{Kernel: "/no/such", ConsoleLog: log}, "/no/such"},
		{"no such disk", vm.Options{Kernel: kernel, ConsoleLog: log, Disks: []vm.Disk{{Path: "/no/such"}}}, "/no/such"},
		{"no such initrd", vm.Options{Kernel: kernel, ConsoleLog: log, Initrds: []string{"/no/such", "/no/other"}}, "/no/such"},
		{"no place for the log", vm.Options{Kernel: kernel, ConsoleLog: "/no/such/log"}, "console log"},
		{"long serial", vm.Options{Kernel: kernel, ConsoleLog: log, Disks: []vm.Disk{{Serial: strings.Repeat("x", 21)}}}, "20 bytes"},
		{"unknown argument", vm.Options{Kernel: kernel, ConsoleLog: log, ExtraArgs: []string{"-no-such-option"}}, "no-such-option"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.TempDir = t.TempDir()
			tt.o.Accel.Name = vm.TCG
			v, err := vm.Start(t.Context(), tt.o)
			if err == nil {
				v.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if left, _ := os.ReadDir(tt.o.TempDir); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
	t.Run("no QEMU", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := vm.Start(t.Context(), vm.Options{Kernel: kernel, ConsoleLog: log}); !errors.Is(err, vm.ErrNoQEMU) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := vm.Start(ctx, vm.Options{Kernel: kernel, ConsoleLog: log, Accel: vm.Accel{Name: vm.TCG}}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
