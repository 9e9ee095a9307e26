package mountclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"crypto/sha256"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// A testPack is a pack of a directory that the kernel can be asked about.
type testPack struct {
	source string // the directory
	raw    []byte // the pack
	image  []byte // what is inside
	pack   *bpk.Pack
}

var packs struct {
	sync.Mutex
	dir    string
	byKind map[string]*keptPack
}

// A keptPack is made by the first test that needs it.
type keptPack struct {
	sync.Mutex
	*testPack
}

// Kinds of test packs.
const (
	hotAndCold = "hot and cold" // the boot zone holds part of the files, 1 MB stored; more than the opening requests
	noZone     = "no zone"      // the same tree, everything is body
	next       = "next"         // hot and cold, with one file changed and one more
	lean       = "lean"         // a few files, hot and cold as above: for tests that read all of it many times
	small      = "small"        // a few files, shorter than the opening requests
)

// trees make the trees of the kinds.
var trees = map[string]func(t testing.TB, dir string){
	hotAndCold: fillTree,
	noZone:     fillTree,
	next:       fillNext,
	lean:       fillLean,
	small:      fillSmall,
}

// packOf builds a pack of the kind once for all tests.
func packOf(t testing.TB, kind string) *testPack {
	t.Helper()
	testrig.NeedMounts(t)
	p, source := keptPackOf(t, kind)
	p.Lock()
	defer p.Unlock()
	if p.testPack == nil {
		if _, err := os.Stat(source); err != nil {
			testrig.Must(t, os.Mkdir(source, 0o755))
			trees[kind](t, source)
		}
		p.testPack = buildPack(t, source, kind)
	}
	return p.testPack
}

// keptPackOf returns where the pack of a kind is kept, and its tree.
func keptPackOf(t testing.TB, kind string) (p *keptPack, source string) {
	t.Helper()
	packs.Lock()
	defer packs.Unlock()
	if packs.byKind == nil {
		dir, err := os.MkdirTemp("", "mountclient-packs-")
		testrig.Must(t, err)
		packs.dir, packs.byKind = dir, map[string]*keptPack{}
	}
	if packs.byKind[kind] == nil {
		packs.byKind[kind] = &keptPack{}
	}
	return packs.byKind[kind], filepath.Join(packs.dir, strings.ReplaceAll(kind, " ", "-"))
}

// removePacks frees what packOf made; TestMain calls it.
func removePacks() {
	if packs.dir != "" {
		os.RemoveAll(packs.dir)
	}
}

// fillSmall makes files that compress to almost nothing.
func fillSmall(t testing.TB, dir string) {
	for i := range 20 {
		testrig.WriteFile(t, fmt.Sprintf("%s/file-%d", dir, i), bytes.Repeat([]byte{byte(i)}, 1000*i))
	}
}

// fillLean makes files that do not compress, one that does, and one of zeros.
func fillLean(t testing.TB, dir string) {
	for i := range 6 {
		testrig.WriteFile(t, fmt.Sprintf("%s/file-%d", dir, i), testrig.Noise(uint32(i), 300_000+i))
	}
	testrig.WriteFile(t, dir+"/text", halved(testrig.Noise(9, 200_000)))
	testrig.WriteFile(t, dir+"/zeros", make([]byte, 100_000))
}

// halved leaves half of the bits of each byte: what compresses well, and fast.
func halved(b []byte) []byte {
	for i := range b {
		b[i] &= 15
	}
	return b
}

// fillTree makes one of everything and files that compress well, badly, and are zeros.
func fillTree(t testing.TB, dir string) {
	treetest.MakeDir(t, dir, treetest.Features{Nanoseconds: true, ACL: true})
	files, _ := filepath.Glob(dir + "/[rt]*-*") // random-SIZE, text-SIZE
	for i, f := range files {
		// Larger than these tests need; and text takes a minute to compress under the race detector.
		if st, err := os.Stat(f); err == nil && st.Size() >= 1<<20 {
			testrig.WriteFile(t, f, halved(testrig.Noise(uint32(i+10), 300_000)))
		}
	}
	for i := range 6 {
		b := testrig.Noise(uint32(i), 500_000+i)
		if i%2 == 1 {
			b = halved(b)
		}
		testrig.WriteFile(t, fmt.Sprintf("%s/big/file-%d", dir, i), b)
	}
	// EROFS keeps the blocks of a file of zeros that has no hole.
	testrig.WriteFile(t, dir+"/big/zeros", make([]byte, 400_000))
}

// fillNext makes the tree of fillTree with one file changed and one more.
func fillNext(t testing.TB, dir string) {
	fillTree(t, dir)
	f, err := os.OpenFile(dir+"/big/file-2", os.O_WRONLY, 0)
	testrig.Must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("another version"), 300_000)
	testrig.Must(t, err)
	testrig.WriteFile(t, dir+"/zz-new", bytes.Repeat([]byte("new"), 20_000))
}

// bootOf returns what the boot zone of a kind holds: all metadata, and then pages from the middle of files,
// the last files first. Large runs of zeros are left out: under the race detector they take long to compress.
func bootOf(t testing.TB, kind string, img imagepack.Image) (out []profiles.Range) {
	if kind == noZone {
		return nil
	}
	segs := img.Segments()
	for _, s := range segs {
		if s.Kind != imagemap.Data {
			out = append(out, profiles.Range{ImageOff: s.ImageOff, Len: s.ImageLen})
		}
	}
	for i := len(segs) - 1; i >= 0; i-- {
		s := segs[i]
		b := make([]byte, s.ImageLen)
		if _, err := img.ReadAt(b, s.ImageOff); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		switch {
		case s.Kind != imagemap.Data || len(b) > 8*bpk.PageSize && isZero(b):
		case i%4 == 0 && s.ImageLen > 3*bpk.PageSize:
			out = append(out, profiles.Range{ImageOff: s.ImageOff + bpk.PageSize, Len: s.ImageLen - 2*bpk.PageSize})
		case i%4 == 0:
			out = append(out, profiles.Range{ImageOff: s.ImageOff, Len: s.ImageLen})
		}
	}
	return out
}

func buildPack(t testing.TB, source, kind string) *testPack {
	t.Helper()
	ctx := context.Background()
	img, err := imagepack.Open(ctx, source, "")
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	p := &testPack{source: source, image: make([]byte, img.Size())}
	if _, err := img.ReadAt(p.image, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "pack.bpk")
	if _, err := imagepack.Write(ctx, out, img, imagepack.WriteOptions{
		Boot: bootOf(t, kind, img), BootLevel: imagepack.BootFast, BodyLevel: zstd.SpeedFastest}); err != nil {
		t.Fatal(err)
	}
	if p.raw, err = os.ReadFile(out); err != nil {
		t.Fatal(err)
	}
	if p.pack, err = bpk.Open(bytes.NewReader(p.raw), int64(len(p.raw))); err != nil {
		t.Fatal(err)
	}
	return p
}

// serve serves the pack.
func (p *testPack) serve(t testing.TB) *faultserver.Server { return serveBytes(t, p.raw) }

func serveBytes(t testing.TB, b []byte) *faultserver.Server {
	t.Helper()
	s := faultserver.New(b)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// newer is the pack with another major version and a right checksum.
func (p *testPack) newer() []byte {
	b := bytes.Clone(p.raw)
	binary.LittleEndian.PutUint16(b[8:], bpk.Major+1)
	sum := sha256.Sum256(b[:bpk.HeaderSize-32])
	copy(b[bpk.HeaderSize-32:], sum[:])
	return b
}

// coldChunk returns a body chunk that is stored, the n-th.
func (p *testPack) coldChunk(t testing.TB, n int) bpk.Entry {
	t.Helper()
	var out []bpk.Entry
	if err := p.pack.Chunks(func(e bpk.Entry) error {
		if e.Len > 0 {
			out = append(out, e)
		}
		return nil
	}); err != nil || len(out) <= n {
		t.Fatalf("body chunk %d of %d: %v", n, len(out), err)
	}
	return out[n]
}

// open opens a client of the pack's server, without mounting.
func openClient(t testing.TB, s *faultserver.Server, change func(*Options)) *Client {
	t.Helper()
	o := Options{URL: s.URL("pack.bpk"), Log: testLog(t)}
	if change != nil {
		change(&o)
	}
	if o.CacheDir != "" {
		afterForks(o.CacheDir)
	}
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// checkImage reads the whole image through the client and compares it.
func checkImage(t testing.TB, c *Client, want []byte, step int) {
	t.Helper()
	buf := make([]byte, step)
	for off := 0; off < len(want); off += step {
		n, err := c.ReadAt(context.Background(), buf, int64(off))
		if w := want[off:min(len(want), off+step)]; err != nil || !bytes.Equal(buf[:n], w) {
			t.Fatalf("image [%d +%d): %d bytes, %v, equal: %t", off, step, n, err, bytes.Equal(buf[:n], w))
		}
	}
}
