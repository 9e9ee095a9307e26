package erofs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"

	"github.com/pierrec/lz4/v4"
	"golang.org/x/sys/unix"
)

// mkfsSource is a tree that mkfs.erofs packs in reasonable time: everything but the sparse files, with
// some that compress and some that do not.
func mkfsSource() *tree.Inode {
	random := make(bytesContent, 100_000)
	rand.NewChaCha8([32]byte{1}).Read(random)
	root := everything()
	for i, e := range root.Entries {
		// mkfs.erofs 1.5 cuts names of 255 bytes and then does not find them.
		if e.Name == "names" {
			e.Inode.Entries = slices.DeleteFunc(e.Inode.Entries, func(e tree.Entry) bool {
				return len(e.Name) == 255
			})
		}
		if e.Name == "sparse" {
			root.Entries[i].Inode = newDir(
				tree.Entry{Name: "random", Inode: &tree.Inode{Mode: tree.ModeRegular, Size: 100_000, Content: random}},
				tree.Entry{Name: "zeros", Inode: &tree.Inode{Mode: tree.ModeRegular, Size: 200_000}},
			)
		}
	}
	return root
}

func TestReadMapOfMkfs(t *testing.T) {
	testrig.NeedProgram(t, "mkfs.erofs")
	src := testrig.Mount(t, "erofs", writeImage(t, mustPlan(t, mkfsSource())))
	for _, c := range []struct {
		name       string
		args       []string
		compressed bool
	}{
		{"default", nil, false},
		{"extended", []string{"-Eforce-inode-extended"}, false},
		{"compact", []string{"-Eforce-inode-compact", "--force-uid=1", "--force-gid=1"}, false},
		{"no inline", []string{"-Enoinline_data"}, false},
		{"chunks", []string{"--chunksize=4096"}, false},
		{"large chunks", []string{"--chunksize=65536"}, false},
		{"shared xattrs", []string{"-x1"}, false},
		{"lz4", []string{"-zlz4"}, true},
		{"big clusters", []string{"-zlz4hc", "-C65536"}, true},
		{"inline clusters", []string{"-zlz4", "-Eztailpacking"}, true},
		{"full indexes", []string{"-zlz4", "-C16384", "-Elegacy-compress"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "default" && c.name != "lz4" {
				testrig.Slow(t)
			}
			image := mkfs(t, src, c.args...)
			f, size := testrig.OpenFile(t, image)
			if !Probe(f) {
				t.Error("Probe does not know it")
			}
			m, err := ReadMap(f, size)
			if c.compressed != errors.Is(err, ErrCompressed) || !c.compressed && err != nil {
				t.Fatal(err)
			}
			if n := checkMapAgainstMount(t, f, m, testrig.Mount(t, "erofs", image), c.compressed); (n > 0) != c.compressed {
				t.Errorf("%d compressed segments were compared with the kernel's", n)
			}
		})
	}
}

// TestReadMapOfNewerMkfs does so with images that mkfs.erofs 1.5 does not make.
func TestReadMapOfNewerMkfs(t *testing.T) {
	for name, b := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			_, dir := mountBytes(t, b)
			m, err := ReadMap(bytes.NewReader(b), int64(len(b)))
			if err != nil && !errors.Is(err, ErrCompressed) {
				t.Fatal(err)
			}
			checkMapAgainstMount(t, bytes.NewReader(b), m, dir, err != nil)
		})
	}
}

// unpackLZ4 unpacks a pcluster of unknown length, or returns nil.
func unpackLZ4(b []byte) []byte {
	dst := make([]byte, 256*len(b))
	n, err := lz4.UncompressBlock(bytes.Trim(b, "\x00"), dst)
	if err != nil {
		return nil
	}
	return dst[:n]
}

// checkMapAgainstMount compares the data segments with the mounted files' bytes, and asks that each path
// has an inode segment and all of its content.
func checkMapAgainstMount(t *testing.T, image io.ReaderAt, m *imagemap.Map, dir string, compressed bool) (lz4s int) {
	t.Helper()
	inodes := make(map[string]int)
	lens := make(map[string]int64)
	end, packed := int64(0), 0
	for _, s := range m.Segments() {
		if s.ImageOff < end && s.Kind != imagemap.Data {
			t.Errorf("%+v overlaps what is before it", s)
		}
		if s.Kind != imagemap.Data {
			end = s.ImageOff + s.ImageLen
		}
		switch s.Kind {
		case imagemap.Inode:
			inodes[s.Path]++
		case imagemap.Dir:
			lens[s.Path] += s.FileLen
		case imagemap.Data:
			lens[s.Path] += s.FileLen
			got, want := make([]byte, s.ImageLen), make([]byte, s.FileLen)
			if _, err := image.ReadAt(got, s.ImageOff); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			f, err := os.Open(dir + "/" + s.Path)
			testrig.Must(t, err)
			if _, err := f.ReadAt(want, s.FileOff); err != nil {
				t.Errorf("%q [%d +%d): %v", s.Path, s.FileOff, s.FileLen, err)
			}
			f.Close()
			if s.ImageLen != s.FileLen {
				packed++
				// Other compressors' blocks are checked by the coverage only.
				if b := unpackLZ4(got); bytes.Contains(b, want) {
					lz4s++
				} else if b != nil {
					t.Errorf("%q [%d +%d) is not in what [%d +%d) unpacks to", s.Path, s.FileOff, s.FileLen, s.ImageOff, s.ImageLen)
				}
			} else if !bytes.Equal(got, want) {
				t.Errorf("%q [%d +%d) is not at %d", s.Path, s.FileOff, s.FileLen, s.ImageOff)
			}
		}
	}
	first := make(map[uint64]bool)
	var walk func(path string)
	walk = func(path string) {
		full := dir + "/" + path
		var st unix.Stat_t
		testrig.Must(t, unix.Lstat(full, &st))
		if first[st.Ino] {
			if inodes[path] > 0 {
				t.Errorf("%q is a second name but has an inode segment", path)
			}
			return
		}
		first[st.Ino] = true
		if inodes[path] == 0 {
			t.Errorf("%q has no inode segment", path)
		}
		switch mode := st.Mode & tree.ModeType; {
		case mode == tree.ModeRegular && lens[path] != st.Size:
			// The map of a chunk-based file leaves out holes.
			if lens[path] > st.Size || !allZero(t, full) {
				t.Errorf("%q: the map has %d of %d bytes", path, lens[path], st.Size)
			}
		case mode == tree.ModeDir:
			if lens[path] != st.Size {
				t.Errorf("%q: the map has %d of %d directory bytes", path, lens[path], st.Size)
			}
			entries, err := os.ReadDir(full)
			testrig.Must(t, err)
			for _, e := range entries {
				if path == "" {
					walk(e.Name())
				} else {
					walk(path + "/" + e.Name())
				}
			}
		}
	}
	walk("")
	if compressed != (packed > 0) {
		t.Errorf("%d segments are compressed", packed)
	}
	return lz4s
}

func allZero(t *testing.T, path string) bool {
	t.Helper()
	b := testrig.ReadFile(t, path)
	return len(bytes.Trim(b, "\x00")) == 0
}
