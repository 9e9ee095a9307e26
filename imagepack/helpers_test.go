package imagepack

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// memImage is an image in memory.
type memImage struct {
	*bytes.Reader
	segs []imagemap.Segment
}

func newMemImage(b []byte, segs ...imagemap.Segment) *memImage {
	return &memImage{bytes.NewReader(b), segs}
}

func (m *memImage) Segments() []imagemap.Segment { return m.segs }
func (m *memImage) Filesystem() string           { return "" }
func (m *memImage) Close() error                 { return nil }

// mixedPages returns pages of all sorts: zeros, text, machine code, noise, repeats of earlier pages.
func mixedPages(seed uint64, pages int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	code, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	out := make([]byte, 0, pages*bpk.PageSize)
	for i := range pages {
		p := make([]byte, bpk.PageSize)
		switch r.IntN(6) {
		case 0:
		case 1, 2:
			var b bytes.Buffer
			for b.Len() < len(p) {
				fmt.Fprintf(&b, "%d: line %d\n", i, r.IntN(300))
			}
			copy(p, b.Bytes())
		case 3:
			copy(p, code[r.IntN(len(code)/2-len(p)):])
		case 4:
			for j := range p {
				p[j] = byte(r.Uint32())
			}
		case 5:
			if i > 0 {
				copy(p, out[r.IntN(i)*bpk.PageSize:])
			}
		}
		out = append(out, p...)
	}
	return out
}

// sparsePages returns an image of which the first pages are mixed, and the others zero: the boot zone's
// compressor takes 5 ms for a page of content.
func sparsePages(seed uint64, pages, mixed int) []byte {
	return append(mixedPages(seed, mixed), make([]byte, (pages-mixed)*bpk.PageSize)...)
}

// randomBoot returns n distinct pages of an image in random order, as ranges.
func randomBoot(seed uint64, imagePages, n int) []profiles.Range {
	var out []profiles.Range
	for _, p := range rand.New(rand.NewPCG(seed, 2)).Perm(imagePages)[:n] {
		out = append(out, profiles.Range{ImageOff: int64(p) * bpk.PageSize, Len: bpk.PageSize})
	}
	return out
}

// mustPack writes the pack of img to a new file, with the fastest compression unless opts say otherwise.
func mustPack(t testing.TB, img Image, opts WriteOptions) (path string, st *Stats) {
	t.Helper()
	if opts.BodyLevel == 0 {
		opts.BodyLevel = zstd.SpeedFastest
	}
	if opts.BootLevel == BootAuto {
		opts.BootLevel = BootFast
	}
	path = filepath.Join(testrig.MemoryDir(t), "x.bpk")
	st, err := Write(context.Background(), path, img, opts)
	testrig.Must(t, err)
	return path, st
}

func mustOpen(t testing.TB, ctx context.Context, path, fs string) Image {
	t.Helper()
	img, err := Open(ctx, path, fs)
	testrig.Must(t, err)
	t.Cleanup(func() {
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	})
	return img
}

func openPack(t testing.TB, path string) *bpk.Pack {
	t.Helper()
	f, size := testrig.OpenFile(t, path)
	p, err := bpk.Open(f, size)
	testrig.Must(t, err)
	return p
}

// extract writes the image in a pack to a file and returns its path.
func extract(t testing.TB, pack string) string {
	t.Helper()
	p := openPack(t, pack)
	path := filepath.Join(testrig.MemoryDir(t), "image")
	f, err := os.Create(path)
	testrig.Must(t, err)
	defer f.Close()
	testrig.Must(t, f.Truncate(p.Header.ImageSize))
	testrig.Must(t, p.Extract(context.Background(), f, f))
	return path
}

// dirNames returns the names in a directory, sorted.
func dirNames(t testing.TB, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	testrig.Must(t, err)
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}
