package imagepack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

const page = bpk.PageSize

// checkPack packs img and compares what comes back with want: the extracted image byte by byte, the boot
// zone's pages with the boot order.
func checkPack(t *testing.T, img Image, want []byte, boot []profiles.Range) (*bpk.Pack, *Stats) {
	t.Helper()
	path, st := mustPack(t, img, WriteOptions{Boot: boot, frame: 100})
	if got := testrig.ReadFile(t, extract(t, path)); !bytes.Equal(got, want) {
		t.Fatalf("the extracted image of %d bytes is not the one of %d bytes that was packed", len(got), len(want))
	}
	p := openPack(t, path)
	if p.Header.ImageSHA256 != sha256.Sum256(want) {
		t.Error("the header has another SHA-256 of the image")
	}
	if p.Digest != st.Digest || p.Header.PackSize != st.PackSize || p.Header.BootPages != st.BootPages {
		t.Errorf("stats %+v, header %+v", st, p.Header)
	}
	// Each chunk holds the pages whose turn it is, in image order.
	wantPages := eachOf(pageRanges(int64(len(want)), boot))
	for i := range p.Boot.Chunks {
		got := eachOf(p.Boot.RangesOf(&p.Boot.Chunks[i]))
		if len(got) > len(wantPages) {
			t.Fatalf("boot chunk %d holds %d pages, %d are left", i, len(got), len(wantPages))
		}
		turn := slices.Sorted(slices.Values(wantPages[:len(got)]))
		if wantPages = wantPages[len(got):]; !slices.Equal(got, turn) {
			t.Fatalf("boot chunk %d holds the pages %v, want %v", i, got, turn)
		}
	}
	if len(wantPages) > 0 {
		t.Fatalf("%d pages are missing in the boot zone", len(wantPages))
	}
	return p, st
}

func TestWriteEdges(t *testing.T) {
	testrig.SlowRaced(t)
	whole := func(pages int64) []profiles.Range { return []profiles.Range{{ImageOff: 0, Len: pages * page}} }
	for _, c := range []struct {
		name  string
		image []byte
		boot  []profiles.Range
	}{
		{"no byte", nil, nil},
		{"no byte, boot range", nil, whole(3)},
		{"one page", mixedPages(1, 1), nil},
		{"one zero page", make([]byte, page), nil},
		{"one page, all boot", mixedPages(3, 1), whole(1)},
		{"one zero page, all boot", make([]byte, page), whole(1)},
		{"all boot pages", sparsePages(4, 250, 40), whole(250)},
		{"all boot pages, backwards", mixedPages(5, 60), randomBoot(1, 60, 60)},
		{"all zeros", make([]byte, 1000*page), nil},
		{"all zeros, some boot", make([]byte, 1000*page), randomBoot(2, 1000, 100)},
		{"first chunk all boot", mixedPages(6, 100), whole(32)},
		{"last chunk all boot", mixedPages(7, 96), []profiles.Range{{ImageOff: 64 * page, Len: 32 * page}}},
		{"boot range over the end", mixedPages(8, 5), []profiles.Range{{ImageOff: 3 * page, Len: 99 * page}, {ImageOff: 70 * page, Len: page}}},
		{"odd and repeated boot ranges", mixedPages(9, 50), []profiles.Range{{ImageOff: 5*page + 100, Len: 1}, {ImageOff: 4*page - 1, Len: 3 * page}, {ImageOff: 0, Len: 10 * page}, {}}},
		{"one chunk and a page", mixedPages(10, 33), nil},
		{"a frame of full length", sparsePages(11, 200, 60), randomBoot(3, 200, 100)},
		{"two frames and a page", sparsePages(12, 300, 60), randomBoot(3, 300, 201)},
	} {
		t.Run(c.name, func(t *testing.T) { checkPack(t, newMemImage(c.image), c.image, c.boot) })
	}
}

func TestWriteRandomBoots(t *testing.T) {
	testrig.SlowRaced(t)
	image := sparsePages(20, 1000, 300)
	plain, _ := mustPack(t, newMemImage(image), WriteOptions{})
	want := testrig.ReadFile(t, extract(t, plain))
	for seed := range uint64(6) {
		if seed > 1 && testing.Short() {
			break
		}
		checkPack(t, newMemImage(image), want, randomBoot(seed, 1000, int(seed*100)+17))
	}
}

// segmented is an image with another map.
type segmented struct {
	Image
	segs []imagemap.Segment
}

func (s segmented) Segments() []imagemap.Segment { return s.segs }

// An index of three levels: more than 128*128 chunks, as small as they come.
func TestWriteDeepIndex(t *testing.T) {
	testrig.Slow(t)
	const chunks = 128*128 + 300
	const chunkPages = 8
	var segs []imagemap.Segment
	for i := 0; len(segs) < chunks; i++ {
		if name := fmt.Sprint("file ", i); pathHash(name)%borderOdds < 8 {
			segs = append(segs, imagemap.Segment{ImageOff: int64(len(segs)) * chunkPages * page, ImageLen: chunkPages * page, Path: name})
		}
	}
	path := filepath.Join(testrig.MemoryDir(t), "sparse")
	f, err := os.Create(path)
	testrig.Must(t, err)
	defer f.Close()
	testrig.Must(t, f.Truncate(chunks*chunkPages*page))
	for _, at := range []int64{0, 1, 127, 128, 129, 128*128 - 1, 128 * 128, chunks - 1} {
		if _, err := f.WriteAt([]byte{1, 2, 3, byte(at)}, at*chunkPages*page+77); err != nil {
			t.Fatal(err)
		}
	}
	img := segmented{mustOpen(t, context.Background(), path, ""), segs}
	pack, st := mustPack(t, img, WriteOptions{Boot: []profiles.Range{{ImageOff: 128 * chunkPages * page, Len: page}}})
	p := openPack(t, pack)
	if p.Header.BodyDepth != 3 || st.BodyChunks != chunks {
		t.Errorf("depth %d with %d chunks, want 3 with %d", p.Header.BodyDepth, st.BodyChunks, chunks)
	}
	if st.PackSize > 3<<20 {
		t.Errorf("the pack of an image of holes has %d bytes", st.PackSize)
	}
	for _, i := range []int{0, 129, 128 * 128, chunks - 1} { // the rest is compared by the digest in extract
		n := 0
		if err := p.Chunks(func(e bpk.Entry) error {
			if n == i && e.Page != int64(i)*chunkPages {
				t.Errorf("chunk %d begins at page %d", i, e.Page)
			}
			n++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.Open(extract(t, pack)) // compares the SHA-256, which Write took of the source
	testrig.Must(t, err)
	defer got.Close()
	a, b := make([]byte, page), make([]byte, page)
	for _, at := range []int64{0, 1, 2, 128, 128*128 - 1, 128 * 128, chunks - 1} {
		f.ReadAt(a, at*chunkPages*page)
		got.ReadAt(b, at*chunkPages*page)
		if !bytes.Equal(a, b) {
			t.Errorf("chunk %d differs", at)
		}
	}
}

// A raw image that does not fill its last page comes back with zeros behind it.
func TestWriteOddRawImage(t *testing.T) {
	for _, size := range []int{1, 511, page - 1, page + 1, 40*page + 17, 64*page - 1} {
		raw := mixedPages(uint64(size), size/page+1)[:size]
		raw[size-1] = 0xa5
		path := filepath.Join(testrig.MemoryDir(t), "raw")
		testrig.WriteFile(t, path, raw)
		img := mustOpen(t, context.Background(), path, FSKeep)
		want := append(raw, make([]byte, int(img.Size())-size)...)
		if len(want)%page != 0 || len(want)-size >= page {
			t.Fatalf("an image of %d bytes is padded to %d", size, len(want))
		}
		last := profiles.Range{ImageOff: int64(size-1) / page * page, Len: int64(size-1)%page + 1}
		checkPack(t, img, want, []profiles.Range{last})
		for off := 0; off <= len(want); off += 509 { // any read of the padded image
			b := make([]byte, 5000)
			n, err := img.ReadAt(b, int64(off))
			if !bytes.Equal(b[:n], want[off:min(off+5000, len(want))]) || (err == nil) != (n == len(b)) {
				t.Fatalf("image of %d bytes: ReadAt(%d) gives %d bytes, %v", size, off, n, err)
			}
		}
	}
}

// The same input gives the same bytes, whatever the number of goroutines and whether the digest is known.
func TestWriteReproducible(t *testing.T) {
	testrig.SlowRaced(t)
	image := sparsePages(30, 1200, 60)
	segs := []imagemap.Segment{{ImageOff: 3 * page, ImageLen: 70 * page, Path: "a"}, {ImageOff: 100 * page, ImageLen: 900 * page, Path: "b"}}
	info := func(int64) []byte { return []byte(`{"tool":"test"}`) }
	var first []byte
	for _, workers := range []int{1, 8, 3, 0} {
		opts := WriteOptions{Boot: randomBoot(4, 1200, 150), Workers: workers, frame: 40, Info: info}
		if workers == 3 {
			opts.ImageSHA256 = sha256.Sum256(image)
		}
		path, _ := mustPack(t, newMemImage(image, segs...), opts)
		b := testrig.ReadFile(t, path)
		if first == nil {
			first = b
		}
		if !bytes.Equal(first, b) {
			t.Errorf("%d workers write another pack", workers)
		}
	}
}

func TestWriteInfo(t *testing.T) {
	want := `{"tool":"test","boot":2}`
	path, _ := mustPack(t, newMemImage(mixedPages(1, 20)), WriteOptions{Boot: randomBoot(1, 20, 2), Info: func(n int64) []byte {
		if n != 2 {
			t.Errorf("Info was told of %d boot pages", n)
		}
		return []byte(want)
	}})
	if got, err := openPack(t, path).Info(); err != nil || string(got) != want {
		t.Errorf("Info = %q, %v", got, err)
	}
}

func TestWriteSharesEqualChunks(t *testing.T) {
	one := mixedPages(2, chunkPages)
	image := append(bytes.Repeat(one, 10), make([]byte, 5*chunkPages*page)...)
	_, st := checkPack(t, newMemImage(image), image, nil)
	if st.Shared != 9 || st.BodyChunks != 15 || st.Body > int64(len(one)) {
		t.Errorf("%d chunks, %d shared, %d bytes", st.BodyChunks, st.Shared, st.Body)
	}
}

func TestWriteProgress(t *testing.T) {
	image := sparsePages(3, 500, 100)
	last, calls := int64(0), 0
	mustPack(t, newMemImage(image), WriteOptions{Boot: randomBoot(1, 500, 100), Progress: func(done, total int64) {
		if done < last || done > total || total != int64(len(image)) {
			t.Errorf("progress goes from %d to %d of %d", last, done, total)
		}
		last = done
		calls++
	}})
	if last != int64(len(image)) || calls < 10 {
		t.Errorf("progress ended at %d of %d after %d calls", last, len(image), calls)
	}
}

func TestWriteRefuses(t *testing.T) {
	image := mixedPages(3, 10)
	for _, c := range []struct {
		name string
		img  Image
		opts WriteOptions
	}{
		{"an odd size", newMemImage(image[:1000]), WriteOptions{}},
		{"a digest that is another image's", newMemImage(image), WriteOptions{ImageSHA256: [32]byte{1}}},
		{"too much info", newMemImage(image), WriteOptions{Info: func(int64) []byte { return make([]byte, bpk.MaxIndexLen+1) }}},
		{"a bad name of a file system", namedImage{newMemImage(image), "../x"}, WriteOptions{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testrig.MemoryDir(t)
			if st, err := Write(context.Background(), dir+"/x.bpk", c.img, c.opts); err == nil || st != nil {
				t.Errorf("Write = %v, %v", st, err)
			} else {
				t.Log(err)
			}
			if got := dirNames(t, dir); len(got) != 0 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

type namedImage struct {
	*memImage
	fs string
}

func (n namedImage) Filesystem() string { return n.fs }

func TestOpenRefuses(t *testing.T) {
	dir := testrig.MemoryDir(t)
	pack, _ := mustPack(t, newMemImage(mixedPages(1, 2)), WriteOptions{})
	write := func(name string, b []byte) string {
		testrig.WriteFile(t, filepath.Join(dir, name), b)
		return filepath.Join(dir, name)
	}
	fifo := filepath.Join(dir, "fifo")
	testrig.Run(t, "mkfifo", fifo)
	sqfs := filepath.Join(dir, "whole.sqfs")
	testrig.Run(t, "mksquashfs", pack, sqfs, "-quiet", "-no-progress")
	for _, c := range []struct{ name, path, fs string }{
		{"nothing there", filepath.Join(dir, "missing"), ""},
		{"an empty file", write("empty", nil), ""},
		{"a pack of nothing known as a tree", pack, FSErofs},
		{"a cut pack", write("x.bpk", testrig.ReadFile(t, pack)[:520]), ""},
		{"a FIFO", fifo, ""},
		{"a character device", "/dev/null", ""},
		{"a directory as image", dir, FSKeep},
		{"an unknown form", dir, "ext2"},
		{"noise as a tree", write("noise", mixedPages(4, 3)), FSErofs},
		{"a cut gzip", write("x.tar.gz", []byte("\x1f\x8b\x08\x00\x00")), ""},
		{"a cut squashfs", write("x.sqfs", testrig.ReadFile(t, sqfs)[:300]), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			img, err := Open(context.Background(), c.path, c.fs)
			var input *InputError
			if !errors.As(err, &input) || img != nil {
				t.Fatalf("Open = %v, %v", img, err)
			}
			t.Log(err)
		})
	}
}
