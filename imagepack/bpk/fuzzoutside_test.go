package bpk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/internal/testrig"
)

// sameChunk is a folder where every chunk file holds the same.
type sameChunk []byte

func (c sameChunk) place(b Block) (string, int64)             { return ChunkName(b.SHA256), 0 }
func (c sameChunk) read(what string, b Block) ([]byte, error) { return c, nil }

// FuzzOutside opens and decodes manifests and split packs whose digests are right, of arbitrary tables, entries, images,
// zones and chunk files. What comes out of a manifest must be what lies in the image beside it.
func FuzzOutside(f *testing.F) {
	for _, s := range outsideSeeds(f) {
		f.Add(s.features, s.table, s.root, s.node, s.beside, s.chunk, uint16(6), uint16(3))
	}
	f.Fuzz(func(t *testing.T, features uint32, table, root, node, beside, chunk []byte, pages, bootPages uint16) {
		if len(table)+len(root)+len(node)+len(beside)+len(chunk) > 4<<20 {
			return
		}
		features = 1 + features%2
		m := sealedForm(features, table, root, node, beside, chunk, int64(pages), int64(bootPages))
		bounded(t, func() {
			p, err := openInMemory(m, beside, nil)
			if err != nil {
				wantCorrupt(t, err)
				return
			}
			if features == FeatureSplit {
				p.outside = sameChunk(chunk)
			}
			got, err := decodeParts(t, p)
			wantCorrupt(t, err)
			if err != nil || features == FeatureSplit {
				return
			}
			check := func(b Block, page int64) {
				if want := beside[page*PageSize:][:b.Len]; !bytes.Equal(got[page*PageSize:][:b.Len], want) {
					t.Fatalf("page %d is not that of the image", page)
				}
			}
			for i := range p.Boot.Chunks {
				c := &p.Boot.Chunks[i]
				check(c.Block, p.Boot.RangesOf(c)[0].Page)
			}
			_ = p.Chunks(func(e Entry) error {
				if e.Codec != CodecZero {
					check(e.Block, e.Page)
				}
				return nil
			})
		})
	})
}

type outsideSeed struct {
	features                         uint32
	table, root, node, beside, chunk []byte
}

// outsideSeeds takes forms made by hand apart, with one level of the body index and with two.
func outsideSeeds(t testing.TB) (out []outsideSeed) {
	t.Helper()
	dec, err := zstd.NewReader(nil)
	testrig.Must(t, err)
	defer dec.Close()
	for _, features := range []uint32{FeatureBeside, FeatureSplit} {
		for levels := range 2 {
			m := makeByHand(features)
			s := outsideSeed{features: features, beside: m.image}
			if features == FeatureSplit {
				m.leaf[0] = Entry{Pages: 4} // every chunk file holds the same: one chunk, and page 3 is zeros here
				s.beside, s.chunk = m.zone, m.chunks[ChunkName(m.leaf[1].SHA256)]
			}
			for i := range m.leaf {
				m.leaf[i].PackOff = 0
			}
			if levels > 0 {
				m.leaf = []Entry{m.node(6000, m.leaf)}
				s.node = seal25(m.tail[6000])
			}
			s.root = seal25(EncodeNode(m.leaf))
			index, err := m.boot.Encode()
			testrig.Must(t, err)
			if s.table, err = dec.DecodeAll(index[4:4+binary.LittleEndian.Uint32(index)], nil); err != nil {
				t.Fatal(err)
			}
			out = append(out, s)
		}
	}
	return out
}

// seal25 makes the reserved byte of entries odd that tells sealedForm to make them fit.
func seal25(node []byte) []byte {
	for at := 25; at < len(node); at += entrySize {
		node[at] = 1
	}
	return node
}

// The fuzzer begins with packs that are whole.
func TestOutsideSeeds(t *testing.T) {
	for i, s := range outsideSeeds(t) {
		p, err := openInMemory(sealedForm(s.features, s.table, s.root, s.node, s.beside, s.chunk, 6, 3), s.beside, nil)
		testrig.Must(t, err)
		if s.features == FeatureSplit {
			p.outside = sameChunk(s.chunk)
		}
		if _, err := decodeParts(t, p); err != nil || p.Header.BodyDepth != 1+i%2 {
			t.Errorf("seed %d, %d levels: %v", i, p.Header.BodyDepth, err)
		}
	}
}

// sealedForm makes a pack of a boot index's table, the root and one node. Digests and lengths are made to fit what is
// there; where a reserved byte of an entry is odd, its place, too, and its digest.
func sealedForm(features uint32, table, root, node, beside, chunk []byte, pages, bootPages int64) []byte {
	h := &Header{Major: Major, Features: features, ImageSize: pages * PageSize, BootPages: bootPages, BodyDepth: 1}
	root, node = root[:min(len(root), NodeEntries*entrySize)], node[:min(len(node), NodeEntries*entrySize)]
	if len(root) == 0 {
		h.BodyDepth = 0
	} else if len(node) > 0 {
		h.BodyDepth = 2
	}
	zone := beside
	if features == FeatureBeside {
		zone = nil
	}
	r := varints{b: table}
	for range r.uint(1 << 20) { // what a table of n ranges says of the number of chunks
		r.int()
		r.uint(1 << 20)
	}
	index := storedIndex(table, int(r.uint(1<<16)))
	h.BootIndex = Block{PackOff: HeaderSize, Len: int64(len(index))}
	h.Boot = Block{PackOff: HeaderSize + h.BootIndex.Len, Len: int64(len(zone))}
	h.BodyRoot = Block{PackOff: h.Boot.PackOff + h.Boot.Len, Len: int64(len(root))}
	nodeOff := h.BodyRoot.PackOff + h.BodyRoot.Len
	h.PackSize = nodeOff + int64(len(node))
	if x, err := DecodeBootIndex(h, index); err == nil {
		for i, c := range x.Chunks {
			from := c.PackOff - h.Boot.PackOff
			src := zone
			if features == FeatureBeside {
				src, from = beside, c.PackOff-h.PackSize
			}
			if from+c.Len <= int64(len(src)) {
				sum := sha256.Sum256(src[from : from+c.Len])
				copy(index[len(index)-32*(len(x.Chunks)-i):], sum[:])
			}
		}
	}
	sealLeaf := func(b []byte) {
		for p := b; len(p) >= entrySize; p = p[entrySize:] {
			if p[24] == CodecZero || p[25]&1 == 0 {
				continue
			}
			packOff, stored := uint64(0), chunk
			if features == FeatureBeside {
				page, n := binary.LittleEndian.Uint64(p), uint64(binary.LittleEndian.Uint32(p[20:]))
				if page > 1<<20 || n > MaxChunkPages || (page+n)*PageSize > uint64(len(beside)) {
					continue
				}
				packOff, stored = uint64(h.PackSize)+page*PageSize, beside[page*PageSize:(page+n)*PageSize]
			}
			binary.LittleEndian.PutUint64(p[8:], packOff)
			binary.LittleEndian.PutUint32(p[16:], uint32(len(stored)))
			sum := sha256.Sum256(stored)
			copy(p[32:], sum[:])
		}
	}
	root, node = bytes.Clone(root), bytes.Clone(node)
	if h.BodyDepth == 2 {
		sealLeaf(node)
		sum := sha256.Sum256(node)
		for p := root; len(p) >= entrySize; p = p[entrySize:] {
			if p[25]&1 != 0 {
				binary.LittleEndian.PutUint64(p[8:], uint64(nodeOff))
				binary.LittleEndian.PutUint32(p[16:], uint32(len(node)))
				copy(p[32:], sum[:])
			}
		}
	} else {
		sealLeaf(root)
	}
	h.BootIndex.SHA256, h.BodyRoot.SHA256 = sha256.Sum256(index), sha256.Sum256(root)
	out := append(h.Encode(), index...)
	return append(append(append(out, zone...), root...), node...)
}
