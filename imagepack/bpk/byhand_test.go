package bpk

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

// A handMade is a manifest or a split pack made by the text of docs/format.md, not by the writer, with gaps between its
// parts. Its image has six pages: 0 zeros, 1 and 2 text, 3 noise, 4 text, 5 noise; the boot order is page 4, pages 1 and 2.
type handMade struct {
	head   Header
	boot   *BootIndex
	zone   []byte            // of a split pack
	leaf   []Entry           // the root
	image  []byte            // of a manifest: the file beside it; of a split pack: what comes out
	chunks map[string][]byte // of a split pack: the files beside it, by ChunkName
	info   []byte
	tail   map[int64][]byte // what lies anywhere else in the pack: nodes
}

// Places of the parts of a handMade.
const (
	madeIndex = HeaderSize
	madeZone  = 1024
	madeRoot  = 4096
	madeInfo  = 5000
	madeSize  = 8192
)

func makeByHand(features uint32) *handMade {
	image := make([]byte, 6*PageSize)
	for i := range image[PageSize:] {
		image[PageSize+i] = "a line of text\n"[i%15]
	}
	x := uint32(7)
	for _, page := range []int{3, 5} {
		for i := range PageSize {
			x ^= x << 13
			x ^= x >> 17
			x ^= x << 5
			image[page*PageSize+i] = byte(x)
		}
	}
	image[4*PageSize] = 'A'
	m := &handMade{
		head: Header{
			Major: Major, ImageSize: int64(len(image)), ImageSHA256: sha256.Sum256(image), PackSize: madeSize, Features: features,
			BootIndex: Block{PackOff: madeIndex}, Boot: Block{PackOff: madeZone}, BodyRoot: Block{PackOff: madeRoot},
			BodyDepth: 1, BootPages: 3, Info: Block{PackOff: madeInfo},
		},
		boot:   NewBootIndex([]Range{{4, 1}, {1, 2}}),
		image:  image,
		chunks: map[string][]byte{},
		info:   []byte(`{"tool":"hand"}`),
		tail:   map[int64][]byte{},
	}
	page := func(page, pages int64) []byte { return image[page*PageSize : (page+pages)*PageSize] }
	if features&FeatureBeside != 0 {
		raw := func(p, n int64) Block {
			return Block{madeSize + p*PageSize, n * PageSize, sha256.Sum256(page(p, n))}
		}
		m.boot.Plain = true
		m.boot.AddChunk(raw(4, 1), 1, true, FilterNone)
		m.boot.AddChunk(raw(1, 2), 2, true, FilterNone)
		m.leaf = []Entry{{Page: 0, Pages: 3}, {Block: raw(3, 1), Page: 3, Pages: 1, Codec: CodecRaw}, {Page: 4, Pages: 1}, {Block: raw(5, 1), Page: 5, Pages: 1, Codec: CodecRaw}}
		return m
	}
	stored := frame(page(4, 1), page(1, 2))
	off := int64(madeZone)
	for i, s := range stored {
		m.boot.AddChunk(Block{off, int64(len(s)), sha256.Sum256(s)}, i+1, i == 0, FilterNone)
		off += int64(len(s))
		m.zone = append(m.zone, s...)
	}
	m.head.Boot.Len = int64(len(m.zone))
	m.leaf = []Entry{
		m.chunk(0, 4, CodecZstd, frame(append(make([]byte, PageSize), page(3, 1)...))[0]),
		m.chunk(4, 2, CodecRaw, page(5, 1)),
	}
	return m
}

// chunk adds a chunk file and returns the entry for it.
func (m *handMade) chunk(page, pages int64, codec byte, stored []byte) Entry {
	sum := sha256.Sum256(stored)
	m.chunks[ChunkName(sum)] = stored
	return Entry{Block: Block{0, int64(len(stored)), sum}, Page: page, Pages: pages, Codec: codec}
}

// node adds a node at a place of the pack and returns the entry for it.
func (m *handMade) node(packOff int64, entries []Entry) Entry {
	b := EncodeNode(entries)
	m.tail[packOff] = b
	last := entries[len(entries)-1]
	return Entry{Block: Block{packOff, int64(len(b)), sha256.Sum256(b)}, Page: entries[0].Page, Pages: last.Page + last.Pages - entries[0].Page}
}

// encode returns the pack. Lengths and digests of indexes are what they must be, all else is as it was set.
func (m *handMade) encode() []byte {
	index, err := m.boot.Encode()
	if err != nil {
		panic(err)
	}
	b := make([]byte, m.head.PackSize)
	put := func(k *Block, part []byte) {
		k.Len, k.SHA256 = int64(len(part)), sha256.Sum256(part)
		copy(b[k.PackOff:], part)
	}
	for off, node := range m.tail {
		copy(b[off:], node)
	}
	put(&m.head.BootIndex, index)
	put(&m.head.BodyRoot, EncodeNode(m.leaf))
	put(&m.head.Info, m.info)
	copy(b[m.head.Boot.PackOff:], m.zone)
	copy(b, m.head.Encode())
	return b
}

// memChunks are chunk files in memory, by their names.
type memChunks map[string][]byte

func (c memChunks) place(b Block) (string, int64) { return ChunkName(b.SHA256), 0 }

func (c memChunks) read(what string, b Block) ([]byte, error) {
	name := ChunkName(b.SHA256)
	if s, ok := c[name]; ok {
		return s, nil
	}
	return nil, &CorruptError{What: what, File: name, Why: "the file is missing"}
}

// openInMemory opens a pack with what lies beside it.
func openInMemory(pack, image []byte, chunks map[string][]byte) (*Pack, error) {
	p, err := Open(bytes.NewReader(pack), int64(len(pack)))
	if err != nil {
		return nil, err
	}
	switch {
	case p.Header.Features&FeatureSplit != 0:
		p.outside = memChunks(chunks)
	case p.Header.Features&FeatureBeside != 0:
		p.outside = &besideImage{p.Header, "x.img", bytes.NewReader(image)}
	}
	return p, nil
}

// decodeParts decodes a pack and returns its image. That each byte of the image comes once is an error of the decoder.
func decodeParts(t testing.TB, p *Pack) ([]byte, error) {
	t.Helper()
	out := make([]byte, p.Header.ImageSize)
	came := make([]bool, p.Header.ImageSize/PageSize)
	pages := 0
	err := p.Decode(t.Context(), func(part Part) error {
		if part.Data != nil && int64(len(part.Data)) != part.Len {
			t.Fatalf("a part of %d bytes with %d", part.Len, len(part.Data))
		}
		copy(out[part.ImageOff:part.ImageOff+part.Len], part.Data)
		for i := part.ImageOff / PageSize; i < (part.ImageOff+part.Len)/PageSize; i++ {
			if came[i] {
				t.Fatalf("page %d came twice", i)
			}
			came[i] = true
			pages++
		}
		return nil
	})
	if err == nil && pages != len(came) {
		t.Fatalf("%d of %d pages came", pages, len(came))
	}
	return out, err
}
