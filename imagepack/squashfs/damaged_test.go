package squashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// TestNotSupported opens images of the compressor that the kernel never had, and of a filter made up by setting its
// bit in the compressor's options.
func TestNotSupported(t *testing.T) {
	dir := testrig.MemoryDir(t)
	testrig.WriteFile(t, dir+"/file", bytes.Repeat([]byte("text "), 5000))
	for _, c := range []struct {
		want   string
		change byte // of the first filter bits
		args   []string
	}{
		{"squashfs compressed with lzma: not supported", 0, []string{"-comp", "lzma"}},
		{"squashfs compressed with xz and BCJ filters 0x80: not supported", 0x80, []string{"-comp", "xz", "-Xbcj", "x86,arm"}},
	} {
		b := testrig.ReadFile(t, makeImage(t, dir, c.args...))
		b[96+6] |= c.change
		_, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
		var ue *squashfs.UnsupportedError
		if !errors.As(err, &ue) || err.Error() != c.want {
			t.Errorf("%v: %v, want %s", c.args, err, c.want)
		}
	}
}

// TestErrorsNameTheFile damages the one data block and the inodes of an image.
func TestErrorsNameTheFile(t *testing.T) {
	dir := testrig.MemoryDir(t)
	testrig.Must(t, os.MkdirAll(dir+"/usr/bin", 0o755))
	testrig.WriteFile(t, dir+"/usr/bin/x", bytes.Repeat([]byte("text "), 20000))
	for _, comp := range []string{"gzip", "lzo", "lz4", "xz", "zstd"} {
		b := testrig.ReadFile(t, makeImage(t, dir, "-comp", comp, "-no-fragments", "-noI"))
		r, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
		testrig.Must(t, err)
		block := r.Map().Find("usr/bin/x", imagemap.Data, 0, 1)[0]
		damaged := bytes.Clone(b)
		for i := range damaged[block.ImageOff : block.ImageOff+block.ImageLen] {
			damaged[block.ImageOff+int64(i)] ^= 0x55
		}
		c, err := openBytes(t, damaged).Lookup("usr").Lookup("bin").Lookup("x").Content.Open()
		testrig.Must(t, err)
		var ce *squashfs.CorruptError
		_, err = c.ReadAt(make([]byte, 10), 7)
		want := fmt.Sprintf(`reading "/usr/bin/x" at 7: block at %d: squashfs image is corrupt: %s: `, block.ImageOff, comp)
		if !errors.As(err, &ce) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s...", err, want)
		}
		c.Close()

		// The file's inode comes first; its fields: type, mode, owners.
		inodes := r.Map().Find("usr/bin/x", imagemap.Inode, 0, 0)[0]
		damaged = bytes.Clone(b)
		damaged[inodes.ImageOff+2+4] = 0xff
		r, err = squashfs.Open(bytes.NewReader(damaged), int64(len(b)))
		testrig.Must(t, err)
		_, err = r.Tree()
		if !errors.As(err, &ce) || !strings.HasPrefix(err.Error(), `reading "/usr/bin/x": `) {
			t.Errorf("%v, want an error that names the file", err)
		}
	}
}

func openBytes(t *testing.T, b []byte) *tree.Inode {
	t.Helper()
	r, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	testrig.Must(t, err)
	root, err := r.Tree()
	testrig.Must(t, err)
	return root
}

// TestDamaged cuts an image short at every length and flips each byte of a small one: what comes is an error of
// a known type or a tree that can be walked, never a panic.
func TestDamaged(t *testing.T) {
	testrig.RareGC(t)
	dir := testrig.MemoryDir(t)
	testrig.Must(t, os.Mkdir(dir+"/d", 0o755))
	for name, b := range map[string][]byte{"text": bytes.Repeat([]byte("text "), 1000), "d/tail": []byte("tail")} {
		testrig.WriteFile(t, dir+"/"+name, b)
	}
	b := testrig.ReadFile(t, makeImage(t, dir, "-comp", "zstd", "-b", "4096", "-nopad"))
	var ce *squashfs.CorruptError
	for n := range b {
		if _, err := squashfs.Open(bytes.NewReader(b[:n]), int64(n)); !errors.As(err, &ce) {
			t.Fatalf("cut to %d of %d bytes: %v, want a CorruptError", n, len(b), err)
		}
	}
	for i := range b {
		for _, x := range []byte{0x01, 0x80, 0xff} {
			d := bytes.Clone(b)
			d[i] ^= x
			var err error
			took := testrig.Allocated(func() { err = readAll(d) })
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Fatalf("byte %d ^ %#x: %q", i, x, err)
			}
			if took > 16<<20 {
				t.Fatalf("byte %d ^ %#x: reading an image of %d bytes took %d bytes of memory", i, x, len(b), took)
			}
		}
	}
	if squashfs.Probe(bytes.NewReader(b[:50])) || squashfs.Probe(bytes.NewReader(make([]byte, 4096))) {
		t.Error("Probe knows what is none")
	}
}

// TestDirectoryLoop has a directory's entry point back at the root.
func TestDirectoryLoop(t *testing.T) {
	dir := testrig.MemoryDir(t)
	testrig.Must(t, os.MkdirAll(dir+"/loop", 0o755))
	b := testrig.ReadFile(t, makeImage(t, dir, "-noI"))
	// An entry: offset of the inode, number, type, length of the name less one, the name.
	i := bytes.Index(b, []byte("\x01\x00\x03\x00loop"))
	if i < 0 {
		t.Fatal("no entry found")
	}
	copy(b[i-4:i-2], b[32:34]) // the root's offset
	var ce *squashfs.CorruptError
	if err := readAll(b); !errors.As(err, &ce) || !strings.Contains(err.Error(), `"loop"`) {
		t.Errorf("%v, want a CorruptError that names the directory", err)
	}
}

// readAll walks the image's tree and reads at most 128 KiB of each content.
func readAll(image []byte) error {
	r, err := squashfs.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return err
	}
	root, err := r.Tree()
	if err != nil {
		return err
	}
	r.Map().At(0, r.Info().BytesUsed)
	buf := make([]byte, 64<<10)
	return tree.Walk(root, func(p string, n *tree.Inode) error {
		if n.Content == nil {
			return nil
		}
		c, err := n.Content.Open()
		if err != nil {
			return err
		}
		defer c.Close()
		for _, off := range []int64{0, n.Size - 10} {
			if _, err := c.ReadAt(buf, max(0, off)); err != nil && err != io.EOF {
				return nil // of this file only
			}
		}
		return nil
	})
}

func FuzzOpen(f *testing.F) {
	dir := testrig.MemoryDir(f)
	for i := range 3 {
		testrig.WriteFile(f, fmt.Sprintf("%s/%d", dir, i), bytes.Repeat([]byte{byte(i)}, i*3000))
	}
	if os.Geteuid() == 0 {
		testrig.Run(f, "setfattr", "-n", "user.a", "-v", strings.Repeat("v", 200), dir+"/1")
		testrig.Run(f, "setfattr", "-n", "user.a", "-v", strings.Repeat("v", 200), dir+"/2")
	}
	for _, args := range [][]string{{"-noI", "-noD", "-noF", "-noX"}, {"-comp", "zstd"}, {"-comp", "xz"}, {"-comp", "lz4"}, {"-comp", "gzip"},
		{"-comp", "lzo"}, {"-comp", "xz", "-Xbcj", "x86,arm"}} {
		b := testrig.ReadFile(f, makeImage(f, dir, append(args, "-b", "4096", "-nopad")...))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { _ = readAll(b) })
}
