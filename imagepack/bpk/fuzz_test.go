package bpk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/internal/testrig"
)

// maxAlloc is more than any decoder may allocate for one input: a window of 8 MiB is held up to three times.
const maxAlloc = 64 << 20

// bounded fails the test if f allocates more than maxAlloc in total.
func bounded(t *testing.T, f func()) {
	t.Helper()
	if n := testrig.Allocated(f); n > maxAlloc {
		t.Errorf("%d MiB were allocated", n>>20)
	}
}

// wantCorrupt wants no error or a *CorruptError.
func wantCorrupt(t *testing.T, err error) {
	t.Helper()
	var corrupt *CorruptError
	if err != nil && !errors.As(err, &corrupt) {
		t.Errorf("error %T: %v", err, err)
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(sampleHeader().Encode())
	f.Add((&Header{Major: 2}).Encode())
	f.Add(makeByHand(FeatureBeside).encode()[:HeaderSize])
	f.Add(makeByHand(FeatureSplit).encode()[:HeaderSize])
	f.Add([]byte("BPKIMG\r\n"))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for range 2 {
			h, err := DecodeHeader(b)
			var version *VersionError
			switch {
			case err == nil:
				again, err := DecodeHeader(h.Encode())
				if err != nil || *again != *h {
					t.Fatalf("%+v comes back as %+v, %v", h, again, err)
				}
			case h != nil:
				t.Fatalf("a header and the error %v", err)
			case !errors.Is(err, ErrNotPack) && !errors.As(err, &version):
				wantCorrupt(t, err)
			}
			if len(b) < HeaderSize {
				return
			}
			b = bytes.Clone(b) // once more with the right magic and checksum
			copy(b, magic[:])
			b[8], b[9] = Major, 0
			seal(b)
		}
	})
}

func FuzzDecodeBootIndex(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		h, x := randomIndex(r)
		b, err := x.Encode()
		testrig.Must(f, err)
		f.Add(b, []byte{}, uint32(h.ImageSize/PageSize), uint32(h.BootPages), uint32(h.Boot.Len), false)
	}
	f.Add([]byte{}, table(uint64(1), 5, uint64(30), uint64(1), uint64(1), uint64(30), uint64(20_000)), uint32(100), uint32(30), uint32(20_000), false)
	f.Add([]byte("2."), table(uint64(2), 4, uint64(1), -4, uint64(2), uint64(2), uint64(1), uint64(1), uint64(4096), uint64(1), uint64(2), uint64(8192)), uint32(6), uint32(3), uint32(0), true)
	f.Fuzz(func(t *testing.T, stored, raw []byte, imagePages, bootPages, zone uint32, manifest bool) {
		if len(raw) > 0 { // a table that need not be compressed by the fuzzer
			stored = storedIndex(raw, len(stored)%8)
		}
		h := sampleHeader()
		h.ImageSize, h.BootPages, h.Boot.Len = int64(imagePages%2000)*PageSize, int64(bootPages), int64(zone)
		if manifest {
			h.Features, h.Boot.Len = FeatureBeside, 0
		}
		bounded(t, func() {
			x, err := DecodeBootIndex(h, stored)
			wantCorrupt(t, err)
			if err != nil {
				return
			}
			checkIndex(t, h, x)
			checkPlaces(t, h, x)
			b, err := x.Encode()
			testrig.Must(t, err)
			if _, err := DecodeBootIndex(h, b); err != nil {
				t.Fatalf("an index that was read does not come back: %v", err)
			}
		})
	})
}

// checkPlaces wants each chunk inside the boot zone, or, of a manifest, where its pages lie in the image.
func checkPlaces(t *testing.T, h *Header, x *BootIndex) {
	t.Helper()
	next := h.Boot.PackOff
	for i := range x.Chunks {
		c := &x.Chunks[i]
		if x.Plain {
			rs := x.RangesOf(c)
			if off, ok := h.InImage(c.PackOff); !ok || len(rs) != 1 || off != rs[0].Page*PageSize || c.Len != rs[0].Pages*PageSize {
				t.Fatalf("chunk %d with image pages %v lies at %+v", i, rs, c.Block)
			}
			continue
		}
		if c.PackOff != next || c.Len < 1 || c.PackOff+c.Len > h.Boot.PackOff+h.Boot.Len {
			t.Fatalf("chunk %d lies at %+v in the boot zone %+v", i, c.Block, h.Boot)
		}
		next += c.Len
	}
}

func FuzzDecodeNode(f *testing.F) {
	f.Add(EncodeNode([]Entry{{Block: Block{PackOff: 600, Len: 100}, Page: 10, Pages: 5, Codec: CodecRaw}}), 0, int64(10), int64(5), uint32(0))
	for _, features := range []uint32{FeatureBeside, FeatureSplit} {
		m := makeByHand(features)
		f.Add(EncodeNode(m.leaf), 0, int64(0), int64(6), features)
		twoLevels(m)
		f.Add(EncodeNode(m.leaf), 1, int64(0), int64(6), features)
	}
	f.Add(EncodeNode([]Entry{{Block: Block{PackOff: 600, Len: 64}, Pages: 3}, {Block: Block{PackOff: 700, Len: 64}, Page: 3, Pages: 1}}), 1, int64(0), int64(4), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, level int, page, pages int64, features uint32) {
		h := sampleHeader()
		h.PackSize, h.Features = madeSize, features%3 // neither, FeatureBeside or FeatureSplit
		level &= 7
		want := Range{page & (1<<31 - 1), pages & (1<<31 - 1)}
		if want.Pages == 0 {
			return
		}
		entries, err := DecodeNode(h, b, level, want)
		wantCorrupt(t, err)
		if err != nil {
			return
		}
		for _, p := range []int64{want.Page, want.Page + want.Pages/2, want.Page + want.Pages - 1} {
			if e := FindEntry(entries, p); p < e.Page || p >= e.Page+e.Pages {
				t.Fatalf("page %d is not in %+v", p, e)
			}
		}
		for _, e := range entries {
			imageOff, beside := h.InImage(e.PackOff)
			inPack := e.PackOff >= 0 && e.PackOff+e.Len <= h.PackSize && !beside
			switch chunk := level == 0 && e.Codec != CodecZero; {
			case e.Len == 0:
			case chunk && h.Features == FeatureBeside && (imageOff != e.Page*PageSize || e.Len != e.Pages*PageSize),
				chunk && h.Features == FeatureSplit && !h.IsOutside(e.Block),
				!chunk && (!inPack || h.IsOutside(e.Block)),
				chunk && h.Features == 0 && !inPack:
				t.Fatalf("level %d, features %d: %+v was accepted", level, h.Features, e)
			}
		}
	})
}

// frame compresses chunks as one zstd frame and returns the stored bytes of each.
func frame(chunks ...[]byte) [][]byte {
	var buf bytes.Buffer
	enc, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(MaxWindow), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err)
	}
	var out [][]byte
	for i, c := range chunks {
		enc.Write(c)
		if i < len(chunks)-1 {
			enc.Flush()
		} else {
			enc.Close()
		}
		out = append(out, bytes.Clone(buf.Bytes()))
		buf.Reset()
	}
	return out
}

// bomb is a zstd frame of the given window descriptor with n blocks that repeat a byte 128 Ki times.
func bomb(window byte, n int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, window}
	for range n {
		b = append(b, byte((128<<10)<<3&0xff|1<<1), byte((128<<10)<<3>>8&0xff), byte((128<<10)<<3>>16), 'x')
	}
	return b
}

// decodeBoot decodes two chunks of one frame whose digests are right.
func decodeBoot(t *testing.T, dec *BootDecoder, a, b []byte, pagesA, pagesB int, filter byte) {
	x := NewBootIndex([]Range{{7, int64(pagesA)}, {1000, int64(pagesB)}})
	for i, stored := range [][]byte{a, b} {
		x.AddChunk(Block{PackOff: 512, Len: int64(len(stored)), SHA256: sha256.Sum256(stored)}, [2]int{pagesA, pagesB}[i], i == 0, filter)
	}
	for i, stored := range [][]byte{a, b} {
		c := &x.Chunks[i]
		out, err := dec.Decode(nil, x, c, stored)
		wantCorrupt(t, err)
		if err != nil {
			if len(out) != 0 {
				t.Fatalf("%d bytes and the error %v", len(out), err)
			}
			return
		}
		if len(out) != c.Pages*PageSize {
			t.Fatalf("%d bytes for %d pages", len(out), c.Pages)
		}
	}
}

func FuzzBootDecoder(f *testing.F) {
	text := bytes.Repeat([]byte("0123456789abcde\n"), 256)
	for _, c := range [][][]byte{{text, text}, {make([]byte, PageSize), bytes.Repeat(text, 3)}} {
		s := frame(c...)
		f.Add(s[0], s[1], uint8(len(c[0])/PageSize), uint8(len(c[1])/PageSize), byte(1))
		f.Add(s[1], s[0], uint8(1), uint8(1), byte(0))
	}
	f.Add(bomb(0x68, 3), bomb(0x68, 1)[6:], uint8(90), uint8(20), byte(2))
	f.Add(bomb(0xf8, 3), []byte{}, uint8(90), uint8(20), byte(0))
	good := frame(text, text)
	f.Fuzz(func(t *testing.T, a, b []byte, pagesA, pagesB uint8, filter byte) {
		dec, err := NewBootDecoder()
		testrig.Must(t, err)
		defer dec.Close()
		bounded(t, func() { decodeBoot(t, dec, a, b, int(pagesA)+1, int(pagesB)+1, filter) })
		// Whatever came before, a good frame decodes.
		x := NewBootIndex([]Range{{0, 2}})
		for i, s := range good {
			x.AddChunk(Block{Len: int64(len(s)), SHA256: sha256.Sum256(s)}, 1, i == 0, 0)
			if out, err := dec.Decode(nil, x, &x.Chunks[i], s); err != nil || !bytes.Equal(out, text) {
				t.Fatalf("a good chunk afterwards: %d bytes, %v", len(out), err)
			}
		}
	})
}

func FuzzBodyDecoder(f *testing.F) {
	text := bytes.Repeat([]byte("0123456789abcde\n"), 256)
	f.Add(frame(text)[0], byte(CodecZstd), uint8(1))
	f.Add(text, byte(CodecRaw), uint8(1))
	f.Add(bomb(0x50, 100), byte(CodecZstd), uint8(255))
	f.Add([]byte{}, byte(CodecZstd), uint8(0))
	dec, err := NewBodyDecoder(1)
	testrig.Must(f, err)
	f.Cleanup(dec.Close)
	f.Fuzz(func(t *testing.T, stored []byte, codec byte, pages uint8) {
		e := &Entry{Block: Block{PackOff: 600, Len: int64(len(stored)), SHA256: sha256.Sum256(stored)}, Pages: int64(pages), Codec: CodecRaw + codec%2}
		bounded(t, func() {
			out, err := dec.Decode(e, stored, int64(pages))
			wantCorrupt(t, err)
			if err == nil && len(out) != int(pages)*PageSize {
				t.Fatalf("%d bytes for %d pages", len(out), pages)
			}
		})
	})
}

// FuzzOpen opens and decodes whole files whose header is sealed anew, so that the fuzzer gets at what is behind. beside
// is the image of a manifest, and the file of every chunk of a split pack.
func FuzzOpen(f *testing.F) {
	b := sampleHeader().Encode()
	f.Add(b, []byte("boot index and what follows"), []byte{})
	for _, features := range []uint32{FeatureBeside, FeatureSplit} {
		m := makeByHand(features)
		b := m.encode()
		if features == FeatureSplit {
			m.image = m.chunks[ChunkName(m.leaf[1].SHA256)]
		}
		f.Add(b[:HeaderSize], b[HeaderSize:], m.image)
	}
	f.Fuzz(func(t *testing.T, head, rest, beside []byte) {
		if len(head) < HeaderSize {
			return
		}
		file := append(bytes.Clone(head[:HeaderSize]), rest...)
		copy(file, magic[:])
		file[8], file[9] = Major, 0
		binary.LittleEndian.PutUint64(file[24:], uint64(len(file)))
		if n := binary.LittleEndian.Uint64(file[88:]); n <= uint64(len(rest)) { // the boot index
			binary.LittleEndian.PutUint64(file[80:], HeaderSize)
			sum := sha256.Sum256(rest[:n])
			copy(file[96:], sum[:])
		}
		seal(file)
		bounded(t, func() {
			p, err := openInMemory(file, beside, nil)
			if err != nil {
				return
			}
			if _, ok := p.outside.(memChunks); ok {
				p.outside = sameChunk(beside)
			}
			_ = p.Decode(t.Context(), func(Part) error { return nil })
		})
	})
}
