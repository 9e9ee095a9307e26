package loopdev

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needLoop(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("no loop driver: %v", err)
	}
}

// image makes a file of n random bytes.
func image(t *testing.T, n int) (*os.File, []byte) {
	t.Helper()
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	p := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, b
}

func attach(t *testing.T, f *os.File, o Options) *Device {
	t.Helper()
	d, err := Attach(f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Detach(); awaitGone(t, f.Name()) })
	return d
}

// awaitGone waits until no loop device has the file any more; udevd may keep one for a moment.
func awaitGone(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		m, err := BackingFiles()
		if err != nil {
			t.Fatal(err)
		}
		left := -1
		for n, p := range m {
			if strings.HasPrefix(p, path) {
				left = n
			}
		}
		if left < 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("loop%d still has %s", left, path)
		}
	}
}

func TestAttachReadDetach(t *testing.T) {
	needLoop(t)
	f, want := image(t, 3<<20)
	d := attach(t, f, Options{NoProbe: true})
	if err := d.SetReadahead(0); err != nil {
		t.Fatal(err)
	}
	if kb, err := Readahead(d.Number); err != nil || kb != 0 {
		t.Errorf("readahead = %d, %v, want 0", kb, err)
	}
	got, err := os.ReadFile(d.Path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("device has %d bytes, %v; want the file's %d", len(got), err, len(want))
	}
	if w, err := os.OpenFile(d.Path, os.O_WRONLY, 0); err == nil {
		if _, err := w.Write(want[:512]); err == nil && w.Sync() == nil {
			t.Error("the device takes writes")
		}
		w.Close()
	}
	out, err := exec.Command("losetup", "-n", "-O", "RO,DIO,BACK-FILE", d.Path).Output()
	if fields := strings.Fields(string(out)); err != nil || len(fields) != 3 || fields[0] != "1" || fields[1] != "0" || fields[2] != f.Name() {
		t.Errorf("losetup says %q, %v; want read-only, no direct I/O, %s", out, err, f.Name())
	}
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, f.Name())
	if err := d.Detach(); err != nil {
		t.Errorf("second Detach: %v", err)
	}
	if err := d.ChangeFD(f); !errors.Is(err, os.ErrClosed) {
		t.Errorf("ChangeFD after Detach: %v", err)
	}
}

// TestDetachBusy detaches while a reader holds the device: it stays readable and goes with the reader.
func TestDetachBusy(t *testing.T) {
	needLoop(t)
	f, want := image(t, 1<<20)
	d := attach(t, f, Options{})
	r, err := os.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("reader got %d bytes, %v", len(got), err)
	}
	r.Close()
	awaitGone(t, f.Name())
}

func TestDetachByNumber(t *testing.T) {
	needLoop(t)
	f, _ := image(t, 1<<20)
	d := attach(t, f, Options{})
	if err := Detach(d.Number); err != nil {
		t.Fatal(err)
	}
	if err := d.Detach(); err != nil {
		t.Errorf("Detach of a device that is detached: %v", err)
	}
	awaitGone(t, f.Name())
	if err := Detach(1 << 20); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such device: %v", err)
	}
}

func TestAutoclear(t *testing.T) {
	needLoop(t)
	f, _ := image(t, 1<<20)
	d := attach(t, f, Options{Autoclear: true})
	r, err := os.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if m, _ := BackingFiles(); m[d.Number] != f.Name() {
		t.Errorf("gone with a reader left: %v", m)
	}
	r.Close()
	awaitGone(t, f.Name())
}

func TestChangeFD(t *testing.T) {
	needLoop(t)
	f, _ := image(t, 2<<20)
	g, want := image(t, 2<<20+4096)
	d := attach(t, f, Options{})
	if err := d.SetReadahead(0); err != nil {
		t.Fatal(err)
	}
	if err := d.ChangeFD(g); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a file of another size: %v, want EINVAL", err)
	}
	if err := os.Truncate(g.Name(), 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := d.ChangeFD(g); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(d.Path)
	if err != nil || !bytes.Equal(got, want[:2<<20]) {
		t.Errorf("the device does not read as the new file: %d bytes, %v", len(got), err)
	}
	if kb, err := Readahead(d.Number); err != nil || kb != 0 {
		t.Errorf("readahead after the switch = %d, %v, want 0", kb, err)
	}
	if m, _ := BackingFiles(); m[d.Number] != g.Name() {
		t.Errorf("backing file is %s", m[d.Number])
	}
	d.Detach()
	awaitGone(t, g.Name())
}

// TestAttachAtOnce races for free devices.
func TestAttachAtOnce(t *testing.T) {
	needLoop(t)
	f, _ := image(t, 1<<20)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				d, err := Attach(f, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				if err := d.Detach(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	awaitGone(t, f.Name())
}

func TestAttachNotAFile(t *testing.T) {
	needLoop(t)
	d, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if dev, err := Attach(d, Options{}); err == nil {
		dev.Detach()
		t.Error("attached a directory")
	} else if !strings.Contains(err.Error(), d.Name()) {
		t.Errorf("error does not name the file: %v", err)
	}
}
