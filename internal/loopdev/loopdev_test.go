package loopdev

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// image makes a file of n random bytes.
func image(t *testing.T, n int) (*os.File, []byte) {
	t.Helper()
	b := testrig.Noise(uint32(n), n)
	p := filepath.Join(t.TempDir(), "image")
	testrig.WriteFile(t, p, b)
	f, _ := testrig.OpenFile(t, p)
	return f, b
}

func attach(t *testing.T, f *os.File, o Options) *Device {
	t.Helper()
	d, err := Attach(f, o)
	testrig.Must(t, err)
	t.Cleanup(func() { d.Detach(); awaitGone(t, f.Name()) })
	return d
}

// awaitGone waits until no loop device has the file any more; udevd may keep one for a moment.
func awaitGone(t *testing.T, path string) {
	t.Helper()
	testrig.Eventually(t, "no loop device to have "+path, func() bool {
		m, err := BackingFiles()
		testrig.Must(t, err)
		for _, p := range m {
			if strings.HasPrefix(p, path) {
				return false
			}
		}
		return true
	})
}

func TestAttachReadDetach(t *testing.T) {
	testrig.NeedDevices(t, "/dev/loop-control")
	f, want := image(t, 3<<20)
	d := attach(t, f, Options{NoProbe: true})
	testrig.Must(t, d.SetReadahead(0))
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
	out := testrig.Run(t, "losetup", "-n", "-O", "RO,DIO,BACK-FILE", d.Path)
	if got := strings.Join(strings.Fields(out), " "); got != "1 0 "+f.Name() {
		t.Errorf("losetup says %q; want read-only, no direct I/O, %s", out, f.Name())
	}
	testrig.Must(t, d.Detach())
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
	testrig.NeedDevices(t, "/dev/loop-control")
	f, want := image(t, 1<<20)
	d := attach(t, f, Options{})
	r, err := os.Open(d.Path)
	testrig.Must(t, err)
	defer r.Close()
	testrig.Must(t, d.Detach())
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("reader got %d bytes, %v", len(got), err)
	}
	r.Close()
	awaitGone(t, f.Name())
}

func TestDetachByNumber(t *testing.T) {
	testrig.NeedDevices(t, "/dev/loop-control")
	f, _ := image(t, 1<<20)
	d := attach(t, f, Options{})
	testrig.Must(t, Detach(d.Number))
	if err := d.Detach(); err != nil {
		t.Errorf("Detach of a device that is detached: %v", err)
	}
	awaitGone(t, f.Name())
	if err := Detach(1 << 20); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such device: %v", err)
	}
}

func TestAutoclear(t *testing.T) {
	testrig.NeedDevices(t, "/dev/loop-control")
	f, _ := image(t, 1<<20)
	d := attach(t, f, Options{Autoclear: true})
	r, err := os.Open(d.Path)
	testrig.Must(t, err)
	d.Close()
	if m, _ := BackingFiles(); m[d.Number] != f.Name() {
		t.Errorf("gone with a reader left: %v", m)
	}
	r.Close()
	awaitGone(t, f.Name())
}

func TestChangeFD(t *testing.T) {
	testrig.NeedDevices(t, "/dev/loop-control")
	f, _ := image(t, 2<<20)
	g, want := image(t, 2<<20+4096)
	d := attach(t, f, Options{})
	testrig.Must(t, d.SetReadahead(0))
	if err := d.ChangeFD(g); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a file of another size: %v, want EINVAL", err)
	}
	testrig.Must(t, os.Truncate(g.Name(), 2<<20))
	testrig.Must(t, d.ChangeFD(g))
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
	testrig.NeedDevices(t, "/dev/loop-control")
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
	testrig.NeedDevices(t, "/dev/loop-control")
	d, err := os.Open(t.TempDir())
	testrig.Must(t, err)
	defer d.Close()
	if dev, err := Attach(d, Options{}); err == nil {
		dev.Detach()
		t.Error("attached a directory")
	} else if !strings.Contains(err.Error(), d.Name()) {
		t.Errorf("error does not name the file: %v", err)
	}
}
