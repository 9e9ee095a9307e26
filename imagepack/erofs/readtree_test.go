package erofs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// mkfs makes an image of dir. That of files in chunks lies on a disk: mkfs.erofs 1.5 cannot write it to a tmpfs.
func mkfs(t testing.TB, dir string, args ...string) string {
	t.Helper()
	to := testrig.MemoryDir
	if strings.Contains(strings.Join(args, " "), "--chunksize") {
		to = testing.TB.TempDir
	}
	image := filepath.Join(to(t), "mkfs")
	testrig.Run(t, "mkfs.erofs", append(args, "--quiet", "-d0", image, dir)...)
	return image
}

// openTree reads the tree of the image file at path.
func openTree(t testing.TB, path string) *tree.Inode {
	t.Helper()
	f, size := testrig.OpenFile(t, path)
	root, err := ReadTree(f, size)
	testrig.Must(t, err)
	return root
}

// makeSource fills a directory with one of everything and with what compressors, deduplication and packing of tails
// treat specially.
func makeSource(t testing.TB) string {
	t.Helper()
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, treetest.Features{Nanoseconds: true, ACL: true, LateTime: true})
	// mkfs.erofs 1.5 cuts names of 255 bytes and then does not find them.
	testrig.Must(t, os.Remove(dir+"/"+strings.Repeat("n", 255)))
	write := func(name string, b []byte) {
		t.Helper()
		testrig.WriteFile(t, dir+"/"+name, b)
	}
	random := func(n int, seed string) []byte {
		var b []byte
		for i := 0; len(b) < n; i++ {
			h := sha256.Sum256(fmt.Appendf(nil, "%s%d", seed, i))
			b = append(b, h[:]...)
		}
		return b[:n]
	}
	self := testrig.ReadFile(t, os.Args[0])
	self = self[:min(len(self), 1<<20+500_000)]
	write("program", self)
	write("program shifted", append([]byte("some bytes before"), self[:1<<20]...))
	write("program from the middle", self[1<<20:])
	mixed := append(random(70_001, "a"), bytes.Repeat([]byte("text"), 30_000)...)
	mixed = append(append(mixed, random(9_000, "b")...), self[:50_000]...)
	write("mixed", append(mixed, random(70_001, "a")...))
	for i := range 40 {
		write(fmt.Sprintf("tail-%d", i), append(bytes.Repeat([]byte("x"), i*409), random(i*13, "c")...))
		write(fmt.Sprintf("random-tail-%d", i), random(i*503, fmt.Sprint(i)))
	}
	for _, n := range []int{4096 * 15, 4096 * 16, 4096 * 17, 4096*64 + 1, 4096*100 - 1} {
		write(fmt.Sprintf("blocks-%d", n), bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n])
	}
	return dir
}

// TestTreeIsWhatTheKernelShows compares the trees of images of all kinds with the kernel's mount.
func TestTreeIsWhatTheKernelShows(t *testing.T) {
	testrig.NeedRoot(t)
	dir := makeSource(t)
	for i, args := range []string{
		"-x2",
		"-x-1",
		"-T1234567890",
		"-Eforce-inode-compact --force-uid=1 --force-gid=65535",
		"--chunksize=4096",
		"--chunksize=65536 -Eforce-chunk-indexes",
		"-zlz4",
		"-zlz4 -Elegacy-compress",
		"-zlz4hc,3 -C65536",
		"-zlz4 -C1048576",
		"-zlz4 -C16384 -Elegacy-compress",
		"-zlz4 -Eztailpacking",
		"-zlz4 -Eztailpacking,legacy-compress",
		"-zlz4 -C65536 -Eztailpacking -x1",
		"-zlz4 --max-extent-bytes=8192",
	} {
		t.Run(args, func(t *testing.T) {
			if i > 0 && args != "-zlz4" {
				testrig.Slow(t)
			}
			t.Parallel()
			image := mkfs(t, dir, strings.Fields(args)...)
			treetest.CompareDir(t, testrig.Mount(t, "erofs", image), openTree(t, image))
		})
	}
}

// goldens returns the images in testdata, unpacked, by name.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.erofs.gz")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d golden images, %v", len(paths), err)
	}
	images := map[string][]byte{}
	for _, p := range paths {
		f, err := os.Open(p)
		testrig.Must(t, err)
		defer f.Close()
		z, err := gzip.NewReader(f)
		testrig.Must(t, err)
		b, err := io.ReadAll(z)
		testrig.Must(t, err)
		images[strings.TrimSuffix(filepath.Base(p), ".erofs.gz")] = b
	}
	return images
}

// mountBytes mounts an image and returns its path and the directory.
func mountBytes(t testing.TB, b []byte) (image, dir string) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "image")
	testrig.WriteFile(t, image, b)
	return image, testrig.Mount(t, "erofs", image)
}

// TestTreeOfNewerMkfs does so with images that mkfs.erofs 1.5 does not make: fragments, deduplication, other
// compressors, small blocks, xattr prefixes.
func TestTreeOfNewerMkfs(t *testing.T) {
	for name, b := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			image, dir := mountBytes(t, b)
			root := openTree(t, image)
			treetest.CompareDir(t, dir, root)
			// Laid out anew it is the same tree.
			treetest.CompareDir(t, testrig.Mount(t, "erofs", writeImage(t, mustPlan(t, root))), root)
		})
	}
}

// TestTreeOfOwnImage reads back what Plan made.
func TestTreeOfOwnImage(t *testing.T) {
	root := everything()
	got := openTree(t, writeImage(t, mustPlan(t, root)))
	checkMount(t, testrig.Mount(t, "erofs", writeImage(t, mustPlan(t, got))), root)
	want := map[string]*tree.Inode{}
	_ = tree.Walk(root, func(p string, n *tree.Inode) error { want[p] = n; return nil })
	_ = tree.Walk(got, func(p string, n *tree.Inode) error {
		w := want[p]
		delete(want, p)
		same := w != nil && w.Size == n.Size && w.MtimeSec == n.MtimeSec && w.MtimeNsec == n.MtimeNsec && len(w.Xattrs) == len(n.Xattrs)
		for i := 0; same && i < len(n.Xattrs); i++ {
			same = w.Xattrs[i].Name == n.Xattrs[i].Name && bytes.Equal(w.Xattrs[i].Value, n.Xattrs[i].Value)
		}
		if !same {
			t.Errorf("%q: %+v, want %+v", p, n, w)
		}
		return nil
	})
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
	if n := got.Lookup("sparse").Lookup("huge hole"); n.Content != nil || n.Data == nil {
		t.Errorf("a file that is a hole: %+v", n)
	}
	if n := got.Lookup("sparse").Lookup("checker"); len(n.Data) != 64 {
		t.Errorf("a file of 64 parts has %d", len(n.Data))
	}
}

// TestReadAtAnywhere compares reads of all positions and lengths around borders with the kernel's.
func TestReadAtAnywhere(t *testing.T) {
	for name, b := range goldens(t) {
		image, dir := mountBytes(t, b)
		n := openTree(t, image).Lookup("mixed")
		want := testrig.ReadFile(t, dir+"/mixed")
		c, err := n.Content.Open()
		testrig.Must(t, err)
		var edges []int
		for off := 0; off < len(want)+4096; off += 2048 {
			edges = append(edges, max(0, off-1), off, off+1)
		}
		for i, off := range edges {
			for _, end := range edges[i:] {
				p := make([]byte, end-off)
				m, err := c.ReadAt(p, int64(off))
				w := want[min(off, len(want)):min(end, len(want))]
				if !bytes.Equal(p[:m], w) || (err == io.EOF) != (m < len(p) || off >= len(want)) || err != nil && err != io.EOF {
					t.Fatalf("%s: [%d .. %d): %d bytes, %v", name, off, end, m, err)
				}
			}
		}
		c.Close()
	}
}

func TestConcurrentReads(t *testing.T) {
	image, dir := mountBytes(t, goldens(t)["lz4-fragments-dedupe"])
	root := openTree(t, image)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for _, d := range treetest.Diff(dir, root, treetest.Options{}) {
				t.Error(d)
			}
		})
	}
	wg.Wait()
}

// TestCompressedHole makes pclusters of no blocks. Linux takes them for holes since its zmap.c knows Z_EROFS_LI_HOLE, after
// 6.18; no mkfs.erofs up to 1.8 makes any.
func TestCompressedHole(t *testing.T) {
	testrig.NeedRoot(t)
	src := t.TempDir()
	testrig.WriteFile(t, src+"/file", bytes.Repeat([]byte("0123456789abcde\n"), 50_000))
	for _, args := range [][]string{{"-Elegacy-compress"}, nil} {
		b := testrig.ReadFile(t, mkfs(t, src, append(args, "-zlz4", "-C16384", "--max-extent-bytes=65536", "-x-1")...))
		root, err := ReadTree(bytes.NewReader(b), int64(len(b)))
		testrig.Must(t, err)
		c := root.Lookup("file").Content.(*content)
		x := c.open().x
		for _, pos := range []int64{65536 * 2, 65536 * 3, 65536 * 7} {
			lcn := pos>>12 + 1
			l, err := x.at(lcn)
			if err != nil || l.typ != lcNonHead || l.blocks < 1 {
				t.Fatalf("lcluster %d: %+v, %v", lcn, l, err)
			}
			if x.full {
				le.PutUint16(b[x.index+lcn*fullIndexSize+4:], blockCountBit)
				continue
			}
			// In the pack, clear the low bits of the count's field. The addresses after it in the pack change.
			off, length, first := x.pack(lcn)
			bit := int(lcn-first) * 16
			if length == 32 {
				bit = int(lcn-first) * 14
			}
			at := off + int64(bit/8)
			le.PutUint32(b[at:], le.Uint32(b[at:])&^(0x7ff<<(bit&7)))
		}
		if root, err = ReadTree(bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatal(err)
		}
		n := root.Lookup("file")
		if len(n.Data) < 3 || n.Data[1] != (tree.Extent{Off: 65536 * 4, Len: 65536 * 3}) {
			t.Errorf("%v: data in %v", args, n.Data)
		}
		if !x.full { // the addresses of later pclusters in a pack have moved
			continue
		}
		want := bytes.Repeat([]byte("0123456789abcde\n"), 50_000)
		clear(want[65536*2 : 65536*4])
		clear(want[65536*7 : 65536*8])
		got := make([]byte, n.Size)
		if _, err := n.Content.(*content).open().ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: other content, %v", args, err)
		}
	}
}
