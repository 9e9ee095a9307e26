package bpk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/internal/testrig"
)

// randomIndex returns an index of disjoint ranges in random order, with chunks and frames, and its header.
func randomIndex(r *rand.Rand) (*Header, *BootIndex) {
	var ranges []Range
	page := int64(0)
	for range r.IntN(60) {
		page += r.Int64N(5)
		n := 1 + r.Int64N(9)
		ranges = append(ranges, Range{page, n})
		page += n
	}
	r.Shuffle(len(ranges), func(i, j int) { ranges[i], ranges[j] = ranges[j], ranges[i] })
	x := NewBootIndex(ranges)
	h := sampleHeader()
	h.ImageSize, h.BootPages = (page+r.Int64N(10)+1)*PageSize, int64(x.Pages())
	off := h.Boot.PackOff
	for left := x.Pages(); left > 0; {
		n := 1 + r.IntN(min(left, 30))
		b := Block{PackOff: off, Len: 1 + r.Int64N(1000), SHA256: [32]byte{byte(left), byte(n)}}
		x.AddChunk(b, n, len(x.Chunks) == 0 || r.IntN(4) == 0, byte(r.IntN(2)))
		off, left = off+b.Len, left-n
	}
	h.Boot.Len = off - h.Boot.PackOff
	return h, x
}

// Everything that an index answers is compared with the list of its pages.
func TestBootIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		h, x := randomIndex(r)
		stored, err := x.Encode()
		testrig.Must(t, err)
		got, err := DecodeBootIndex(h, stored)
		testrig.Must(t, err)
		if !reflect.DeepEqual(got.Chunks, x.Chunks) || !slices.Equal(got.Ranges, x.Ranges) || got.Pages() != x.Pages() {
			t.Fatalf("an index does not come back: %+v\nwant %+v", got, x)
		}
		checkIndex(t, h, got)
	}
}

// checkIndex compares the answers of an index with the list of its pages.
func checkIndex(t *testing.T, h *Header, x *BootIndex) {
	t.Helper()
	var order []int64
	place := map[int64]int{}
	for _, g := range x.Ranges {
		for i := range g.Pages {
			place[g.Page+i] = len(order)
			order = append(order, g.Page+i)
		}
	}
	if len(order) != x.Pages() || len(place) != len(order) {
		t.Fatalf("%d pages, %d of them different, Pages = %d", len(order), len(place), x.Pages())
	}
	images := h.ImageSize / PageSize
	for p := int64(-1); p <= images; p++ {
		want, in := place[p]
		if got, ok := x.Position(p); ok != in || got != want || x.Contains(p) != in {
			t.Fatalf("Position(%d) = %d, %t, want %d, %t", p, got, ok, want, in)
		}
	}
	pos := 0
	for i := range x.Chunks {
		c := &x.Chunks[i]
		for _, g := range x.RangesOf(c) {
			for j := range g.Pages {
				if order[pos] != g.Page+j || x.ChunkOf(pos) != i {
					t.Fatalf("place %d: page %d of chunk %d, want page %d of chunk %d", pos, g.Page+j, i, order[pos], x.ChunkOf(pos))
				}
				pos++
			}
		}
	}
	if pos != len(order) {
		t.Fatalf("the chunks hold %d of %d pages", pos, len(order))
	}
	for from := int64(0); from < images; from += 7 {
		for _, n := range []int64{0, 1, 3, 20, images - from} {
			n = min(n, images-from)
			var got, want []int64
			for _, g := range x.ColdRanges(from, n) {
				for j := range g.Pages {
					got = append(got, g.Page+j)
				}
			}
			for p := from; p < from+n; p++ {
				if _, hot := place[p]; !hot {
					want = append(want, p)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("ColdRanges(%d, %d) = %v, want %v", from, n, got, want)
			}
		}
	}
}

// storedIndex puts a table and digests together.
func storedIndex(table []byte, chunks int) []byte {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer enc.Close()
	z := enc.EncodeAll(table, nil)
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(z)))
	return append(append(b, z...), make([]byte, 32*chunks)...)
}

// table builds the table of a boot index: signed numbers are varints, unsigned ones uvarints.
func table(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case int:
			b = binary.AppendVarint(b, int64(v))
		case uint64:
			b = binary.AppendUvarint(b, v)
		}
	}
	return b
}

func TestBootIndexRefused(t *testing.T) {
	const n1, n2 = uint64(1), uint64(2)
	h := sampleHeader() // 100 pages, 30 boot pages in 20,000 bytes
	good := table(n1, 5, uint64(30), n1, n1, uint64(30), uint64(20_000))
	if _, err := DecodeBootIndex(h, storedIndex(good, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeBootIndex(h, storedIndex(append(good, "of a later version"...), 1)); err != nil {
		t.Errorf("with more in the table: %v", err)
	}
	for _, c := range []struct {
		name   string
		stored []byte
	}{
		{"nothing", nil},
		{"three bytes", []byte{0, 0, 0}},
		{"table longer than the index", []byte{9, 0, 0, 0, 1}},
		{"no zstd", append([]byte{4, 0, 0, 0}, "abcd"...)},
		{"empty table", storedIndex(nil, 1)},
		{"table cut off", storedIndex(good[:3], 1)},
		{"ranges that are not there", storedIndex(table(uint64(1<<40)), 1)},
		{"an empty range", storedIndex(table(n2, 5, uint64(30), 1, uint64(0), n1, n1, uint64(30), uint64(20_000)), 1)},
		{"a page before the image", storedIndex(table(n1, -1, uint64(30), n1, n1, uint64(30), uint64(20_000)), 1)},
		{"a page behind the image", storedIndex(table(n1, 71, uint64(30), n1, n1, uint64(30), uint64(20_000)), 1)},
		{"a range at the end of numbers", storedIndex(table(n1, 1<<43, uint64(1<<62), n1, n1, uint64(30), uint64(20_000)), 1)},
		{"a page twice", storedIndex(table(n2, 5, uint64(20), -1, uint64(10), n1, n1, uint64(30), uint64(20_000)), 1)},
		{"too few pages", storedIndex(table(n1, 5, uint64(29), n1, n1, uint64(29), uint64(20_000)), 1)},
		{"no chunks", storedIndex(table(n1, 5, uint64(30), uint64(0)), 0)},
		{"a digest too few", storedIndex(good, 0)},
		{"a digest too many", storedIndex(good, 2)},
		{"half a digest", append(storedIndex(good, 0), make([]byte, 16)...)},
		{"chunk 0 in the middle of a frame", storedIndex(table(n1, 5, uint64(30), n1, uint64(0), uint64(30), uint64(20_000)), 1)},
		{"unknown filter", storedIndex(table(n1, 5, uint64(30), n1, uint64(5), uint64(30), uint64(20_000)), 1)},
		{"chunk without bytes", storedIndex(table(n1, 5, uint64(30), n2, n1, uint64(30), uint64(0), n1, n1, uint64(20_000)), 2)},
		{"chunk without pages", storedIndex(table(n1, 5, uint64(30), n2, n1, uint64(0), n1, n1, uint64(30), uint64(19_999)), 2)},
		{"chunk too long", storedIndex(table(n1, 5, uint64(30), n1, n1, uint64(30), uint64(1<<30)), 1)},
		{"chunks over the zone", storedIndex(table(n1, 5, uint64(30), n1, n1, uint64(30), uint64(20_001)), 1)},
		{"chunks that end early", storedIndex(table(n1, 5, uint64(30), n1, n1, uint64(30), uint64(19_999)), 1)},
		{"chunks of too many pages", storedIndex(table(n1, 5, uint64(30), n1, n1, uint64(31), uint64(20_000)), 1)},
		{"a table of 100 MB", storedIndex(make([]byte, 100<<20), 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, err := DecodeBootIndex(h, c.stored)
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || x != nil {
				t.Errorf("DecodeBootIndex = %v, %v", x, err)
			}
		})
	}
}

// A chunk of one page has room for 64 KiB more, and not for a byte beyond.
func TestBootChunkExcess(t *testing.T) {
	for _, more := range []int64{0, 1} {
		h := sampleHeader()
		h.BootPages, h.Boot.Len = 1, PageSize+maxStoredExcess+more
		x, err := DecodeBootIndex(h, storedIndex(table(uint64(1), 5, uint64(1), uint64(1), uint64(1), uint64(1), uint64(h.Boot.Len)), 1))
		if (err == nil) != (more == 0) {
			t.Errorf("%d bytes more than the limit: %+v, %v", more, x, err)
		}
	}
}

func TestBootIndexLimits(t *testing.T) {
	ranges := make([]Range, MaxBootRanges+1)
	for i := range ranges {
		ranges[i] = Range{2 * int64(i), 1}
	}
	if _, err := NewBootIndex(ranges).Encode(); err == nil {
		t.Error("an index of too many ranges was encoded")
	}
	x := NewBootIndex(ranges[:MaxBootRanges])
	for left := x.Pages(); left > 0; left -= min(left, 64) {
		x.AddChunk(Block{Len: 1}, min(left, 64), true, 0)
	}
	b, err := x.Encode()
	testrig.Must(t, err)
	h := sampleHeader()
	h.ImageSize, h.BootPages, h.Boot.Len = MaxImageSize, MaxBootRanges, int64(len(x.Chunks))
	if _, err := DecodeBootIndex(h, b); err != nil {
		t.Error(err)
	}
}

// treeOf builds an index of n chunks; fetch reads its nodes.
func treeOf(t *testing.T, n int) (h *Header, chunks []Entry, fetch func(string, Block) ([]byte, error)) {
	t.Helper()
	h = sampleHeader()
	page := int64(0)
	for i := range n {
		e := Entry{Block: Block{PackOff: int64(i), Len: 7, SHA256: [32]byte{byte(i), byte(i >> 8)}}, Page: page, Pages: int64(1 + i%3), Codec: CodecRaw}
		page += e.Pages
		chunks = append(chunks, e)
	}
	nodes := map[int64][]byte{}
	off := int64(100_000)
	root, depth, err := BuildTree(chunks, func(b []byte) (int64, error) {
		off += 10_000
		nodes[off] = b
		return off, nil
	})
	testrig.Must(t, err)
	if int64(len(root)) != RootLen(n) || depth != len(NodeCounts(n)) {
		t.Errorf("%d chunks: root of %d bytes, depth %d; RootLen = %d, NodeCounts = %v", n, len(root), depth, RootLen(n), NodeCounts(n))
	}
	total := 1
	for _, c := range NodeCounts(n) {
		total += c
	}
	if n > 0 && len(nodes) != total-2 {
		t.Errorf("%d chunks: %d nodes besides the root, NodeCounts = %v", n, len(nodes), NodeCounts(n))
	}
	h.ImageSize, h.BodyDepth, h.PackSize = page*PageSize, depth, off+10_000
	h.BodyRoot = Block{50, int64(len(root)), sha256.Sum256(root)}
	nodes[50] = root
	return h, chunks, func(_ string, b Block) ([]byte, error) { return nodes[b.PackOff], nil }
}

func TestBodyTree(t *testing.T) {
	for _, n := range []int{0, 1, 2, 127, 128, 129, 255, 256, 257, 128 * 128, 128*128 + 1} {
		h, chunks, fetch := treeOf(t, n)
		body := NewBody(h)
		for i, e := range chunks {
			if n > 1000 && i%37 > 0 && i < n-2 {
				continue
			}
			for _, p := range []int64{e.Page, e.Page + e.Pages - 1} {
				if got, err := body.Find(p, fetch); err != nil || got != e {
					t.Fatalf("%d chunks: Find(%d) = %+v, %v, want %+v", n, p, got, err, e)
				}
			}
		}
		for _, p := range []int64{-1, h.ImageSize / PageSize, 1 << 40} {
			if _, err := body.Find(p, fetch); err == nil {
				t.Errorf("%d chunks: page %d was found", n, p)
			}
		}
	}
}

func TestBodyTreeDamaged(t *testing.T) {
	h, _, fetch := treeOf(t, 300)
	broken := errors.New("connection reset")
	if _, err := NewBody(h).Find(0, func(string, Block) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("the error of fetch comes back as %v", err)
	}
	var corrupt *CorruptError
	for _, level := range []int{1, 2} {
		calls := 0
		body := NewBody(h)
		bad := func(what string, b Block) ([]byte, error) {
			raw, err := fetch(what, b)
			if calls++; calls == level {
				raw = slices.Clone(raw)
				raw[17]++
			}
			return raw, err
		}
		if _, err := body.Find(5, bad); !errors.As(err, &corrupt) {
			t.Errorf("node %d damaged: %v", level, err)
		}
		if _, err := body.Find(5, bad); err != nil { // damaged bytes are not kept
			t.Errorf("after node %d was damaged: %v", level, err)
		}
	}
}

// A hostile index that names one block as a leaf and as a node above does not get past the checks of either.
func TestBodyTreeBlockInTwoLevels(t *testing.T) {
	h := sampleHeader()
	h.ImageSize, h.BodyDepth = 1000*PageSize, 2
	inner := EncodeNode([]Entry{{Block: Block{600, 64, [32]byte{}}, Page: 0, Pages: 1000, Codec: 9}})
	h.BodyRoot = Block{600, 64, sha256.Sum256(inner)}
	_, err := NewBody(h).Find(1, func(string, Block) ([]byte, error) { return inner, nil })
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("Find: %v", err)
	}
}

func TestNodeRefused(t *testing.T) {
	h := sampleHeader()
	want := Range{10, 20}
	good := func() []Entry {
		return []Entry{
			{Block: Block{PackOff: 600, Len: 100}, Page: 10, Pages: 5, Codec: CodecRaw},
			{Page: 15, Pages: 10, Codec: CodecZero},
			{Block: Block{PackOff: 700, Len: 100}, Page: 25, Pages: 5, Codec: CodecZstd},
		}
	}
	for level := range 2 {
		e := good()
		if level > 0 {
			e[1].Block = Block{PackOff: 600, Len: 64}
		}
		b := EncodeNode(e)
		for i := range e {
			b[i*entrySize+25+i] = 0xff // reserved: ignored
		}
		if got, err := DecodeNode(h, b, level, want); err != nil || !slices.Equal(got, e) {
			t.Fatalf("level %d: %v, %v", level, got, err)
		}
	}
	for _, c := range []struct {
		name  string
		level int
		set   func(e []Entry) []Entry
	}{
		{"empty", 0, func(e []Entry) []Entry { return nil }},
		{"too many entries", 0, func(e []Entry) []Entry { return make([]Entry, NodeEntries+1) }},
		{"starts late", 0, func(e []Entry) []Entry { e[0].Page++; e[0].Pages--; return e }},
		{"ends early", 0, func(e []Entry) []Entry { return e[:2] }},
		{"ends late", 0, func(e []Entry) []Entry { e[2].Pages++; return e }},
		{"gap", 0, func(e []Entry) []Entry { e[0].Pages--; return e }},
		{"out of order", 0, func(e []Entry) []Entry { e[0], e[1] = e[1], e[0]; return e }},
		{"empty range", 0, func(e []Entry) []Entry { return slices.Insert(e, 1, Entry{Page: 15}) }},
		{"outside the pack", 0, func(e []Entry) []Entry { e[0].PackOff = h.PackSize - 99; return e }},
		{"before the pack", 0, func(e []Entry) []Entry { e[0].PackOff = -1; return e }},
		{"unknown codec", 0, func(e []Entry) []Entry { e[0].Codec = 3; return e }},
		{"zeros with bytes", 0, func(e []Entry) []Entry { e[0].Codec = CodecZero; return e }},
		{"chunk without bytes", 0, func(e []Entry) []Entry { e[0].Len = 0; return e }},
		{"node without bytes", 1, func(e []Entry) []Entry { return e }},
		{"node too long", 1, func(e []Entry) []Entry { e[1].Len = 8256; return e }},
		{"node in the header", 1, func(e []Entry) []Entry { e[1].Len, e[0].PackOff = 64, 0; return e }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var corrupt *CorruptError
			if e, err := DecodeNode(h, EncodeNode(c.set(good())), c.level, want); !errors.As(err, &corrupt) {
				t.Errorf("DecodeNode = %v, %v", e, err)
			}
		})
	}
	h.PackSize, want = 1<<40, Range{0, 1 << 20}
	for name, e := range map[string]Entry{
		"chunk of too many pages":               {Block: Block{600, 10, [32]byte{}}, Pages: 1 << 20, Codec: CodecZstd},
		"chunk of too many bytes":               {Block: Block{600, 1 << 30, [32]byte{}}, Pages: 256, Codec: CodecRaw},
		"chunk of too many bytes for its pages": {Block: Block{600, 2*4096 + 65537, [32]byte{}}, Pages: 2, Codec: CodecZstd},
	} {
		if _, err := DecodeNode(h, EncodeNode([]Entry{e}), 0, Range{0, e.Pages}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := DecodeNode(h, EncodeNode([]Entry{{Pages: 1 << 20}}), 0, want); err != nil {
		t.Errorf("a large range of zeros: %v", err)
	}
}

func ExampleNodeCounts() {
	fmt.Println(NodeCounts(0), NodeCounts(1), NodeCounts(128), NodeCounts(129), NodeCounts(128*128+1))
	// Output: [] [1] [1] [2 1] [129 2 1]
}
