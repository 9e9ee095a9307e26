package relayout_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/squashfs/relayout"
	"bootprof/internal/testrig"
)

// memFile is a File in memory.
type memFile struct{ b []byte }

var errTooLarge = errors.New("more than 64 MiB written")

func (m *memFile) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > 64<<20 {
		return 0, errTooLarge
	}
	if n := int(off) + len(p) - len(m.b); n > 0 {
		m.b = append(m.b, make([]byte, n)...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// smallImages are images of a few files, for damaging.
func smallImages(t testing.TB) [][]byte {
	dir := testrig.MemoryDir(t)
	testrig.Must(t, os.Mkdir(dir+"/d", 0o755))
	for name, n := range map[string]int{"a": 10_000, "b": 100, "c": 300, "d/e": 5000, "d/f": 5000, "d/g": 12} {
		testrig.WriteFile(t, dir+"/"+name, bytes.Repeat([]byte(name+" text "), n)[:n])
	}
	testrig.Must(t, os.Link(dir+"/b", dir+"/d/link"))
	if os.Geteuid() == 0 {
		for _, name := range []string{"b", "c"} {
			testrig.Run(t, "setfattr", "-n", "user.a", "-v", strings.Repeat("v", 200), dir+"/"+name)
		}
	}
	var out [][]byte
	for _, args := range [][]string{{"-noI", "-noX"}, {"-noI", "-noD", "-noF", "-noX"}, {"-comp", "lz4"}, {"-comp", "xz"}, {"-comp", "lzo"}, {"-comp", "zstd"}} {
		b := testrig.ReadFile(t, makeImage(t, dir, append(args, "-b", "4096", "-nopad", "-always-use-fragments")...))
		out = append(out, b)
	}
	return out
}

// smallOrder touches some of what smallImages have.
var smallOrder = []relayout.Touch{
	{Path: "d/e", Len: 5000}, {Path: "c", Len: 1}, {Path: "a", FileOff: 9000, Len: 10}, {Path: "d", Kind: imagemap.Dir, Len: 1},
	{Path: "nothing"}, {Path: "a/below"}, {Path: "", Kind: imagemap.Inode}, {Path: "a", FileOff: -5, Len: 1 << 62},
}

// relayoutBytes moves an image that may be damaged. What can be moved must be readable.
func relayoutBytes(t *testing.T, b []byte) error {
	r, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	dst := &memFile{}
	l, err := relayout.Relayout(context.Background(), r, dst, relayout.Options{Order: smallOrder, Workers: 1})
	if err != nil {
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("an error of several lines: %q", err)
		}
		return err
	}
	if l.Size != int64(len(dst.b)) || l.Size > 2*int64(len(b))+1<<20 && r.Info().Compressor != "lzo" {
		t.Errorf("%d bytes of an image of %d, %d written", l.Size, len(b), len(dst.b))
	}
	return nil
}

// TestDamaged flips each byte of small images: what comes is a known error or an image.
func TestDamaged(t *testing.T) {
	testrig.RareGC(t)
	for i, image := range smallImages(t)[:4] {
		if i > 1 && testing.Short() {
			break
		}
		if err := relayoutBytes(t, image); err != nil {
			t.Fatalf("image %d: %v", i, err)
		}
		step := 5
		if i > 0 {
			step = 23 // the slower compressors
		}
		failed := 0
		for at := 0; at < len(image); at += step {
			for _, x := range []byte{0x01, 0x80, 0xff} {
				d := bytes.Clone(image)
				d[at] ^= x
				var err error
				took := testrig.Allocated(func() { err = relayoutBytes(t, d) })
				var ce *squashfs.CorruptError
				var ue *squashfs.UnsupportedError
				if err != nil && !errors.As(err, &ce) && !errors.As(err, &ue) {
					t.Fatalf("image %d, byte %d ^ %#x: %v", i, at, x, err)
				}
				if err != nil {
					failed++
				}
				if took > 64<<20 {
					t.Fatalf("image %d, byte %d ^ %#x: %d bytes of memory", i, at, x, took)
				}
			}
		}
		if failed == 0 {
			t.Errorf("image %d: no damage was found", i)
		}
	}
}

func FuzzRelayout(f *testing.F) {
	for _, b := range smallImages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if took := testrig.Allocated(func() { _ = relayoutBytes(t, b) }); took > 1<<30 {
			t.Fatalf("%d bytes of memory", took)
		}
	})
}
