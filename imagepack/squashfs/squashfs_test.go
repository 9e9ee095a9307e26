package squashfs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// makeImage packs dir with mksquashfs.
func makeImage(t testing.TB, dir string, args ...string) string {
	t.Helper()
	image := filepath.Join(testrig.MemoryDir(t), "image.squashfs")
	testrig.Run(t, "mksquashfs", append([]string{dir, image, "-noappend", "-no-progress", "-quiet", "-processors", "2"}, args...)...)
	return image
}

func open(t testing.TB, image string) (*squashfs.Reader, *tree.Inode) {
	t.Helper()
	f, size := testrig.OpenFile(t, image)
	if !squashfs.Probe(f) {
		t.Fatal("Probe does not know the image")
	}
	r, err := squashfs.Open(f, size)
	testrig.Must(t, err)
	root, err := r.Tree()
	testrig.Must(t, err)
	return r, root
}

// TestTreeIsWhatTheKernelShows compares every file of images of all kinds with the kernel's mount.
func TestTreeIsWhatTheKernelShows(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, treetest.Features{})
	wide := testrig.MemoryDir(t) // a listing of several 64 KiB
	treetest.MakeDir(t, wide, treetest.Features{Wide: 10_000})
	small := testrig.MemoryDir(t) // without what keeps xz busy for seconds
	treetest.MakeDir(t, small, treetest.Features{})
	for _, name := range []string{"random-1048576", "random-2097169", "text-1048576"} {
		testrig.Must(t, os.Remove(small+"/"+name))
	}
	for i, c := range []struct {
		name, dir string
		args      []string
		coarse    bool
	}{
		{"zstd", dir, []string{"-comp", "zstd", "-Xcompression-level", "3"}, true},
		{"wide", wide, []string{"-noI"}, true}, // the kernel takes long to look up names in compressed listings
		{"zstd 4K", dir, []string{"-comp", "zstd", "-Xcompression-level", "3", "-b", "4096"}, true},
		{"zstd 1M", dir, []string{"-comp", "zstd", "-Xcompression-level", "3", "-b", "1M"}, true},
		{"gzip", dir, []string{"-comp", "gzip", "-Xcompression-level", "3"}, true},
		{"gzip no fragments", dir, []string{"-comp", "gzip", "-Xcompression-level", "1", "-no-fragments"}, true},
		{"gzip always fragments", dir, []string{"-comp", "gzip", "-Xcompression-level", "1", "-always-use-fragments"}, true},
		{"gzip plain metadata", dir, []string{"-comp", "gzip", "-Xcompression-level", "1", "-noI", "-noX"}, true},
		{"gzip plain", dir, []string{"-noI", "-noD", "-noF", "-noX", "-b", "4096"}, false},
		{"gzip not exportable", dir, []string{"-noD", "-noF", "-no-exports", "-no-duplicates", "-no-sparse"}, true},
		{"xz", small, []string{"-comp", "xz"}, true},
		{"xz 1M", small, []string{"-comp", "xz", "-b", "1M", "-Xdict-size", "64K"}, true},
		{"lzo", dir, []string{"-comp", "lzo", "-Xcompression-level", "3"}, true},
		{"lzo 4K", dir, []string{"-comp", "lzo", "-Xalgorithm", "lzo1x_1", "-b", "4096"}, true},
		{"lz4", dir, []string{"-comp", "lz4"}, true},
		{"lz4 hc 4K", dir, []string{"-comp", "lz4", "-Xhc", "-b", "4096"}, true},
		{"no xattrs", dir, []string{"-noD", "-no-xattrs"}, true},
		{"all root", dir, []string{"-noD", "-all-root"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if i > 0 {
				testrig.Slow(t)
			}
			t.Parallel()
			image := makeImage(t, c.dir, c.args...)
			r, root := open(t, image)
			treetest.CompareDir(t, testrig.Mount(t, "squashfs", image), root)
			checkMap(t, image, r, root)
			if r.Info().Coarse() != c.coarse {
				t.Errorf("Coarse is %v: %+v", r.Info().Coarse(), r.Info())
			}
			if want := strings.Fields(c.name)[0]; strings.Contains(" zstd gzip xz lzo lz4 ", " "+want+" ") && r.Info().Compressor != want {
				t.Errorf("compressor %q, want %q", r.Info().Compressor, want)
			}
		})
	}
}

// checkMap checks that the map covers the whole image and every byte of every file exactly once. Where blocks
// are stored plainly, their bytes must be those of the file.
func checkMap(t *testing.T, image string, r *squashfs.Reader, root *tree.Inode) {
	t.Helper()
	b := testrig.ReadFile(t, image)
	m := r.Map()
	end := int64(0)
	covered := map[string]int64{}
	for _, s := range m.Segments() {
		if s.ImageOff > end {
			t.Errorf("no segment holds the image's [%d .. %d)", end, s.ImageOff)
		}
		end = max(end, s.ImageOff+s.ImageLen)
		if s.Kind == imagemap.Data {
			covered[s.Path] += s.FileLen
		}
	}
	if end != r.Info().BytesUsed {
		t.Errorf("the segments end at %d, the image at %d", end, r.Info().BytesUsed)
	}
	seen := map[*tree.Inode]bool{}
	_ = tree.Walk(root, func(p string, n *tree.Inode) error {
		if seen[n] {
			return nil
		}
		seen[n] = true
		if len(m.Find(p, imagemap.Inode, 0, 0)) == 0 {
			t.Errorf("%q: no segment holds its inode", p)
		}
		if n.IsDir() && len(n.Entries) > 0 && len(m.Find(p, imagemap.Dir, 0, 1)) != 1 {
			t.Errorf("%q: no segment holds its listing", p)
		}
		if n.Type() != tree.ModeRegular {
			return nil
		}
		size := n.Size
		if n.Data != nil {
			size = 0
			for _, e := range n.Data {
				size += e.Len
			}
		}
		if covered[p] != size {
			t.Errorf("%q: segments hold %d bytes of %d", p, covered[p], size)
		}
		if r.Info().PlainData && size > 0 {
			checkPlain(t, b, m, p, n)
		}
		return nil
	})
}

func checkPlain(t *testing.T, image []byte, m *imagemap.Map, p string, n *tree.Inode) {
	t.Helper()
	content := make([]byte, n.Size)
	c, err := n.Content.Open()
	testrig.Must(t, err)
	defer c.Close()
	if _, err := c.ReadAt(content, 0); err != nil {
		t.Fatal(err)
	}
	for _, s := range m.Find(p, imagemap.Data, 0, n.Size) {
		stored, want := image[s.ImageOff:s.ImageOff+s.ImageLen], content[s.FileOff:s.FileOff+s.FileLen]
		if s.ImageLen == s.FileLen && !bytes.Equal(stored, want) || !bytes.Contains(stored, want) {
			t.Errorf("%q: [%d +%d) of the file is not in [%d +%d) of the image", p, s.FileOff, s.FileLen, s.ImageOff, s.ImageLen)
		}
	}
}

// TestLargeFile reads beyond 4 GiB.
func TestLargeFile(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	f, err := os.Create(dir + "/large")
	testrig.Must(t, err)
	const size = 4<<30 + 3<<20 + 12345
	testrig.Must(t, f.Truncate(size))
	offs := []int64{0, 1<<32 - 5, 1<<32 + 1<<20, size - 10}
	for _, off := range offs {
		if _, err := f.WriteAt([]byte("0123456789"), off); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	image := makeImage(t, dir, "-comp", "lz4", "-b", "1M")
	_, root := open(t, image)
	n := root.Lookup("large")
	if n.Size != size {
		t.Fatalf("size %d, want %d", n.Size, size)
	}
	kernel, err := os.Open(testrig.Mount(t, "squashfs", image) + "/large")
	testrig.Must(t, err)
	defer kernel.Close()
	c, err := n.Content.Open()
	testrig.Must(t, err)
	defer c.Close()
	got, want := make([]byte, 3<<20), make([]byte, 3<<20)
	for _, off := range offs {
		off = max(0, off-1<<20)
		m, err := c.ReadAt(got, off)
		w, werr := kernel.ReadAt(want, off)
		if m != w || err != werr || !bytes.Equal(got[:m], want[:w]) {
			t.Errorf("at %d: %d bytes, %v; the kernel gives %d, %v", off, m, err, w, werr)
		}
	}
	var data int64
	for _, e := range n.Data {
		data += e.Len
	}
	if data == 0 || data > 8<<20 {
		t.Errorf("%d bytes of data in %v", data, n.Data)
	}
}

// TestReadAtAnywhere compares reads of all positions and lengths around block borders with one read of the whole.
func TestReadAtAnywhere(t *testing.T) {
	dir := testrig.MemoryDir(t)
	content := make([]byte, 3*4096+100)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	clear(content[4096:8192]) // a hole
	testrig.WriteFile(t, dir+"/file", content)
	for _, args := range [][]string{{"-always-use-fragments"}, {"-no-fragments"}, {"-noD", "-noF", "-always-use-fragments"}} {
		_, root := open(t, makeImage(t, dir, append(args, "-b", "4096")...))
		c, err := root.Lookup("file").Content.Open()
		testrig.Must(t, err)
		edges := []int{0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 12287, 12288, 12289, 12387, 12388, 12389, 20000}
		for _, off := range edges {
			for _, end := range edges {
				if end < off {
					continue
				}
				p := make([]byte, end-off)
				n, err := c.ReadAt(p, int64(off))
				want := content[min(off, len(content)):min(end, len(content))]
				if !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p) || off >= len(content)) || err != nil && err != io.EOF {
					t.Fatalf("%v: [%d .. %d): %d bytes, %v", args, off, end, n, err)
				}
			}
		}
		c.Close()
	}
}

func TestConcurrentReads(t *testing.T) {
	dir := testrig.MemoryDir(t)
	for i := range 20 {
		b := bytes.Repeat([]byte(fmt.Sprintf("file %d\n", i)), 5000+i*1000)
		testrig.WriteFile(t, fmt.Sprintf("%s/%d", dir, i), b)
	}
	_, root := open(t, makeImage(t, dir, "-comp", "zstd", "-always-use-fragments", "-b", "16384"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, d := range treetest.Diff(dir, root, treetest.Options{WholeSeconds: true, NoXattrs: true}) {
				t.Error(d)
			}
		})
	}
	wg.Wait()
}

// BenchmarkSequential reads a compressible file from its start to its end, 1 MiB and 16 KiB at a time.
func BenchmarkSequential(b *testing.B) {
	dir := testrig.MemoryDir(b)
	var text bytes.Buffer
	for i := 0; text.Len() < 64<<20; i++ {
		fmt.Fprintf(&text, "%d %x %s\n", i, i*i*2654435761, os.Args[0])
	}
	testrig.WriteFile(b, dir+"/file", text.Bytes())
	for _, comp := range []string{"zstd", "gzip", "lz4", "lzo", "xz"} {
		_, root := open(b, makeImage(b, dir, "-comp", comp))
		n := root.Lookup("file")
		for _, step := range []int{1 << 20, 16 << 10} {
			b.Run(fmt.Sprintf("%s-%dK", comp, step>>10), func(b *testing.B) {
				b.SetBytes(n.Size)
				p := make([]byte, step)
				for b.Loop() {
					c, err := n.Content.Open()
					testrig.Must(b, err)
					for off := int64(0); off < n.Size; off += int64(step) {
						if _, err := c.ReadAt(p, off); err != nil && err != io.EOF {
							b.Fatal(err)
						}
					}
					c.Close()
				}
			})
		}
	}
}
