package mountclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"crypto/sha256"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/faultserver"
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
	byKind map[string]*testPack
}

// Kinds of test packs. All hold the same tree.
const (
	hotAndCold = "hot and cold" // the boot zone holds part of the files, 1 MB stored; more than the opening requests
	noZone     = "no zone"      // everything is body
	small      = "small"        // a few files, shorter than the opening requests
)

// packOf builds a pack of the kind once for all tests.
func packOf(t testing.TB, kind string) *testPack {
	t.Helper()
	needRig(t)
	packs.Lock()
	defer packs.Unlock()
	if p := packs.byKind[kind]; p != nil {
		return p
	}
	if packs.byKind == nil {
		packs.byKind = map[string]*testPack{}
		dir, err := os.MkdirTemp("", "mountclient-packs-")
		if err != nil {
			t.Fatal(err)
		}
		packs.dir = dir
	}
	source := filepath.Join(packs.dir, "tree")
	if kind == small {
		source = filepath.Join(packs.dir, "small")
	}
	if _, err := os.Stat(source); err != nil {
		makeTree(t, source, kind == small)
	}
	p := buildPack(t, source, kind)
	packs.byKind[kind] = p
	return p
}

// removePacks frees what packOf made; TestMain calls it.
func removePacks() {
	if packs.dir != "" {
		os.RemoveAll(packs.dir)
	}
}

// makeTree fills dir with one of everything and with files that compress well, badly, and are zeros.
func makeTree(t testing.TB, dir string, isSmall bool) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if isSmall {
		for i := range 20 {
			if err := os.WriteFile(fmt.Sprintf("%s/file-%d", dir, i), bytes.Repeat([]byte{byte(i)}, 1000*i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	treetest.MakeDir(t, dir, treetest.Features{Nanoseconds: true, ACL: true})
	r := rand.NewChaCha8([32]byte{7})
	if err := os.Mkdir(dir+"/big", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		b := make([]byte, 700_000+i)
		r.Read(b)
		if i%2 == 1 {
			b = bytes.Repeat(b[:5000], 140)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/big/file-%d", dir, i), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// EROFS keeps the blocks of a file of zeros that has no hole.
	if err := os.WriteFile(dir+"/big/zeros", make([]byte, 600_000), 0o644); err != nil {
		t.Fatal(err)
	}
}

// bootOf returns what the boot zone of a kind holds: all metadata, and then pages from the middle of files,
// the last files first.
func bootOf(kind string, img imagepack.Image) (out []profiles.Range) {
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
		switch {
		case s.Kind != imagemap.Data:
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
	if _, err := imagepack.Write(ctx, out, img, imagepack.WriteOptions{Boot: bootOf(kind, img), BodyLevel: zstd.SpeedFastest}); err != nil {
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
