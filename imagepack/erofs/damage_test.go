package erofs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

func TestReadMapErrors(t *testing.T) {
	im := mustPlan(t, newDir(tree.Entry{Name: "d", Inode: newDir(tree.Entry{Name: "f", Inode: newFile(9000, 1)})}))
	good := readAll(t, im)
	root := int(superOff + superSize)
	tail := root + inodeExtendedSize // the root's entries: ".", "..", "d"
	for _, c := range []struct {
		name string
		edit func(b []byte) []byte
		want any
	}{
		{"no magic", func(b []byte) []byte { b[superOff] ^= 1; return b }, ErrNotErofs},
		{"short", func(b []byte) []byte { return b[:1100] }, ErrNotErofs},
		{"empty", func(b []byte) []byte { return nil }, ErrNotErofs},
		{"feature", func(b []byte) []byte { b[superOff+81] = 0x10; return b }, new(*UnsupportedError)},
		{"block size", func(b []byte) []byte { b[superOff+12] = 30; return b }, new(*UnsupportedError)},
		{"truncated", func(b []byte) []byte { return b[:4096] }, new(*CorruptError)},
		{"root outside", func(b []byte) []byte { le.PutUint16(b[superOff+14:], 0xffff); return b }, new(*CorruptError)},
		{"dir size", func(b []byte) []byte { le.PutUint64(b[root+8:], 1<<62); return b }, new(*CorruptError)},
		{"name order", func(b []byte) []byte { le.PutUint16(b[tail+8:], 13); return b }, new(*CorruptError)},
		{"name slash", func(b []byte) []byte { b[tail+36+3] = '/'; return b }, new(*CorruptError)},
		{"mode", func(b []byte) []byte { b[root+5] = 0xf0; return b }, new(*CorruptError)},
		{"xattrs", func(b []byte) []byte { le.PutUint16(b[root+2:], 0xffff); return b }, new(*CorruptError)},
		{"cycle", func(b []byte) []byte { le.PutUint64(b[tail+24:], uint64(root/32)); return b }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.edit(bytes.Clone(good))
			_, err := ReadMap(bytes.NewReader(b), int64(len(b)))
			switch want := c.want.(type) {
			case nil:
				if err != nil {
					t.Errorf("got %v", err)
				}
			case error:
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			default:
				if err == nil || !errors.As(err, want) {
					t.Errorf("got %v, want a %T", err, want)
				}
			}
		})
	}
}

// TestReadMapOfDamaged reads maps of images with random damage in the metadata. The fuzz test goes further.
func TestReadMapOfDamaged(t *testing.T) {
	im := mustPlan(t, newDir(
		tree.Entry{Name: "d", Inode: newDir(tree.Entry{Name: "f", Inode: newFile(9000, 1)}, tree.Entry{Name: "g", Inode: newFile(900, 1)})},
		tree.Entry{Name: "l", Inode: newLink("d")},
		tree.Entry{Name: "s", Inode: sparseFile(1<<20, tree.Extent{Off: 20_000, Len: 1})},
		tree.Entry{Name: "x", Inode: xattrTree()},
	))
	good := readAll(t, im)
	r := rand.New(rand.NewPCG(3, 3))
	failed := 0
	for range 3000 {
		b := bytes.Clone(good)
		for range 1 + r.IntN(3) {
			b[superOff+128+r.IntN(3000)] = byte(r.IntN(256))
		}
		if _, err := ReadMap(bytes.NewReader(b), int64(len(b))); err != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no damage was noticed")
	}
}

// FuzzReadMap starts from images made here and, where mkfs.erofs is installed, from some of its own: these have
// compact inodes, chunk indexes and compressed files. The second argument is a list of changes to the first, each an
// offset from the superblock on and the new byte: most bytes of an image are zeros that nobody looks at.
func FuzzReadMap(f *testing.F) {
	acl := newFile(10, 1)
	acl.Xattrs = xattrTree().Xattrs
	for _, root := range []*tree.Inode{
		newDir(),
		newDir(tree.Entry{Name: "d", Inode: newDir(tree.Entry{Name: "f", Inode: newFile(9000, 1)})}),
		newDir(tree.Entry{Name: "s", Inode: sparseFile(70_000, tree.Extent{Off: 20_000, Len: 1})},
			tree.Entry{Name: "x", Inode: acl}, tree.Entry{Name: "y", Inode: acl}, tree.Entry{Name: "l", Inode: newLink("x")}),
	} {
		f.Add(readAll(f, mustPlan(f, root)), []byte{0, 128 + 8, 1})
	}
	src := testrig.MemoryDir(f)
	testrig.WriteFile(f, src+"/file", bytes.Repeat([]byte("text "), 3000))
	for _, opt := range []string{"-Eforce-inode-compact", "--chunksize=4096", "-zlz4"} {
		f.Add(testrig.ReadFile(f, mkfs(f, src, opt)), []byte{0, 128, 0})
	}
	f.Fuzz(func(t *testing.T, image, changes []byte) {
		b := bytes.Clone(image)
		for ; len(changes) >= 3; changes = changes[3:] {
			if off := superOff + int(changes[0])<<8 + int(changes[1]); off < len(b) {
				b[off] = changes[2]
			}
		}
		m, err := ReadMap(bytes.NewReader(b), int64(len(b)))
		if err != nil && (m != nil) != errors.Is(err, ErrCompressed) {
			t.Errorf("map %v with error %v", m != nil, err)
		}
		if m == nil {
			return
		}
		for _, s := range m.Segments() {
			if s.ImageOff < 0 || s.ImageLen <= 0 || s.ImageOff+s.ImageLen > int64(len(b)) {
				t.Errorf("segment outside the image: %+v", s)
			}
		}
	})
}
