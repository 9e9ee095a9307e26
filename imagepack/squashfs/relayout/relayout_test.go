package relayout_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/squashfs/relayout"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// TestRelayout moves images of all kinds and compares the new one with its source, as the kernel and as unsquashfs
// see them.
func TestRelayout(t *testing.T) {
	testrig.NeedRoot(t)
	dir := makeTree(t, treetest.Features{})
	for _, c := range []struct {
		name string
		args []string
	}{
		{"gzip", []string{"-comp", "gzip"}},
		{"gzip 4K", []string{"-comp", "gzip", "-b", "4K", "-Xcompression-level", "1"}},
		{"gzip 1M always fragments", []string{"-comp", "gzip", "-b", "1M", "-always-use-fragments", "-Xcompression-level", "1"}},
		{"gzip options", []string{"-comp", "gzip", "-Xcompression-level", "3", "-Xwindow-size", "10"}},
		{"lz4 4K", []string{"-comp", "lz4", "-b", "4K"}},
		{"lz4", []string{"-comp", "lz4"}},
		{"lz4 1M", []string{"-comp", "lz4", "-b", "1M", "-Xhc"}},
		{"lzo 4K", []string{"-comp", "lzo", "-b", "4K", "-Xcompression-level", "1"}},
		{"lzo", []string{"-comp", "lzo"}},
		{"lzo 1M", []string{"-comp", "lzo", "-b", "1M", "-Xcompression-level", "1"}},
		{"xz 4K", []string{"-comp", "xz", "-b", "4K"}},
		{"xz", []string{"-comp", "xz"}},
		{"xz BCJ", []string{"-comp", "xz", "-Xbcj", "x86"}},
		{"xz 1M small dictionary", []string{"-comp", "xz", "-b", "1M", "-Xdict-size", "24K"}},
		{"zstd", []string{"-comp", "zstd"}},
		{"zstd 4K", []string{"-comp", "zstd", "-b", "4K", "-Xcompression-level", "3"}},
		{"zstd always fragments", []string{"-comp", "zstd", "-always-use-fragments", "-Xcompression-level", "3"}},
		{"zstd 1M", []string{"-comp", "zstd", "-b", "1M", "-Xcompression-level", "3"}},
		{"no fragments, not exportable", []string{"-Xcompression-level", "1", "-no-fragments", "-no-exports"}},
		{"no duplicates", []string{"-Xcompression-level", "1", "-no-duplicates", "-always-use-fragments"}},
		{"all plain", []string{"-noI", "-noD", "-noF", "-noX", "-b", "4K"}},
		{"plain ids and fragments", []string{"-Xcompression-level", "1", "-noId", "-noF", "-no-xattrs"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "gzip" && c.name != "all plain" {
				testrig.Slow(t)
			}
			image := makeImage(t, dir, c.args...)
			checkRelayout(t, image, open(t, image), !strings.Contains(c.name, " "))
		})
	}
}

func checkRelayout(t *testing.T, image string, src *squashfs.Reader, extracted bool) {
	order := randomOrder(1, src.Map().Segments())
	out := create(t)
	l, err := relayout.Relayout(context.Background(), src, out, relayout.Options{Order: order})
	testrig.Must(t, err)
	if st, _ := out.Stat(); st.Size() != l.Size || l.Size%4096 != 0 {
		t.Errorf("%d bytes written, the layout says %d", st.Size(), l.Size)
	}
	if l.UnknownTouches != 1 {
		t.Errorf("%d unknown touches", l.UnknownTouches)
	}
	checkHot(t, l, order)
	checkMoved(t, src, open(t, out.Name()), l, order)
	root, err := src.Tree()
	testrig.Must(t, err)
	a, b := testrig.Mount(t, "squashfs", image), testrig.Mount(t, "squashfs", out.Name())
	compare(t, b, root)
	sameStat(t, a, b)
	if a, b := listing(t, image), listing(t, out.Name()); a != b {
		t.Errorf("unsquashfs lists %s instead of %s", b, a)
	}
	info, want := open(t, out.Name()).Info(), src.Info()
	want.BytesUsed, want.Fragments = info.BytesUsed, info.Fragments
	if info != want {
		t.Errorf("%+v, source %+v", info, want)
	}
	if extracted {
		extract(t, image, out.Name())
		again := create(t)
		l2, err := relayout.Relayout(context.Background(), src, again, relayout.Options{Order: order, Workers: 1})
		testrig.Must(t, err)
		sameBytes(t, out.Name(), again.Name())
		if l2.Size != l.Size || l2.HotEnd != l.HotEnd {
			t.Errorf("layouts differ: %d, %d; %d, %d", l.Size, l.HotEnd, l2.Size, l2.HotEnd)
		}
	}
}

func sameBytes(t *testing.T, a, b string) {
	t.Helper()
	x := testrig.ReadFile(t, a)
	y := testrig.ReadFile(t, b)
	if string(x) != string(y) {
		t.Error("the same input gives other bytes")
	}
}

// TestNothingTouched moves an image without an order: no fragment block is unpacked.
func TestNothingTouched(t *testing.T) {
	testrig.NeedRoot(t)
	image := makeImage(t, makeTree(t, treetest.Features{}), "-comp", "zstd", "-Xcompression-level", "1")
	src, out := open(t, image), create(t)
	l, err := relayout.Relayout(context.Background(), src, out, relayout.Options{})
	testrig.Must(t, err)
	if l.RebuiltFragments != 0 || l.MovedFragments != int(src.Info().Fragments) || l.HotBytes != 0 {
		t.Errorf("%d rebuilt, %d of %d moved, %d bytes hot", l.RebuiltFragments, l.MovedFragments, src.Info().Fragments, l.HotBytes)
	}
	sameStat(t, testrig.Mount(t, "squashfs", image), testrig.Mount(t, "squashfs", out.Name()))
}

// TestLargeLittleTouched has a large file of which one block is touched behind the small ones.
func TestLargeLittleTouched(t *testing.T) {
	dir := testrig.MemoryDir(t)
	noise := testrig.ReadFile(t, "/proc/self/exe")
	for len(noise) < 12<<20 {
		noise = append(noise, noise...)
	}
	for name, b := range map[string][]byte{"a-cold": noise[:1<<20], "b-large": noise[:12<<20], "c-small": noise[5 : 1<<20]} {
		testrig.WriteFile(t, dir+"/"+name, b)
	}
	order := []relayout.Touch{{Path: "b-large", FileOff: 1 << 20, Len: 4096}, {Path: "c-small", Len: 1 << 20}}
	image := makeImage(t, dir, "-comp", "lz4", "-noD")
	check := func(l *relayout.Layout, err error) {
		t.Helper()
		testrig.Must(t, err)
		checkHot(t, l, order)
		if l.HotBytes > 2<<20 || l.LargeBytes < 12<<20 || l.LargeBytes > 13<<20 {
			t.Errorf("%d bytes hot, then %d of large files", l.HotBytes, l.LargeBytes)
		}
	}
	check(relayout.Relayout(context.Background(), open(t, image), create(t), relayout.Options{Order: order}))
	check(relayout.Write(context.Background(), fromDir(t, dir), create(t), relayout.Options{Order: order, Compressor: "none"}))
}

// TestFileHandles opens files of a moved image by handle, which goes through the export table.
func TestFileHandles(t *testing.T) {
	testrig.NeedRoot(t)
	src := open(t, makeImage(t, makeTree(t, treetest.Features{}), "-comp", "gzip", "-Xcompression-level", "1"))
	out := create(t)
	if _, err := relayout.Relayout(context.Background(), src, out, relayout.Options{Order: randomOrder(2, src.Map().Segments())}); err != nil {
		t.Fatal(err)
	}
	dir := testrig.Mount(t, "squashfs", out.Name())
	for _, name := range []string{"program", "linked", "src/relayout/order.go", "dir/deep", "special/null"} {
		var want, got unix.Stat_t
		testrig.Must(t, unix.Lstat(dir+"/"+name, &want))
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir+"/"+name, 0)
		testrig.Must(t, err)
		root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		testrig.Must(t, err)
		// What the kernel has in its caches is found without the table.
		testrig.Must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
		fd, err := unix.OpenByHandleAt(root, h, unix.O_PATH)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := unix.Fstat(fd, &got); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
		unix.Close(fd)
		unix.Close(root)
	}
}

// TestErrors cancels, and writes where nothing can be written.
func TestErrors(t *testing.T) {
	dir := testrig.MemoryDir(t)
	for i := range 100 {
		testrig.WriteFile(t, fmt.Sprintf("%s/%d", dir, i), make([]byte, 10_000+i))
	}
	src := open(t, makeImage(t, dir, "-noD", "-noF"))
	root := fromDir(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	testrig.Must(t, err)
	defer full.Close()
	for _, c := range []struct {
		ctx  context.Context
		dst  *os.File
		want error
	}{{ctx, create(t), context.Canceled}, {context.Background(), full, unix.ENOSPC}} {
		_, err := relayout.Relayout(c.ctx, src, c.dst, relayout.Options{})
		if !errors.Is(err, c.want) {
			t.Errorf("Relayout: %v, want %v", err, c.want)
		}
		_, err = relayout.Write(c.ctx, root, c.dst, relayout.Options{})
		if !errors.Is(err, c.want) {
			t.Errorf("Write: %v, want %v", err, c.want)
		}
	}
}
