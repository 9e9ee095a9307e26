package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

func TestArgs(t *testing.T) {
	base := Options{Kernel: "k"}
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   string // in the words, joined
		not    string
	}{
		{"defaults", func(*Options) {}, "-smp 2 -m 1024 -accel tcg,thread=multi -cpu max", "-netdev"},
		{"memory", func(o *Options) { o.MemoryMiB, o.CPUs = 512, 1 }, "-smp 1 -m 512", ""},
		{"kvm", func(o *Options) { o.Accel.Name = KVM }, "-accel kvm -cpu host", "tcg"},
		{"host's clock", func(*Options) {}, "-rtc base=utc", ""},
		{"another clock", func(o *Options) { o.RTC = time.Date(2000, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)) }, "-rtc base=2000-01-02T02:04:05", ""},
		{"net", func(o *Options) { o.Net, o.NetOptions = true, "restrict=on" }, "-netdev user,id=net0,restrict=on -device virtio-net-pci,id=nic0,netdev=net0,romfile=", ""},
		{"disk", func(o *Options) { o.Disks = []Disk{{Path: "a,b"}} }, "-drive if=none,id=disk0,format=raw,file=a,,b -device virtio-blk-pci,drive=disk0", "readonly"},
		{"direct disk", func(o *Options) {
			o.Disks = []Disk{{Path: "d", ReadOnly: true, Direct: true, AIO: "native", Serial: "s"}}
		},
			"file=d,readonly=on,file.locking=off,cache=none,aio=native -device virtio-blk-pci,drive=disk0,serial=s", ""},
		{"two disks", func(o *Options) { o.Disks = []Disk{{Path: "d"}, {Path: "e"}} }, "-drive if=none,id=disk1,format=raw,file=e", ""},
		{"append", func(o *Options) { o.Append = "a b=c" }, "-append a b=c", "-initrd"},
		{"extra", func(o *Options) { o.ExtraArgs = []string{"-x", "y"} }, " -x y", ""},
	} {
		o := base
		tt.change(&o)
		got := strings.Join(args(o, "", "/q", "/s"), " ")
		if !strings.Contains(got, tt.want) || tt.not != "" && strings.Contains(got, tt.not) {
			t.Errorf("%s: %s\nwant %q, and not %q", tt.name, got, tt.want, tt.not)
		}
	}
	if got := strings.Join(args(base, "i", "/q", "/s"), " "); !strings.Contains(got, "-initrd i") {
		t.Errorf("no initrd in %s", got)
	}
}

// TestCommandLines has a real shell read what is sent to the guest's.
func TestCommandLines(t *testing.T) {
	for _, command := range []string{"echo one", "printf '%s|' \"a b\" 'c$d' \\e; exit 7", "cat <<E\n`echo x` $HOME'\nE", strings.Repeat("echo long; ", 500)} {
		want := exec.Command("sh", "-c", command)
		wantOut, _ := want.Output()
		lines := commandLines(command, 42)
		for line := range strings.Lines(lines) {
			if len(line) > lineBytes+100 {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
		got := exec.Command("sh")
		got.Stdin = strings.NewReader(lines)
		out, err := got.Output()
		if err != nil {
			t.Fatal(err)
		}
		r := answerReader{begin: []byte("@@begin-42@@\n"), end: endMarker(42)}
		for i := range out { // as it comes over a serial line
			if r.read(out[:i+1]) != (i == len(out)-1) {
				t.Fatalf("the answer ends after %d of %d bytes", i+1, len(out))
			}
		}
		if r.output != string(wantOut) || r.code != want.ProcessState.ExitCode() {
			t.Errorf("%q: %q, %d; want %q, %d", command, r.output, r.code, wantOut, want.ProcessState.ExitCode())
		}
	}
}

// terminal starts an interactive shell on a pseudo-terminal, and returns the other end.
func terminal(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { ours.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	c := exec.Command("/bin/sh", "-i")
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return ours
}

// TestHello has a real shell miss the beginning of a hello, anywhere: the next one must be understood all the same.
func TestHello(t *testing.T) {
	hello := helloLines(1)
	for i := range hello {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			tty := terminal(t)
			tty.SetReadDeadline(time.Now().Add(testrig.Patience))
			if _, err := tty.WriteString(hello[i:] + helloLines(2)); err != nil {
				t.Fatal(err)
			}
			var said []byte
			for b := make([]byte, 4096); !answersHello(said, 2, 2); {
				n, err := tty.Read(b)
				said = append(said, b[:n]...)
				if err != nil {
					t.Fatalf("no answer: %v; it said %q", err, said)
				}
			}
		})
	}
	for said, want := range map[string]bool{
		"@@ready-5-s@@": true, "@@ready-5-@@": true, "@@ready-5-himBHs@@": false, "@@ready-$((5))-$-@@": false, "@@ready-4-s@@": false,
		"# @@ready-6-is@@\n@@ready-7-s@@": true, "@@ready-8-s@@": false,
	} {
		if answersHello([]byte(said), 5, 7) != want {
			t.Errorf("%q: want %v", said, want)
		}
	}
}

func TestJoinInitrds(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for _, content := range []string{"12345", "1234", "1"} {
		p := filepath.Join(dir, "i"+content)
		testrig.WriteFile(t, p, content)
		paths = append(paths, p)
	}
	out, err := joinInitrds(dir, paths)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(out); string(b) != "12345\x00\x00\x0012341\x00\x00\x00" {
		t.Errorf("%q", b)
	}
	if out, err := joinInitrds(dir, paths[:1]); err != nil || out != paths[0] {
		t.Errorf("a single one: %q, %v", out, err)
	}
}
