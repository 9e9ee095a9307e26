package imagepack

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
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

// mustPack writes the pack of img to a new file.
func mustPack(t testing.TB, img Image, opts WriteOptions) (path string, st *Stats) {
	t.Helper()
	if opts.BodyLevel == 0 {
		opts.BodyLevel = zstd.SpeedFastest
	}
	path = filepath.Join(t.TempDir(), "x.bpk")
	st, err := Write(context.Background(), path, img, opts)
	if err != nil {
		t.Fatal(err)
	}
	return path, st
}

func mustOpen(t testing.TB, ctx context.Context, path, fs string) Image {
	t.Helper()
	img, err := Open(ctx, path, fs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	})
	return img
}

func openPack(t testing.TB, path string) *bpk.Pack {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := bpk.Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// extract writes the image in a pack to a file and returns its path.
func extract(t testing.TB, pack string) string {
	t.Helper()
	p := openPack(t, pack)
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(p.Header.ImageSize); err != nil {
		t.Fatal(err)
	}
	if err := p.Extract(context.Background(), f, f); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting and making devices need root")
	}
}

// run runs a program and fails the test with the end of its output.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out[max(0, len(out)-1000):])
	}
}

// mount mounts an image by a loop device until the end of the test.
func mount(t testing.TB, fs, image string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-t", fs, "-o", "loop,ro", image, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// dirNames returns the names in a directory, sorted.
func dirNames(t testing.TB, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}
