package bpk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

var update = flag.Bool("update", false, "write the golden packs of the current format that are missing, and the dump in docs/format.md anew")

const page = bpk.PageSize

type memImage struct {
	*bytes.Reader
	fs string
}

func (m memImage) Segments() []imagemap.Segment { return nil }
func (m memImage) Filesystem() string           { return m.fs }
func (m memImage) Close() error                 { return nil }

// testImage returns an image of all sorts of pages that depends on nothing but its length, and a boot order
// of n of its pages. Most pages are zero.
func testImage(pages, n int) ([]byte, []profiles.Range) {
	r := rand.New(rand.NewPCG(uint64(pages), uint64(n)))
	image := make([]byte, pages*page)
	var words []byte
	for range 200 {
		words = fmt.Appendf(words, "word-%d ", r.IntN(1000))
	}
	for i := 0; i < pages; i += 1 + r.IntN(max(1, pages/40)) {
		p := image[i*page : (i+1)*page]
		switch r.IntN(4) {
		case 0: // noise
			for j := range p {
				p[j] = byte(r.Uint32())
			}
		case 1: // text
			for j := 0; j < len(p); j += 50 {
				copy(p[j:], words[r.IntN(len(words)-50):][:50])
			}
		default: // calls of a few functions, which the filter makes alike
			for j := 0; j+16 <= len(p); j += 16 {
				copy(p[j:], words[:11])
				p[j+11] = 0xe8
				binary.LittleEndian.PutUint32(p[j+12:], uint32(r.IntN(20)*0x1000-(i*page+j+16)))
			}
		}
	}
	var boot []profiles.Range
	for _, p := range r.Perm(pages)[:n] {
		boot = append(boot, profiles.Range{ImageOff: int64(p) * page, Len: page})
	}
	if pages < 128 {
		return image, boot
	}
	// The cold pages of two chunks are the same noise: one that does not compress, and one that repeats it.
	noise := [2]int64{64 * page, 96 * page}
	boot = slices.DeleteFunc(boot, func(b profiles.Range) bool {
		return b.ImageOff >= noise[0] && b.ImageOff < noise[0]+4*page || b.ImageOff >= noise[1] && b.ImageOff < noise[1]+4*page
	})
	for i, off := range noise {
		for j := off; j < off+4*page; j++ {
			image[j] = byte(r.Uint32())
		}
		copy(image[off:off+4*page], image[noise[0]:])
		boot = append(boot, profiles.Range{ImageOff: noise[i] + 4*page, Len: 28 * page})
	}
	return image, boot
}

// makePack returns the bytes of a pack.
func makePack(t testing.TB, image []byte, boot []profiles.Range, fs, info string) []byte {
	t.Helper()
	return writePack(t, image, fs, info, imagepack.WriteOptions{Boot: boot})
}

func writePack(t testing.TB, image []byte, fs, info string, opts imagepack.WriteOptions) []byte {
	t.Helper()
	path := filepath.Join(testrig.MemoryDir(t), "x.bpk")
	if info != "" {
		opts.Info = func(int64) []byte { return []byte(info) }
	}
	if _, err := imagepack.Write(context.Background(), path, memImage{bytes.NewReader(image), fs}, opts); err != nil {
		t.Fatal(err)
	}
	b := testrig.ReadFile(t, path)
	return b
}

func openBytes(b []byte) (*bpk.Pack, error) { return bpk.Open(bytes.NewReader(b), int64(len(b))) }

// decodeAll decodes a pack and compares all that comes out with the image, also before an error.
func decodeAll(b, image []byte) error {
	p, err := openBytes(b)
	if err != nil {
		return err
	}
	left := int64(len(image))
	err = p.Decode(context.Background(), func(part bpk.Part) error {
		want := image[part.ImageOff : part.ImageOff+part.Len]
		got := part.Data
		if got == nil {
			got = make([]byte, part.Len)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("wrong bytes at %d of the image", part.ImageOff)
		}
		left -= part.Len
		return nil
	})
	if err == nil && left != 0 {
		return fmt.Errorf("%d bytes of the image did not come", left)
	}
	return err
}

// wantDamage wants an error of one of the types that say so.
func wantDamage(t *testing.T, err error, what string, args ...any) {
	t.Helper()
	var corrupt *bpk.CorruptError
	var version *bpk.VersionError
	if !errors.As(err, &corrupt) && !errors.As(err, &version) && !errors.Is(err, bpk.ErrNotPack) {
		t.Errorf("%s: %v", fmt.Sprintf(what, args...), err)
	} else if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "BUG") {
		t.Errorf("%s: not a line for a user: %v", fmt.Sprintf(what, args...), err)
	}
}

// testPack returns a pack with one of everything and the image in it. The pack is the caller's own. With -short its boot
// zone is one frame, of which there are two else.
func testPack(t testing.TB) (pack, image []byte) {
	made.Do(func() {
		img, boot := testImage(5000, 4300)
		if testing.Short() {
			img, boot = testImage(1500, 200)
		}
		opts := imagepack.WriteOptions{Boot: boot, BootLevel: imagepack.BootFast}
		made.pack, made.image = writePack(t, img, "erofs", `{"tool":"test"}`, opts), img
	})
	return bytes.Clone(made.pack), made.image
}

var made struct {
	sync.Once
	pack, image []byte
}

func TestDecode(t *testing.T) {
	testrig.Slow(t)
	pack, image := testPack(t)
	testrig.Must(t, decodeAll(pack, image))
	p, err := openBytes(pack)
	testrig.Must(t, err)
	codecs, places, shared := map[byte]int{}, map[int64]bool{}, 0
	if err := p.Chunks(func(e bpk.Entry) error {
		codecs[e.Codec]++
		if places[e.PackOff] && e.Len > 0 {
			shared++
		}
		places[e.PackOff] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	filters := map[byte]bool{}
	for _, c := range p.Boot.Chunks {
		filters[c.Filter] = true
	}
	frames := p.Boot.Chunks[len(p.Boot.Chunks)-1].Frame + 1
	if p.Header.BodyDepth != 2 || frames != 2 || len(codecs) != 3 || shared != 1 || !filters[bpk.FilterX86] || p.Header.Info.Len == 0 {
		t.Errorf("depth %d, %d frames, codecs %v, %d shared, filters %v, info of %d bytes", p.Header.BodyDepth, frames, codecs, shared, filters, p.Header.Info.Len)
	}
	// The parts of a pack follow each other without a gap, so that each byte stands under a digest.
	h := p.Header
	if h.BootIndex.PackOff != bpk.HeaderSize || h.Boot.PackOff != h.BootIndex.PackOff+h.BootIndex.Len ||
		h.BodyRoot.PackOff != h.Boot.PackOff+h.Boot.Len || h.Info.PackOff+h.Info.Len != h.PackSize {
		t.Errorf("the parts lie at %+v", h)
	}
}

func TestTruncated(t *testing.T) {
	pack, image := testPack(t)
	p, err := openBytes(pack)
	testrig.Must(t, err)
	h := p.Header
	cuts := []int64{0, 1, 7, 8, 9, bpk.HeaderSize - 1, bpk.HeaderSize, bpk.HeaderSize + 1}
	border := func(b bpk.Block) { cuts = append(cuts, b.PackOff, b.PackOff+1, b.PackOff+b.Len-1, b.PackOff+b.Len) }
	border(h.BootIndex)
	border(h.BodyRoot)
	border(h.Boot)
	border(h.Info)
	for _, c := range p.Boot.Chunks {
		border(c.Block)
	}
	p.Chunks(func(e bpk.Entry) error { border(e.Block); return nil })
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		cuts = append(cuts, r.Int64N(h.PackSize))
	}
	for _, n := range cuts {
		if n < 0 || n >= h.PackSize {
			continue
		}
		wantDamage(t, decodeAll(pack[:n], image), "cut to %d of %d bytes", n, len(pack))
		// A server that lies about the size: reading fails, whatever the error.
		if q, err := bpk.Open(bytes.NewReader(pack[:n]), h.PackSize); err == nil {
			if q.Decode(context.Background(), func(bpk.Part) error { return nil }) == nil {
				t.Errorf("cut to %d of %d bytes under the full size: no error", n, len(pack))
			}
		}
	}
	wantDamage(t, decodeAll(append(bytes.Clone(pack), 0), image), "a byte too many")
}

func TestFlipped(t *testing.T) {
	testrig.RareGC(t)
	pack, image := testPack(t)
	p, err := openBytes(pack)
	testrig.Must(t, err)
	flip := func(at int64, bit int) {
		b := pack[at]
		pack[at] ^= 1 << bit
		wantDamage(t, decodeAll(pack, image), "bit %d of byte %d flipped", bit, at)
		pack[at] = b
	}
	h := p.Header
	for at := range int64(bpk.HeaderSize) {
		for bit := range 8 {
			flip(at, bit)
		}
	}
	for at := h.BootIndex.PackOff; at < h.BootIndex.PackOff+h.BootIndex.Len; at++ {
		flip(at, int(at%8))
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 60 { // decoding gets farther here, and takes longer
		flip(h.BodyRoot.PackOff+r.Int64N(h.BodyRoot.Len), r.IntN(8))
		flip(h.Boot.PackOff+r.Int64N(h.Boot.Len), r.IntN(8))
		flip(h.Boot.PackOff+h.Boot.Len+r.Int64N(h.PackSize-h.Boot.PackOff-h.Boot.Len), r.IntN(8))
		flip(h.Info.PackOff+r.Int64N(h.Info.Len), r.IntN(8))
	}
	if err := decodeAll(pack, image); err != nil {
		t.Fatalf("the pack is not as it was: %v", err)
	}
}

func TestForeignFiles(t *testing.T) {
	pack, _ := testPack(t)
	for name, b := range map[string][]byte{
		"HTML":           []byte("<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>"),
		"zeros":          make([]byte, 10_000),
		"a later part":   pack[512:],
		"text mode":      bytes.Replace(pack[:5000], []byte("\r\n"), []byte("\n"), 1),
		"a moved header": append([]byte{0}, pack...),
	} {
		if _, err := openBytes(b); !errors.Is(err, bpk.ErrNotPack) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// After each boot chunk exactly its pages can be decoded, though nothing behind it was read. Frames come in
// any order, and a chunk whose digest was wrong may come again.
func TestBootChunksStream(t *testing.T) {
	pack, image := testPack(t)
	p, err := openBytes(pack)
	testrig.Must(t, err)
	frames := map[int][]int{}
	for i, c := range p.Boot.Chunks {
		frames[c.Frame] = append(frames[c.Frame], i)
	}
	dec, err := bpk.NewBootDecoder()
	testrig.Must(t, err)
	defer dec.Close()
	r := rand.New(rand.NewPCG(2, 2))
	var order []int
	for range 3 {
		order = append(order, r.Perm(len(frames))...)
	}
	for _, frame := range order {
		chunks := frames[frame]
		if r.IntN(3) == 0 {
			chunks = chunks[:1+r.IntN(len(chunks))] // a frame that is left in the middle
		}
		for _, i := range chunks {
			c := &p.Boot.Chunks[i]
			stored := bytes.Clone(pack[c.PackOff : c.PackOff+c.Len])
			if r.IntN(4) == 0 {
				stored[0] ^= 1
				_, err := dec.Decode(nil, p.Boot, c, stored)
				wantDamage(t, err, "chunk %d", i)
				stored[0] ^= 1
			}
			got, err := dec.Decode([]byte("before"), p.Boot, c, stored)
			if err != nil {
				t.Fatalf("chunk %d: %v", i, err)
			}
			want := []byte("before")
			for _, rg := range p.Boot.RangesOf(c) {
				want = append(want, image[rg.Page*page:(rg.Page+rg.Pages)*page]...)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("chunk %d does not decode to its pages", i)
			}
		}
	}
	if _, err := dec.Decode(nil, p.Boot, &p.Boot.Chunks[len(p.Boot.Chunks)-1], nil); err == nil {
		t.Error("a chunk without bytes was decoded")
	}
	last := &p.Boot.Chunks[len(frames[0])-1]
	fresh, err := bpk.NewBootDecoder()
	testrig.Must(t, err)
	defer fresh.Close()
	if _, err := fresh.Decode(nil, p.Boot, last, pack[last.PackOff:last.PackOff+last.Len]); err == nil {
		t.Error("a chunk was decoded without those before it")
	}
}

func TestExtractFindsAnotherImage(t *testing.T) {
	pack, _ := testPack(t)
	h, err := bpk.DecodeHeader(pack)
	testrig.Must(t, err)
	h.ImageSHA256[0]++
	copy(pack, h.Encode())
	f, err := os.Create(filepath.Join(testrig.MemoryDir(t), "image"))
	testrig.Must(t, err)
	defer f.Close()
	testrig.Must(t, f.Truncate(h.ImageSize))
	p, err := openBytes(pack)
	testrig.Must(t, err)
	wantDamage(t, p.Extract(context.Background(), f, f), "another digest of the image")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Extract(ctx, f, f); !errors.Is(err, context.Canceled) {
		t.Errorf("Extract with a canceled context: %v", err)
	}
}
