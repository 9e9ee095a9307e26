package erofs

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

func TestLimits(t *testing.T) {
	reg := func(edit func(n *tree.Inode)) *tree.Inode {
		n := newFile(10_000, 1)
		edit(n)
		return n
	}
	one := func(name string, n *tree.Inode) *tree.Inode { return newDir(tree.Entry{Name: name, Inode: n}) }
	loop := newDir()
	loop.Entries = []tree.Entry{{Name: "loop", Inode: loop}}
	twice := newDir()
	unsorted := &tree.Inode{Mode: tree.ModeDir, Entries: []tree.Entry{{Name: "b", Inode: newFile(1, 1)}, {Name: "a", Inode: newFile(1, 1)}}}
	var lots []tree.Xattr
	for i := range 400 {
		lots = append(lots, tree.Xattr{Name: fmt.Sprintf("user.%03d%s", i, strings.Repeat("n", 60))})
	}
	for _, c := range []struct {
		name string
		root *tree.Inode
		want string
	}{
		{"long name", one(strings.Repeat("n", 256), newFile(1, 1)), "256 bytes"},
		{"slash", one("a/b", newFile(1, 1)), "slash"},
		{"dot", one(".", newFile(1, 1)), "no name"},
		{"empty name", one("", newFile(1, 1)), "no name"},
		{"unsorted", unsorted, "not sorted"},
		{"cycle", loop, "directories have one name"},
		{"linked directory", newDir(tree.Entry{Name: "a", Inode: twice}, tree.Entry{Name: "b", Inode: twice}), `"/a"`},
		{"no inode", one("x", nil), "no inode"},
		{"type", one("x", &tree.Inode{Mode: 0o644}), "unknown file type"},
		{"long symlink", one("x", newLink(strings.Repeat("x", 4096))), "4096 bytes"},
		{"empty symlink", one("x", newLink("")), "0 bytes"},
		{"major", one("x", &tree.Inode{Mode: tree.ModeChar, RdevMajor: 4096}), "4096:0"},
		{"minor", one("x", &tree.Inode{Mode: tree.ModeBlock, RdevMinor: 1 << 20}), "0:1048576"},
		{"nanoseconds", one("x", reg(func(n *tree.Inode) { n.MtimeNsec = 1e9 })), "nanoseconds"},
		{"negative size", one("x", reg(func(n *tree.Inode) { n.Size = -1 })), "size is -1"},
		{"huge", one("x", reg(func(n *tree.Inode) { n.Size = 1 << 62 })), "at most"},
		{"over 16 TiB", one("x", reg(func(n *tree.Inode) { n.Size = 1 << 44 })), "16 TiB"},
		{"extent", one("x", reg(func(n *tree.Inode) { n.Data = []tree.Extent{{Off: 9000, Len: 2000}} })), "extent [9000 +2000)"},
		{"xattr space", one("x", reg(func(n *tree.Inode) { n.Xattrs = []tree.Xattr{{Name: "btrfs.compression"}} })), "btrfs.compression"},
		{"xattr value", one("x", reg(func(n *tree.Inode) { n.Xattrs = []tree.Xattr{{Name: "user.a", Value: make([]byte, 65536)}} })), "65536 bytes"},
		{"xattr name", one("x", reg(func(n *tree.Inode) { n.Xattrs = []tree.Xattr{{Name: "user." + strings.Repeat("n", 251)}} })), "256 bytes"},
		{"xattr twice", one("x", reg(func(n *tree.Inode) { n.Xattrs = []tree.Xattr{{Name: "user.a"}, {Name: "user.a"}} })), "not sorted"},
		{"xattrs", one("x", reg(func(n *tree.Inode) { n.Xattrs = lots })), "400 extended attributes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Plan(c.root, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want one line with %q", err, c.want)
			}
			if c.name != "over 16 TiB" && !errors.As(err, new(*LimitError)) {
				t.Errorf("%T is no LimitError", err)
			}
		})
	}
	if _, err := Plan(newFile(1, 1), Options{}); err == nil {
		t.Error("a file as root is accepted")
	}
	if _, err := Plan(newDir(), Options{Label: "0123456789abcdef"}); err == nil {
		t.Error("a label of 16 bytes is accepted")
	}
}

func TestOptions(t *testing.T) {
	root := everything()
	im, err := Plan(root, Options{
		BuildTimeSec: 1_700_000_000, BuildTimeNsec: 5,
		UUID:    [16]byte{0x12, 0x34, 15: 0xff},
		Label:   "fifteen bytes..",
		TailMax: 1 << 40,
	})
	testrig.Must(t, err)
	defer im.Close()
	path := writeImage(t, im)
	testrig.Run(t, "fsck.erofs", path)
	out := testrig.Run(t, "dump.erofs", "-s", path)
	for _, want := range []string{"12340000-0000-0000-0000-0000000000ff", "sb_csum", "chunked_file", "2023"} {
		if !strings.Contains(out, want) {
			t.Errorf("dump.erofs does not say %q:\n%s", want, out)
		}
	}
	label := testrig.Run(t, "blkid", "-p", "-o", "value", "-s", "LABEL", path)
	if strings.TrimSpace(label) != "fifteen bytes.." {
		t.Errorf("blkid says the label is %q", label)
	}
	checkMount(t, testrig.Mount(t, "erofs", path), root)
	checkOwnMap(t, im)
}

// TestContentErrors reads files whose content cannot be opened or is too short.
func TestContentErrors(t *testing.T) {
	broken := errors.New("no such content")
	short := newFile(5000, 1)
	short.Content = short.Content.(bytesContent)[:4999]
	root := newDir(
		tree.Entry{Name: "broken", Inode: &tree.Inode{Mode: tree.ModeRegular, Size: 10, Content: failing{broken}}},
		tree.Entry{Name: "short", Inode: short},
	)
	im := mustPlan(t, root)
	for _, s := range im.Segments() {
		if s.FileOff != 0 || s.FileLen == 0 || s.Path == "" {
			continue
		}
		_, err := im.ReadAt(make([]byte, s.ImageLen), s.ImageOff)
		want := map[string]error{"broken": broken, "short": io.ErrUnexpectedEOF}[s.Path]
		if !errors.Is(err, want) || !strings.Contains(err.Error(), `"/`+s.Path+`"`) {
			t.Errorf("%q: got %v, want %v", s.Path, err, want)
		}
	}
	if _, err := im.ReadAt(make([]byte, 1), im.Size()); err != io.EOF {
		t.Errorf("reading at the end: %v", err)
	}
	if _, err := im.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("reading at -1 works")
	}
	im.Close()
	if _, err := im.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reading a closed image: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Open() (tree.ReadAtCloser, error) { return nil, f.err }

// A countedContent counts its open handles and notices two users of one.
type countedContent struct {
	bytesContent
	open, most *atomic.Int64
	shared     *atomic.Bool
}

type countedHandle struct {
	tree.ReadAtCloser
	c    *countedContent
	busy atomic.Bool
}

func (c *countedContent) Open() (tree.ReadAtCloser, error) {
	if n := c.open.Add(1); n > c.most.Load() {
		c.most.Store(n)
	}
	h, err := c.bytesContent.Open()
	return &countedHandle{ReadAtCloser: h, c: c}, err
}

func (h *countedHandle) ReadAt(p []byte, off int64) (int, error) {
	if h.busy.Swap(true) {
		h.c.shared.Store(true)
	}
	defer h.busy.Store(false)
	return h.ReadAtCloser.ReadAt(p, off)
}

func (h *countedHandle) Close() error {
	h.c.open.Add(-1)
	return nil
}

func TestOpenContentsAreFew(t *testing.T) {
	var open, most atomic.Int64
	var shared atomic.Bool
	root := newDir()
	for i := range 300 {
		n := newFile(3000+i*10, byte(i))
		n.Content = &countedContent{n.Content.(bytesContent), &open, &most, &shared}
		root.Entries = append(root.Entries, tree.Entry{Name: fmt.Sprintf("f%03d", i), Inode: n})
	}
	im := mustPlan(t, root)
	if open.Load() != 0 {
		t.Error("Plan opened contents")
	}
	const readers = 4
	var wg sync.WaitGroup
	for g := range readers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(g)))
			p := make([]byte, 5000)
			for range 2000 {
				if _, err := im.ReadAt(p, r.Int64N(im.Size())); err != nil && err != io.EOF {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > maxOpen+2*readers {
		t.Errorf("%d contents were open at once", n)
	}
	if shared.Load() {
		t.Error("two goroutines read from one open content")
	}
	im.Close()
	if n := open.Load(); n != 0 {
		t.Errorf("%d contents are open after Close", n)
	}
}
