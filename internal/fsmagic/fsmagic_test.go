package fsmagic

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"bootprof/internal/testrig"
)

// put returns n zero bytes with s at off.
func put(n, off int, s string) []byte {
	b := make([]byte, n)
	copy(b[off:], s)
	return b
}

func TestDetectSynthetic(t *testing.T) {
	mbr := put(4096, 510, "\x55\xaa")
	mbr[446+4], mbr[446+12] = 0x83, 1
	badStatus := bytes.Clone(mbr)
	badStatus[446] = 0x33
	hybrid := append(bytes.Clone(mbr), put(0x9000-4096, 0x8001-4096, "CD001")...)
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, ""},
		{"zeros", make([]byte, Window), ""},
		{"html", []byte("<!DOCTYPE html>"), ""},
		{"xfs", put(512, 0, "XFSB"), "xfs"},
		{"btrfs", put(Window, 0x10040, "_BHRfS_M"), "btrfs"},
		{"btrfs cut short", put(Window-1, 0x10040, "_BHRfS_M"), ""},
		{"iso9660", put(0x9000, 0x8001, "CD001"), "iso9660"},
		{"hybrid iso is an iso", hybrid, "iso9660"},
		{"fat16", put(512, 54, "FAT16   "), "vfat"},
		{"fat32", put(512, 82, "FAT32   "), "vfat"},
		{"gpt, 512-byte sectors", put(1024, 512, "EFI PART"), "gpt"},
		{"gpt, 4096-byte sectors", put(8192, 4096, "EFI PART"), "gpt"},
		{"mbr", mbr, "mbr"},
		{"boot signature alone", put(512, 510, "\x55\xaa"), ""},
		{"bad partition status", badStatus, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Detect(bytes.NewReader(c.in)); got != c.want {
				t.Errorf("Detect = %q, want %q", got, c.want)
			}
			if got := Detect(iotest.OneByteReader(bytes.NewReader(c.in))); got != c.want {
				t.Errorf("Detect of a slow reader = %q, want %q", got, c.want)
			}
		})
	}
}

func TestDetectReadError(t *testing.T) {
	r := io.MultiReader(bytes.NewReader(put(2048, 0, "hsqs")), iotest.ErrReader(errors.New("broken")))
	if got := Detect(r); got != "squashfs" {
		t.Errorf("Detect = %q, want squashfs", got)
	}
}

// TestDetectMade looks at what the file systems' own programs write.
func TestDetectMade(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	testrig.WriteFile(t, filepath.Join(src, "f"), "content")
	img := filepath.Join(dir, "img")
	for _, c := range []struct {
		want string
		cmd  []string
	}{
		{"erofs", []string{"mkfs.erofs", img, src}},
		{"squashfs", []string{"mksquashfs", src, img, "-quiet", "-no-progress"}},
		{"ext4", []string{"mkfs.ext4", "-q", "-F", img, "4M"}},
		{"ext4", []string{"mkfs.ext4", "-q", "-F", "-t", "ext2", img, "4M"}},
	} {
		t.Run(c.cmd[0], func(t *testing.T) {
			os.Remove(img)
			testrig.Run(t, c.cmd[0], c.cmd[1:]...)
			f, _ := testrig.OpenFile(t, img)
			if got := Detect(f); got != c.want || !Mountable(got) {
				t.Errorf("Detect = %q, want %q, mountable", got, c.want)
			}
		})
	}
}

// FuzzDetect: any bytes give a known name, the same for any way of reading them.
func FuzzDetect(f *testing.F) {
	f.Add([]byte("hsqs"))
	f.Add(put(512, 510, "\x55\xaa"))
	f.Add(put(2048, 1024, "\xe2\xe1\xf5\xe0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, c := Detect(bytes.NewReader(b)), Detect(iotest.HalfReader(bytes.NewReader(b)))
		if a != c {
			t.Errorf("Detect = %q or %q", a, c)
		}
	})
}
