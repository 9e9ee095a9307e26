package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"

	"golang.org/x/sys/unix"
)

// bytesContent is a Content in memory.
type bytesContent []byte

func (c bytesContent) Open() (tree.ReadAtCloser, error) {
	return struct {
		*bytes.Reader
		io.Closer
	}{bytes.NewReader(c), io.NopCloser(nil)}, nil
}

// sparseContent is a long Content that is zero outside its extents, where byte i is patternAt(i).
type sparseContent struct {
	size int64
	data []tree.Extent
}

func patternAt(i int64) byte { return byte(i*7 + i>>12 + 1) }

func (c *sparseContent) Open() (tree.ReadAtCloser, error) { return c, nil }
func (c *sparseContent) Close() error                     { return nil }

func (c *sparseContent) ReadAt(p []byte, off int64) (int, error) {
	if off > c.size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > c.size-off {
		p, err = p[:c.size-off], io.EOF
	}
	clear(p)
	for _, e := range c.data {
		for i := max(e.Off, off); i < min(e.Off+e.Len, off+int64(len(p))); i++ {
			p[i-off] = patternAt(i)
		}
	}
	return len(p), err
}

func newFile(size int, seed byte) *tree.Inode {
	b := make(bytesContent, size)
	for i := range b {
		b[i] = byte(i*31+i>>8) + seed
	}
	return &tree.Inode{Mode: tree.ModeRegular | 0o644, Size: int64(size), Content: b, MtimeSec: 1_700_000_000}
}

func newDir(entries ...tree.Entry) *tree.Inode {
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	return &tree.Inode{Mode: tree.ModeDir | 0o755, Entries: entries, MtimeSec: 1_600_000_000}
}

func newLink(target string) *tree.Inode {
	return &tree.Inode{Mode: tree.ModeSymlink | 0o777, LinkTarget: target}
}

func mustPlan(t testing.TB, root *tree.Inode) *Image {
	t.Helper()
	im, err := Plan(root, Options{})
	testrig.Must(t, err)
	t.Cleanup(func() {
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	})
	return im
}

func readAll(t testing.TB, im *Image) []byte {
	t.Helper()
	b := make([]byte, im.Size())
	if n, err := im.ReadAt(b, 0); err != nil || int64(n) != im.Size() {
		t.Fatalf("ReadAt of the whole image: %d, %v", n, err)
	}
	return b
}

// writeImage writes the image to a file, leaving out zeros.
func writeImage(t testing.TB, im *Image) string {
	t.Helper()
	path := filepath.Join(testrig.MemoryDir(t), "image")
	f, err := os.Create(path)
	testrig.Must(t, err)
	defer f.Close()
	b := make([]byte, 1<<20)
	zero := make([]byte, len(b))
	for off := int64(0); off < im.Size(); {
		n, err := im.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(b[:n], zero[:n]) {
			if _, err := f.WriteAt(b[:n], off); err != nil {
				t.Fatal(err)
			}
		}
		off += int64(n)
	}
	testrig.Must(t, f.Truncate(im.Size()))
	return path
}

// checkMount compares everything below dir with the tree, contents of at most 64 MiB included.
func checkMount(t *testing.T, dir string, root *tree.Inode) {
	t.Helper()
	inos := make(map[*tree.Inode]uint64)
	links := make(map[*tree.Inode]uint64)
	tree.Walk(root, func(_ string, n *tree.Inode) error {
		links[n]++
		for _, e := range n.Entries {
			if e.Inode.IsDir() {
				links[n]++
			}
		}
		if n.IsDir() {
			links[n]++
		}
		return nil
	})
	err := tree.Walk(root, func(path string, n *tree.Inode) error {
		full := dir + "/" + path
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			return fmt.Errorf("lstat %q: %w", path, err)
		}
		got := fmt.Sprintf("mode %#o owner %d:%d mtime %d.%09d nlink %d", st.Mode, st.Uid, st.Gid,
			st.Mtim.Sec, st.Mtim.Nsec, st.Nlink)
		want := fmt.Sprintf("mode %#o owner %d:%d mtime %d.%09d nlink %d", n.Mode, n.UID, n.GID,
			n.MtimeSec, n.MtimeNsec, links[n])
		if got != want {
			t.Errorf("%q:\n got %s\nwant %s", path, got, want)
		}
		if ino, ok := inos[n]; ok && ino != st.Ino {
			t.Errorf("%q: hard link has inode %d, another name %d", path, st.Ino, ino)
		}
		inos[n] = st.Ino
		checkXattrs(t, full, n)
		switch n.Type() {
		case tree.ModeRegular:
			if st.Size != n.Size {
				t.Errorf("%q: size %d, want %d", path, st.Size, n.Size)
			} else if n.Size <= 64<<20 {
				checkContents(t, full, n, 0, n.Size)
			}
		case tree.ModeSymlink:
			if got, err := os.Readlink(full); err != nil || got != n.LinkTarget {
				t.Errorf("%q: readlink %q, %v, want %q", path, got, err, n.LinkTarget)
			}
		case tree.ModeBlock, tree.ModeChar:
			if a, b := unix.Major(st.Rdev), unix.Minor(st.Rdev); a != n.RdevMajor || b != n.RdevMinor {
				t.Errorf("%q: device %d:%d, want %d:%d", path, a, b, n.RdevMajor, n.RdevMinor)
			}
		case tree.ModeDir:
			entries, err := os.ReadDir(full)
			if err != nil || len(entries) != len(n.Entries) {
				t.Errorf("%q: %d entries, %v, want %d", path, len(entries), err, len(n.Entries))
				break
			}
			for i, e := range entries {
				if e.Name() != n.Entries[i].Name {
					t.Errorf("%q: entry %d is %q, want %q", path, i, e.Name(), n.Entries[i].Name)
				}
				if want := n.Entries[i].Inode.Mode & tree.ModeType; fileMode(e.Type()) != want {
					t.Errorf("%q: entry %q has type %v, want %#o", path, e.Name(), e.Type(), want)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func fileMode(m os.FileMode) uint32 {
	switch m.Type() {
	case os.ModeDir:
		return tree.ModeDir
	case os.ModeSymlink:
		return tree.ModeSymlink
	case os.ModeDevice:
		return tree.ModeBlock
	case os.ModeDevice | os.ModeCharDevice:
		return tree.ModeChar
	case os.ModeNamedPipe:
		return tree.ModeFIFO
	case os.ModeSocket:
		return tree.ModeSocket
	}
	return tree.ModeRegular
}

func checkXattrs(t *testing.T, full string, n *tree.Inode) {
	t.Helper()
	list := make([]byte, 1<<16)
	size, err := unix.Llistxattr(full, list)
	if err != nil {
		t.Errorf("%q: llistxattr: %v", full, err)
		return
	}
	names := strings.Split(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00")
	if size == 0 {
		names = nil
	}
	if len(names) != len(n.Xattrs) {
		t.Errorf("%q: xattrs %q, want %d", full, names, len(n.Xattrs))
	}
	for _, x := range n.Xattrs {
		b := make([]byte, 1<<16)
		size, err := unix.Lgetxattr(full, x.Name, b)
		if err != nil || !bytes.Equal(b[:max(size, 0)], x.Value) {
			t.Errorf("%q: xattr %s: %d bytes, %v, want %d bytes", full, x.Name, size, err, len(x.Value))
		}
	}
}

// checkContents compares [off, end) of a mounted file with the tree's.
func checkContents(t *testing.T, full string, n *tree.Inode, off, end int64) {
	t.Helper()
	f, err := os.Open(full)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	got, want := make([]byte, end-off), make([]byte, end-off)
	if _, err := f.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("%q: %v", full, err)
	}
	if n.Content != nil {
		c, err := n.Content.Open()
		testrig.Must(t, err)
		defer c.Close()
		if _, err := c.ReadAt(want, off); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		i := 0
		for i < len(got) && got[i] == want[i] {
			i++
		}
		t.Errorf("%q: contents of [%d, %d) differ from byte %d on", full, off, end, off+int64(i))
	}
}
