package relayout_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs/relayout"
	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// narrow takes from a tree what squashfs does not keep, and returns how much that is.
func narrow(root *tree.Inode) (xattrs, times int) {
	seen := map[*tree.Inode]bool{}
	_ = tree.Walk(root, func(_ string, n *tree.Inode) error {
		if seen[n] {
			return nil
		}
		seen[n] = true
		var keep []tree.Xattr
		for _, x := range n.Xattrs {
			if strings.HasPrefix(x.Name, "system.") {
				xattrs++
				continue
			}
			keep = append(keep, x)
		}
		n.Xattrs = keep
		if sec := min(max(n.MtimeSec, 0), 1<<32-1); sec != n.MtimeSec {
			n.MtimeSec = sec
			times++
		}
		return nil
	})
	return xattrs, times
}

// TestWrite writes trees with every compressor and compares the kernel's mount with the tree, and, for the default
// one, what unsquashfs extracts.
func TestWrite(t *testing.T) {
	testrig.NeedRoot(t)
	dir := makeTree(t, treetest.Features{ACL: true, NegativeTime: true, LateTime: true, Nanoseconds: true, Wide: 1500})
	root := fromDir(t, dir)
	want := fromDir(t, dir)
	xattrs, times := narrow(want)
	order := treeOrder(root)
	for _, c := range []struct {
		comp  string
		block int
	}{{"", 0}, {"zstd", 4096}, {"zstd", 1 << 20}, {"gzip", 0}, {"lz4", 0}, {"lz4", 1 << 20}, {"xz", 4096}, {"xz", 1 << 20}, {"none", 4096}, {"none", 0}} {
		t.Run(fmt.Sprintf("%s %d", c.comp, c.block), func(t *testing.T) {
			if c.comp != "" && (c.comp != "none" || c.block == 0) {
				testrig.Slow(t)
			}
			out := create(t)
			var done, total int64
			opts := relayout.Options{Order: order, Compressor: c.comp, BlockSize: c.block, MkfsTime: 1_700_000_000,
				Progress: func(d, n int64) { done, total = d, n }}
			l, err := relayout.Write(context.Background(), root, out, opts)
			testrig.Must(t, err)
			if done != total || total == 0 {
				t.Errorf("progress ends at %d of %d", done, total)
			}
			if l.DroppedXattrs != xattrs || l.ClampedTimes != times || l.Duplicates < 2 || l.UnknownTouches != 1 {
				t.Errorf("%+v, want %d attributes dropped, %d times clamped", l, xattrs, times)
			}
			checkHot(t, l, order)
			compare(t, testrig.Mount(t, "squashfs", out.Name()), want)
			if s := testrig.Run(t, "unsquashfs", "-s", out.Name()); !strings.Contains(s, "Filesystem is exportable") || !strings.Contains(s, "Nov 14 22:13:20 2023") {
				t.Error(s)
			}
			r := open(t, out.Name())
			if r.Info().Coarse() == (c.comp == "none" && c.block == 4096) {
				t.Errorf("%+v", r.Info())
			}
			if c.comp == "none" {
				checkAligned(t, l)
			}
			if c.block == 0 {
				to := testrig.MemoryDir(t) + "/x"
				testrig.Run(t, "unsquashfs", "-no-progress", "-quiet", "-d", to, out.Name())
				compare(t, to, want)
				again := create(t)
				opts.Workers = 1
				if _, err := relayout.Write(context.Background(), root, again, opts); err != nil {
					t.Fatal(err)
				}
				sameBytes(t, out.Name(), again.Name())
			}
		})
	}
}

// checkAligned checks that content lies in whole pages.
func checkAligned(t *testing.T, l *relayout.Layout) {
	t.Helper()
	for _, s := range l.Segments {
		if s.Kind == imagemap.Data && (s.ImageOff%4096 != 0 || s.ImageLen%4096 != 0) {
			t.Fatalf("%+v is not in whole pages", s)
		}
	}
}

// treeOrder touches every ninth file, in an order of its own.
func treeOrder(root *tree.Inode) []relayout.Touch {
	var out []relayout.Touch
	i := 0
	_ = tree.Walk(root, func(p string, n *tree.Inode) error {
		if i++; i%9 == 0 {
			out = append([]relayout.Touch{{Path: p, Kind: imagemap.Data, FileOff: 0, Len: max(1, n.Size/2)}}, out...)
		}
		return nil
	})
	return append(out, relayout.Touch{Path: "linked/no", Kind: imagemap.Inode})
}

// TestThroughRelayout moves an image that Write made, and writes the tree of an image.
func TestThroughRelayout(t *testing.T) {
	testrig.NeedRoot(t)
	dir := makeTree(t, treetest.Features{})
	first, second, third := create(t), create(t), create(t)
	if _, err := relayout.Write(context.Background(), fromDir(t, dir), first, relayout.Options{Compressor: "lz4"}); err != nil {
		t.Fatal(err)
	}
	src := open(t, first.Name())
	order := randomOrder(3, src.Map().Segments())
	if _, err := relayout.Relayout(context.Background(), src, second, relayout.Options{Order: order}); err != nil {
		t.Fatal(err)
	}
	sameStat(t, testrig.Mount(t, "squashfs", first.Name()), testrig.Mount(t, "squashfs", second.Name()))
	root, err := open(t, second.Name()).Tree()
	testrig.Must(t, err)
	if _, err := relayout.Write(context.Background(), root, third, relayout.Options{BlockSize: 4096, Compressor: "none", Order: order}); err != nil {
		t.Fatal(err)
	}
	b := testrig.Mount(t, "squashfs", third.Name())
	compare(t, b, root)
	compare(t, dir, root)
}

// A markedFile is content of zeros with marks at some places.
type markedFile struct {
	size  int64
	marks map[int64]byte
}

func (m markedFile) Open() (tree.ReadAtCloser, error) { return m, nil }
func (m markedFile) Close() error                     { return nil }
func (m markedFile) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, c := range m.marks {
		if at >= off && at < off+int64(len(p)) {
			p[at-off] = c
		}
	}
	return int(min(int64(len(p)), m.size-off)), nil
}

func regular(size int64, marks map[int64]byte, data ...tree.Extent) *tree.Inode {
	n := &tree.Inode{Mode: tree.ModeRegular | 0o644, Size: size, Data: data}
	if marks != nil {
		n.Content = markedFile{size, marks}
	}
	return n
}

// rootOf makes a tree of one directory.
func rootOf(entries ...tree.Entry) *tree.Inode {
	return &tree.Inode{Mode: tree.ModeDir | 0o755, Entries: entries}
}

// TestExtremes has a file of more than 4 GiB, all kinds of holes and a directory of 50,000 entries.
func TestExtremes(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	const big = 5<<30 + 12345
	last := tree.Extent{Off: big - 345, Len: 345}
	root := rootOf(
		tree.Entry{Name: "big", Inode: regular(big, map[int64]byte{5: 'a', 4<<30 + 17: 'b', big - 1: 'c'},
			tree.Extent{Off: 0, Len: 4096}, tree.Extent{Off: 4 << 30, Len: 4096}, last)},
		tree.Entry{Name: "big-zero", Inode: regular(big, nil)},
		tree.Entry{Name: "same-a", Inode: regular(1<<20, map[int64]byte{700_000: 'x'})},
		tree.Entry{Name: "same-b", Inode: regular(1<<20, map[int64]byte{700_000: 'x'}, tree.Extent{Off: 655360, Len: 131072})},
		tree.Entry{Name: "same-not", Inode: regular(1<<20, map[int64]byte{700_000: 'y'})},
		tree.Entry{Name: "small-zero", Inode: regular(100, map[int64]byte{})},
	)
	wide := &tree.Inode{Mode: tree.ModeDir | 0o700}
	shared := regular(10, map[int64]byte{1: 1})
	for i := range 50_000 {
		n := shared // hard links break the sequence of inode numbers
		if i%7 != 0 {
			n = regular(0, nil)
		}
		wide.Entries = append(wide.Entries, tree.Entry{Name: fmt.Sprintf("%05d-%s", i, strings.Repeat("n", i%60)), Inode: n})
	}
	root.Entries = append(root.Entries, tree.Entry{Name: "wide", Inode: wide})
	out := create(t)
	order := []relayout.Touch{{Path: "wide/49999-" + strings.Repeat("n", 49999%60), Kind: imagemap.Inode}, {Path: "wide/00014-" + strings.Repeat("n", 14), Len: 1}}
	l, err := relayout.Write(context.Background(), root, out, relayout.Options{Compressor: "lz4", BlockSize: 1 << 17, Order: order})
	testrig.Must(t, err)
	if l.Duplicates != 1 {
		t.Errorf("%d duplicates", l.Duplicates)
	}
	dir := testrig.Mount(t, "squashfs", out.Name())
	list := testrig.Run(t, "ls", "-U", dir+"/wide")
	if n := strings.Count(list, "\n"); n != len(wide.Entries) {
		t.Errorf("%d entries", n)
	}
	if n := strings.Count(testrig.Run(t, "unsquashfs", "-l", out.Name(), "wide"), "/wide/"); n != len(wide.Entries) {
		t.Errorf("unsquashfs lists %d entries", n)
	}
	testrig.Must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
	var want unix.Stat_t
	testrig.Must(t, unix.Lstat(dir+"/wide/"+wide.Entries[0].Name, &want))
	for i := len(wide.Entries) - 1; i >= 0; i -= 101 { // by look-up, from the end
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/wide/"+wide.Entries[i].Name, &st); err != nil || (st.Ino == want.Ino) != (i%7 == 0) {
			t.Fatalf("entry %d: %v, %+v", i, err, st)
		}
	}
	if want.Nlink != 7143 {
		t.Errorf("%d links", want.Nlink)
	}
	f, err := os.Open(dir + "/big")
	testrig.Must(t, err)
	defer f.Close()
	got, wanted := make([]byte, 200_000), make([]byte, 200_000)
	for _, off := range []int64{0, 4<<30 - 100_000, big - 200_000} {
		if _, err := root.Entries[0].Inode.Content.(markedFile).ReadAt(wanted, off); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, wanted) {
			t.Errorf("big at %d differs, %v", off, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir+"/big", &st); err != nil || st.Size != big || st.Blocks > 1024 {
		t.Errorf("%+v, %v", st, err)
	}
	small := rootOf(root.Entries[2:6]...)
	for _, d := range treetest.Diff(dir, small, treetest.Options{}) {
		if !strings.Contains(d, "on disk only") {
			t.Error(d)
		}
	}
	// And moved, which gives it other positions.
	again := create(t)
	if _, err := relayout.Relayout(context.Background(), open(t, out.Name()), again, relayout.Options{Order: []relayout.Touch{{Path: "big", FileOff: big - 1, Len: 1}}}); err != nil {
		t.Fatal(err)
	}
	moved := testrig.Mount(t, "squashfs", again.Name())
	for i := 0; i < len(wide.Entries); i += 101 {
		var a, b unix.Stat_t
		name := "/wide/" + wide.Entries[i].Name
		testrig.Must(t, unix.Lstat(dir+name, &a))
		if err := unix.Lstat(moved+name, &b); err != nil || a.Ino != b.Ino || a.Nlink != b.Nlink {
			t.Errorf("%s: %v, %+v and %+v", name, err, a, b)
		}
	}
	if list != testrig.Run(t, "ls", "-U", moved+"/wide") {
		t.Error("the moved image lists other names")
	}
	for _, d := range treetest.Diff(moved, small, treetest.Options{}) {
		if !strings.Contains(d, "on disk only") {
			t.Error(d)
		}
	}
}

// TestAttributes has many sets, large values in common, and the longest of all.
func TestAttributes(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	root := rootOf()
	for i := range 1500 {
		n := &tree.Inode{Mode: tree.ModeSymlink | 0o777, LinkTarget: "x"}
		n.Xattrs = []tree.Xattr{
			{Name: "security.set", Value: fmt.Appendf(nil, "%d", i)},
			{Name: "security.shared", Value: bytes.Repeat([]byte{byte(i % 3)}, 500)},
			{Name: "trusted." + strings.Repeat("n", 200), Value: []byte{}},
		}
		if i == 7 {
			n.Xattrs[1].Value = bytes.Repeat([]byte{9}, 1<<16)
		}
		root.Entries = append(root.Entries, tree.Entry{Name: fmt.Sprintf("%04d", i), Inode: n})
	}
	for _, comp := range []string{"gzip", "none"} {
		out := create(t)
		if _, err := relayout.Write(context.Background(), root, out, relayout.Options{Compressor: comp}); err != nil {
			t.Fatal(err)
		}
		compare(t, testrig.Mount(t, "squashfs", out.Name()), root)
		again := create(t)
		if _, err := relayout.Relayout(context.Background(), open(t, out.Name()), again, relayout.Options{}); err != nil {
			t.Fatal(err)
		}
		compare(t, testrig.Mount(t, "squashfs", again.Name()), root)
	}
}

// TestRefused has what squashfs has no room for.
func TestRefused(t *testing.T) {
	owners := rootOf()
	for i := range 65536 {
		owners.Entries = append(owners.Entries, tree.Entry{Name: fmt.Sprintf("%05d", i), Inode: &tree.Inode{Mode: tree.ModeFIFO, UID: uint32(i), GID: uint32(i)}})
	}
	short := regular(5000, map[int64]byte{1: 1})
	short.Content = markedFile{4000, map[int64]byte{1: 1}}
	one := func(n *tree.Inode) *tree.Inode { return rootOf(tree.Entry{Name: "f", Inode: n}) }
	for want, c := range map[string]struct {
		root *tree.Inode
		opts relayout.Options
	}{
		`squashfs compressor "lzo": want zstd, gzip, xz, lz4 or none`:                             {rootOf(), relayout.Options{Compressor: "lzo"}},
		`squashfs block size 5000: want a power of two from 4096 to 1048576`:                      {rootOf(), relayout.Options{BlockSize: 5000}},
		"more than 65535 different owners and groups, the most that squashfs has room for":        {owners, relayout.Options{}},
		`"f": squashfs has room for devices up to 4095:1048575, not 5000:1`:                       {one(&tree.Inode{Mode: tree.ModeChar, RdevMajor: 5000, RdevMinor: 1}), relayout.Options{}},
		`"f": a symlink's target has 1 to 4095 bytes, not 4096`:                                   {one(&tree.Inode{Mode: tree.ModeSymlink, LinkTarget: strings.Repeat("x", 4096)}), relayout.Options{}},
		`"f": attribute "user.a" of 65537 bytes: a name has up to 255 bytes, a value up to 65536`: {one(&tree.Inode{Mode: tree.ModeFIFO, Xattrs: []tree.Xattr{{Name: "user.a", Value: make([]byte, 65537)}}}), relayout.Options{}},
		`"f": the file ends at 4000, its size was 5000`:                                           {one(short), relayout.Options{}},
		`"f": a file of 1152921504606846976 bytes is too large for blocks of 131072 bytes`:        {one(regular(1<<60, nil)), relayout.Options{}},
		"the root of the tree is not a directory":                                                 {regular(0, nil), relayout.Options{}},
		fmt.Sprintf("%q: a name has 1 to 255 bytes", strings.Repeat("n", 256)):                    {rootOf(tree.Entry{Name: strings.Repeat("n", 256), Inode: regular(0, nil)}), relayout.Options{}},
	} {
		if _, err := relayout.Write(context.Background(), c.root, create(t), c.opts); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestEmpty writes and moves an image of nothing but a root.
func TestEmpty(t *testing.T) {
	testrig.NeedRoot(t)
	if root, err := open(t, makeImage(t, testrig.MemoryDir(t))).Tree(); err != nil || len(root.Entries) != 0 {
		t.Errorf("the image of an empty directory: %v", err)
	}
	a, b := create(t), create(t)
	if _, err := relayout.Write(context.Background(), rootOf(), a, relayout.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := relayout.Relayout(context.Background(), open(t, a.Name()), b, relayout.Options{}); err != nil {
		t.Fatal(err)
	}
	compare(t, testrig.Mount(t, "squashfs", b.Name()), rootOf())
	testrig.Run(t, "unsquashfs", "-no-progress", "-quiet", "-d", testrig.MemoryDir(t)+"/x", b.Name())
}
