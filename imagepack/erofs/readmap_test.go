package erofs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"

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
	if _, err := exec.LookPath("mkfs.erofs"); err != nil {
		t.Skip("mkfs.erofs is not installed")
	}
	src := mountImage(t, writeImage(t, mustPlan(t, mkfsSource())))
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
	} {
		t.Run(c.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "mkfs")
			runTool(t, "mkfs.erofs", append(append(c.args, "--quiet", "-d0"), image, src)...)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			st, _ := f.Stat()
			if !Probe(f) {
				t.Error("Probe does not know it")
			}
			m, err := ReadMap(f, st.Size())
			if c.compressed != errors.Is(err, ErrCompressed) || !c.compressed && err != nil {
				t.Fatal(err)
			}
			checkMapAgainstMount(t, f, m, mountImage(t, image), c.compressed)
		})
	}
}

// checkMapAgainstMount compares the data segments with the mounted files' bytes, and asks that each path
// has an inode segment, and all of its content unless it may be left out.
func checkMapAgainstMount(t *testing.T, image io.ReaderAt, m *imagemap.Map, dir string, gaps bool) {
	t.Helper()
	inodes := make(map[string]int)
	lens := make(map[string]int64)
	end := int64(0)
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
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(want, s.FileOff); err != nil {
				t.Errorf("%q [%d +%d): %v", s.Path, s.FileOff, s.FileLen, err)
			}
			f.Close()
			if !bytes.Equal(got, want) {
				t.Errorf("%q [%d +%d) is not at %d", s.Path, s.FileOff, s.FileLen, s.ImageOff)
			}
		}
	}
	first := make(map[uint64]bool)
	missing := 0
	var walk func(path string)
	walk = func(path string) {
		full := dir + "/" + path
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			t.Fatal(err)
		}
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
			if missing++; !gaps || lens[path] != 0 {
				t.Errorf("%q: the map has %d of %d bytes", path, lens[path], st.Size)
			}
		case mode == tree.ModeDir:
			if lens[path] != st.Size {
				t.Errorf("%q: the map has %d of %d directory bytes", path, lens[path], st.Size)
			}
			entries, err := os.ReadDir(full)
			if err != nil {
				t.Fatal(err)
			}
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
	if gaps && missing == 0 {
		t.Error("nothing was compressed: the test shows nothing")
	}
}
