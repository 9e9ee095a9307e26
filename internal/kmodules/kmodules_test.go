package kmodules

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The lines are those of Debian's 6.1.0-56-amd64, some left out. libcrc32c has no module in the lines of erofs beside itself.
const (
	dep = `kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/lib/libcrc32c.ko: kernel/crypto/crc32c_generic.ko
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/fs/jbd2/jbd2.ko: kernel/crypto/crc32c_generic.ko
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko kernel/crypto/crc32c_generic.ko

# a comment
kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/broken.ko: kernel/gone.ko
`
	builtin = "kernel/fs/tmpfs.ko\nkernel/drivers/virtio/virtio-anchor.ko\n"
	softdep = "# aliases\nsoftdep libcrc32c pre: crc32c\nsoftdep ext4 pre: crc32c-intel no_such post: mbcache\nsoftdep bad\n"
)

func TestResolve(t *testing.T) {
	x, err := Parse([]byte(dep), []byte(builtin), []byte(softdep))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		names, want string
		missing     string
	}{
		{"virtio_pci virtio-blk", "virtio virtio_ring virtio_pci virtio_blk", ""},
		{"virtio_blk", "virtio virtio_ring virtio_blk", ""},
		{"ext4", "crc32c_intel crc16 mbcache crc32c_generic jbd2 ext4", ""},
		{"libcrc32c", "crc32c_generic libcrc32c", ""},
		{"tmpfs virtio_anchor", "", ""},
		{"crc16 crc16", "crc16", ""},
		{"erofs", "", "erofs"},
		{"broken", "", "gone"},
	}
	for _, tt := range tests {
		files, err := x.Resolve(strings.Fields(tt.names)...)
		var m *MissingError
		if tt.missing != "" {
			if !errors.As(err, &m) || m.Name != tt.missing {
				t.Errorf("%s: %v, want %s missing", tt.names, err, tt.missing)
			}
			continue
		}
		var got []string
		for _, f := range files {
			got = append(got, Name(f))
			for _, d := range x.deps[f] { // the property that matters
				if !slices.Contains(got, Name(d)) {
					t.Errorf("%s: %s comes before %s, which it uses", tt.names, f, d)
				}
			}
		}
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, %v; want %s", tt.names, got, err, tt.want)
		}
	}
	if !x.Has("tmpfs") || !x.Has("virtio-ring") || x.Has("erofs") {
		t.Error("Has is wrong")
	}
	if _, err := Parse([]byte("no colon here"), nil, nil); err == nil {
		t.Error("a line without a colon was taken")
	}
}

// TestDecompress has other programs compress.
func TestDecompress(t *testing.T) {
	want := bytes.Repeat([]byte("module "), 10000)
	for ext, program := range map[string]string{".xz": "xz --check=crc32", ".zst": "zstd", ".gz": "gzip", "": "cat"} {
		words := strings.Fields(program)
		if _, err := exec.LookPath(words[0]); err != nil {
			t.Errorf("%v (scripts/setup.sh installs it)", err)
			continue
		}
		c := exec.Command(words[0], words[1:]...)
		c.Stdin = bytes.NewReader(want)
		b, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decompress("kernel/fs/x.ko"+ext, b); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes, %v", ext, len(got), err)
		}
		if ext == "" {
			continue
		}
		for _, damaged := range [][]byte{nil, b[:len(b)/2], want} {
			if _, err := Decompress("x.ko"+ext, damaged); !errors.Is(err, ErrDamaged) && ext != ".zst" {
				t.Errorf("%q, damaged: %v", ext, err)
			}
		}
	}
	if _, err := Decompress("x.ko.lz4", nil); err == nil {
		t.Error("an unknown compression was taken")
	}
}
