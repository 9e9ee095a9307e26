package bpk

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// Filters of a boot chunk: a reversible transformation applied to each page before compression.
const (
	FilterNone = 0
	FilterX86  = 1 // relative call and jump targets made absolute, see x86.go
)

// A Range is a run of image pages.
type Range struct {
	Page  int64 // first page; imageOff / PageSize
	Pages int64
}

// A BootChunk is a piece of the boot zone.
type BootChunk struct {
	Block         // where it lies in the pack
	Frame    int  // index of the zstd frame it belongs to; a chunk needs all earlier ones of its frame
	Filter   byte // one of the Filter constants
	First    int  // position of its first page in the boot order
	Pages    int
	frame1st bool
}

// A BootIndex says which pages the boot zone holds and where. Read-only after decoding, safe for
// concurrent use.
type BootIndex struct {
	Ranges []Range     // in boot order; disjoint
	Chunks []BootChunk // in pack order, contiguous; of a manifest: anywhere in the image
	Plain  bool        // chunks are the pages as they are: FeatureBeside
	starts []int       // starts[i] is the position in boot order of Ranges[i]'s first page
	sorted []Range     // Ranges by page
	rank   []int       // rank[i] is the index in Ranges of sorted[i]
}

// Pages returns the number of pages in the boot zone.
func (x *BootIndex) Pages() int {
	if n := len(x.Ranges); n > 0 {
		return x.starts[n-1] + int(x.Ranges[n-1].Pages)
	}
	return 0
}

// Position returns the place of an image page in the boot order, or false if the page is not in the boot
// zone.
func (x *BootIndex) Position(page int64) (int, bool) {
	i := sort.Search(len(x.sorted), func(i int) bool { return x.sorted[i].Page > page }) - 1
	if i < 0 || page >= x.sorted[i].Page+x.sorted[i].Pages {
		return 0, false
	}
	return x.starts[x.rank[i]] + int(page-x.sorted[i].Page), true
}

// Contains tells whether an image page is in the boot zone.
func (x *BootIndex) Contains(page int64) bool {
	_, ok := x.Position(page)
	return ok
}

// ChunkOf returns the index of the chunk that holds the page at a position of the boot order.
func (x *BootIndex) ChunkOf(position int) int {
	return sort.Search(len(x.Chunks), func(i int) bool { return x.Chunks[i].First+x.Chunks[i].Pages > position })
}

// RangesOf returns the image pages of a chunk, in the order in which the chunk holds them.
func (x *BootIndex) RangesOf(c *BootChunk) []Range {
	i := sort.Search(len(x.starts), func(i int) bool { return x.starts[i] > c.First }) - 1
	var out []Range
	pos, end := c.First, c.First+c.Pages
	for ; pos < end; i++ {
		r := x.Ranges[i]
		skip := int64(pos - x.starts[i])
		n := min(r.Pages-skip, int64(end-pos))
		out = append(out, Range{r.Page + skip, n})
		pos += int(n)
	}
	return out
}

// ColdRanges returns the parts of [page, page+pages) that are not in the boot zone: what a body chunk that
// covers the range holds.
func (x *BootIndex) ColdRanges(page, pages int64) []Range {
	end := page + pages
	var out []Range
	i := sort.Search(len(x.sorted), func(i int) bool { return x.sorted[i].Page+x.sorted[i].Pages > page })
	for ; i < len(x.sorted) && x.sorted[i].Page < end; i++ {
		if r := x.sorted[i]; r.Page > page {
			out = append(out, Range{page, r.Page - page})
		}
		page = x.sorted[i].Page + x.sorted[i].Pages
	}
	if page < end {
		out = append(out, Range{page, end - page})
	}
	return out
}

// NewBootIndex makes an index of ranges without chunks, to which AddChunk adds them in order. The ranges
// must be disjoint.
func NewBootIndex(ranges []Range) *BootIndex {
	x := &BootIndex{Ranges: ranges}
	x.finish()
	return x
}

// AddChunk appends a chunk of the given number of pages; newFrame says that it starts a zstd frame.
func (x *BootIndex) AddChunk(b Block, pages int, newFrame bool, filter byte) {
	c := BootChunk{Block: b, Pages: pages, Filter: filter, frame1st: newFrame}
	if n := len(x.Chunks); n > 0 {
		last := x.Chunks[n-1]
		c.First, c.Frame = last.First+last.Pages, last.Frame
		if newFrame {
			c.Frame++
		}
	}
	x.Chunks = append(x.Chunks, c)
}

func (x *BootIndex) finish() {
	x.starts = make([]int, len(x.Ranges))
	x.rank = make([]int, len(x.Ranges))
	pos := 0
	for i, r := range x.Ranges {
		x.starts[i], x.rank[i] = pos, i
		pos += int(r.Pages)
	}
	slices.SortFunc(x.rank, func(a, b int) int {
		switch pa, pb := x.Ranges[a].Page, x.Ranges[b].Page; {
		case pa < pb:
			return -1
		case pa > pb:
			return 1
		}
		return 0
	})
	x.sorted = make([]Range, len(x.Ranges))
	for i, r := range x.rank {
		x.sorted[i] = x.Ranges[r]
	}
}

// Encode returns the stored form of the index: the length of the compressed table (4 bytes), the table,
// the digests of the chunks. An index over the limits of the format is an error.
func (x *BootIndex) Encode() ([]byte, error) {
	if len(x.Ranges) > MaxBootRanges {
		return nil, fmt.Errorf("a boot order of %d ranges: a pack holds %d at most", len(x.Ranges), MaxBootRanges)
	}
	var t []byte
	t = binary.AppendUvarint(t, uint64(len(x.Ranges)))
	prev := int64(0)
	for _, r := range x.Ranges {
		t = binary.AppendVarint(t, r.Page-prev)
		t = binary.AppendUvarint(t, uint64(r.Pages))
		prev = r.Page + r.Pages
	}
	t = binary.AppendUvarint(t, uint64(len(x.Chunks)))
	for _, c := range x.Chunks {
		flags := uint64(c.Filter) << 1
		if c.frame1st {
			flags |= 1
		}
		t = binary.AppendUvarint(t, flags)
		t = binary.AppendUvarint(t, uint64(c.Pages))
		t = binary.AppendUvarint(t, uint64(c.Len))
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	z := enc.EncodeAll(t, nil)
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(z)))
	out = append(out, z...)
	for _, c := range x.Chunks {
		out = append(out, c.SHA256[:]...)
	}
	if len(out) > MaxIndexLen {
		return nil, fmt.Errorf("a boot index of %d bytes: a pack holds %d at most", len(out), MaxIndexLen)
	}
	return out, nil
}

// DecodeBootIndex decodes the stored index b of the pack with header h, after its digest was checked.
func DecodeBootIndex(h *Header, b []byte) (*BootIndex, error) {
	bad := func(why string, a ...any) error {
		return corrupt("boot index", h.BootIndex.PackOff, why, a...)
	}
	if len(b) < 4 {
		return nil, bad("cut off")
	}
	zlen := int64(binary.LittleEndian.Uint32(b))
	if zlen > int64(len(b)-4) {
		return nil, bad("table of %d bytes in %d", zlen, len(b)-4)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxTableLen), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	t, err := dec.DecodeAll(b[4:4+zlen], nil)
	if err != nil {
		return nil, bad("%v", err)
	}
	digests := b[4+zlen:]
	r := varints{b: t}
	n := r.uint(min(MaxBootRanges, uint64(len(t))/2))
	x := &BootIndex{Ranges: make([]Range, 0, n), Plain: h.Features&FeatureBeside != 0}
	imagePages, prev, total := h.ImageSize/PageSize, int64(0), int64(0)
	for range n {
		page, pages := prev+r.int(), int64(r.uint(uint64(imagePages)))
		if r.failed || page < 0 || pages < 1 || page > imagePages-pages {
			return nil, bad("range outside the image")
		}
		x.Ranges = append(x.Ranges, Range{page, pages})
		prev, total = page+pages, total+pages
	}
	if total != h.BootPages {
		return nil, bad("%d pages instead of %d", total, h.BootPages)
	}
	x.finish()
	for i := 1; i < len(x.sorted); i++ {
		if x.sorted[i-1].Page+x.sorted[i-1].Pages > x.sorted[i].Page {
			return nil, bad("page %d twice", x.sorted[i].Page)
		}
	}
	if err := x.decodeChunks(h, &r, digests); err != nil {
		return nil, bad("%v", err)
	}
	return x, nil
}

func (x *BootIndex) decodeChunks(h *Header, r *varints, digests []byte) error {
	n := r.uint(uint64(len(digests) / 32))
	if r.failed || int(n)*32 != len(digests) {
		return fmt.Errorf("%d chunks with %d bytes of digests", n, len(digests))
	}
	packOff, end, framePages, total := h.Boot.PackOff, h.Boot.PackOff+h.Boot.Len, 0, int64(0)
	for i := range int(n) {
		flags, pages, length := r.uint(3), int(r.uint(MaxChunkPages)), int64(r.uint(MaxChunkPages*PageSize+maxStoredExcess))
		newFrame := flags&1 != 0
		if newFrame {
			framePages = 0
		}
		framePages += pages
		switch {
		case r.failed || pages == 0 || length == 0 || length > int64(pages)*PageSize+maxStoredExcess || !x.Plain && length > end-packOff:
			return fmt.Errorf("chunk %d out of bounds", i)
		case i == 0 && !newFrame:
			return fmt.Errorf("chunk 0 continues a frame")
		case framePages > MaxFramePages:
			return fmt.Errorf("frame of chunk %d too long", i)
		}
		b := Block{PackOff: packOff, Len: length}
		copy(b.SHA256[:], digests[32*i:])
		x.AddChunk(b, pages, newFrame, byte(flags>>1))
		total += int64(pages)
		if !x.Plain {
			packOff += length
		} else if err := x.placePlain(h, i, total); err != nil {
			return err
		}
	}
	// Bytes of the table behind this are of a later minor version.
	if packOff != end || total != h.BootPages {
		return fmt.Errorf("chunks do not fill the boot zone")
	}
	return nil
}

// placePlain sets where in the image of a manifest chunk i lies; total are the pages up to its end.
func (x *BootIndex) placePlain(h *Header, i int, total int64) error {
	c := &x.Chunks[i]
	if total > h.BootPages {
		return fmt.Errorf("chunk %d out of bounds", i)
	}
	rs := x.RangesOf(c)
	if len(rs) != 1 || c.Len != rs[0].Pages*PageSize || !c.frame1st || c.Filter != FilterNone {
		return fmt.Errorf("chunk %d is not a plain piece of the image", i)
	}
	c.PackOff = h.PackSize + rs[0].Page*PageSize
	return nil
}

// varints reads varints from a slice; a value out of bounds or a short slice sets failed.
type varints struct {
	b      []byte
	failed bool
}

func (r *varints) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *varints) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 || v > MaxImageSize || v < -MaxImageSize {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}
