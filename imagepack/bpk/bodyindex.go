package bpk

import (
	"crypto/sha256"
	"encoding/binary"
	"sort"
)

// Codecs of a body chunk.
const (
	CodecZero = 0 // no stored bytes: all zero
	CodecRaw  = 1 // stored as they are
	CodecZstd = 2 // one zstd frame
)

// An Entry of a body index node describes, in a leaf, a chunk, and above, a node that covers a range.
// The entries of a node are in image order and cover its range without gaps.
type Entry struct {
	Block       // where the chunk or node lies in the pack; Len 0 for CodecZero; see outside.go for chunks in other files
	Page  int64 // first image page it covers
	Pages int64 // image pages it covers, boot pages included
	Codec byte  // leaves: one of the Codec constants
}

// EncodeNode returns the stored form of a node.
func EncodeNode(entries []Entry) []byte {
	b := make([]byte, len(entries)*entrySize)
	for i, e := range entries {
		p := b[i*entrySize:]
		binary.LittleEndian.PutUint64(p, uint64(e.Page))
		binary.LittleEndian.PutUint64(p[8:], uint64(e.PackOff))
		binary.LittleEndian.PutUint32(p[16:], uint32(e.Len))
		binary.LittleEndian.PutUint32(p[20:], uint32(e.Pages))
		p[24] = e.Codec
		copy(p[32:64], e.SHA256[:])
	}
	return b
}

// DecodeNode decodes a node of the given level (0 is a leaf) that covers the image range want, after its
// digest was checked. Errors name the root's place, since where the node lies is not known here.
func DecodeNode(h *Header, b []byte, level int, want Range) ([]Entry, error) {
	bad := func(why string, a ...any) ([]Entry, error) {
		return nil, corrupt("body index node", h.BodyRoot.PackOff, why, a...)
	}
	if len(b) == 0 || len(b)%entrySize != 0 || len(b) > NodeEntries*entrySize {
		return bad("%d bytes long", len(b))
	}
	out := make([]Entry, len(b)/entrySize)
	next, end := want.Page, want.Page+want.Pages
	for i := range out {
		p := b[i*entrySize:]
		e := &out[i]
		e.Page = int64(binary.LittleEndian.Uint64(p))
		e.PackOff = int64(binary.LittleEndian.Uint64(p[8:]))
		e.Len = int64(binary.LittleEndian.Uint32(p[16:]))
		e.Pages = int64(binary.LittleEndian.Uint32(p[20:]))
		e.Codec = p[24]
		copy(e.SHA256[:], p[32:64])
		if e.Page != next || e.Pages < 1 || e.Pages > end-next {
			return bad("entry %d leaves a gap", i)
		}
		next += e.Pages
		if level > 0 || e.Codec == CodecZero || !h.Outside() {
			if e.PackOff < 0 || e.PackOff > h.PackSize || e.Len > h.PackSize-e.PackOff {
				return bad("entry %d outside the pack", i)
			}
		} else if !h.placedOutside(e) {
			return bad("entry %d: a chunk that lies in another file has a wrong place", i)
		}
		switch {
		case level > 0 && (e.Len == 0 || e.Len > NodeEntries*entrySize):
			return bad("entry %d: node of %d bytes", i, e.Len)
		case level > 0 && e.PackOff < HeaderSize: // 0 names a file of its own in a split pack, which a node never is
			return bad("entry %d: a node in the header", i)
		case level == 0 && (e.Codec > CodecZstd || (e.Codec == CodecZero) != (e.Len == 0) ||
			e.Codec != CodecZero && (e.Pages > MaxChunkPages || e.Len > e.Pages*PageSize+maxStoredExcess)):
			return bad("entry %d: chunk of %d bytes, codec %d", i, e.Len, e.Codec)
		}
	}
	if next != end {
		return bad("does not cover its range")
	}
	return out, nil
}

// placedOutside tells whether the packOff of a leaf's entry is what it must be where chunks lie in other files.
func (h *Header) placedOutside(e *Entry) bool {
	if h.Features&FeatureSplit != 0 {
		return e.PackOff == 0
	}
	return e.Codec == CodecRaw && e.PackOff == h.PackSize+e.Page*PageSize && e.Len == e.Pages*PageSize
}

// FindEntry returns the entry that covers an image page. The page must lie in the node's range.
func FindEntry(entries []Entry, page int64) *Entry {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].Page+entries[i].Pages > page })
	return &entries[i]
}

// NodeCounts returns the number of nodes per level of an index of n chunks, leaves first; the last is 1.
// It is empty for n == 0.
func NodeCounts(n int) []int {
	var out []int
	for n > 0 {
		n = (n + NodeEntries - 1) / NodeEntries
		out = append(out, n)
		if n == 1 {
			break
		}
	}
	return out
}

// RootLen returns the stored bytes of the root node of an index of n chunks.
func RootLen(n int) int64 {
	if c := NodeCounts(n); len(c) > 1 {
		n = c[len(c)-2]
	}
	return int64(n * entrySize)
}

// NodesLen returns the stored bytes of all nodes but the root of an index of n chunks.
func NodesLen(n int) (bytes int64) {
	for _, nodes := range NodeCounts(n) {
		if nodes == 1 { // the entries of the root
			break
		}
		bytes += int64(n) * entrySize
		n = nodes
	}
	return bytes
}

// BuildTree encodes the index of the chunks: every level but the root is handed to write, which stores it
// and returns its packOff; the root's bytes are returned. It is empty for no chunks.
func BuildTree(chunks []Entry, write func(node []byte) (packOff int64, err error)) (root []byte, depth int, err error) {
	level := chunks
	for len(level) > 0 {
		depth++
		if len(level) <= NodeEntries {
			return EncodeNode(level), depth, nil
		}
		var up []Entry
		for len(level) > 0 {
			part := level[:min(NodeEntries, len(level))]
			level = level[len(part):]
			node := EncodeNode(part)
			off, err := write(node)
			if err != nil {
				return nil, 0, err
			}
			last := part[len(part)-1]
			up = append(up, Entry{
				Block: Block{PackOff: off, Len: int64(len(node)), SHA256: sha256.Sum256(node)},
				Page:  part[0].Page, Pages: last.Page + last.Pages - part[0].Page,
			})
		}
		level = up
	}
	return nil, 0, nil
}
