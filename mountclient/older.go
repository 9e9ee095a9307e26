package mountclient

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
)

// Limits of what is looked for in other packs of the cache directory.
const (
	maxOlder        = 4        // packs, the youngest
	maxOlderRecords = 64 << 10 // chunks of them all: 8 GB of image, 10 MB of memory
)

// An older holds what the cache directory has of other packs: most chunks of an image are those of the version before it. It
// is read-only after read. The zero value has nothing. Safe for concurrent use.
type older struct {
	packs []olderPack
	came  chan struct{} // closed when chunks is complete; nil: there is nothing
	chunk map[[32]byte]olderChunk
}

type olderPack struct {
	image  *os.File
	chunks *os.File
	pages  int64
	boot   *bpk.BootIndex
}

type olderChunk struct {
	in int // of packs
	cachefile.ChunkRecord
}

// openOlder opens the files of packs in dir other than the one with the digest. What cannot be read is passed over.
func openOlder(dir string, but [32]byte) *older {
	names, _ := filepath.Glob(filepath.Join(dir, "*.chunks"))
	age := make(map[string]time.Time)
	for _, n := range names {
		if st, err := os.Stat(n); err == nil {
			age[n] = st.ModTime()
		}
	}
	sort.Slice(names, func(i, j int) bool { return age[names[i]].After(age[names[j]]) })
	o := &older{}
	for _, name := range names {
		if name == cachefile.ChunksName(dir, but) || len(o.packs) == maxOlder {
			continue
		}
		if p, ok := openOlderPack(strings.TrimSuffix(name, ".chunks")); ok {
			o.packs = append(o.packs, p)
		}
	}
	if len(o.packs) > 0 {
		o.came, o.chunk = make(chan struct{}), make(map[[32]byte]olderChunk)
	}
	return o
}

func openOlderPack(base string) (p olderPack, ok bool) {
	k, ok := readKept(base + keptSuffix)
	if !ok {
		return p, false
	}
	head, err := bpk.DecodeHeader(k.header)
	if err != nil || bpk.CheckBlock("boot index", head.BootIndex, k.index) != nil {
		return p, false
	}
	p.pages = head.ImageSize / bpk.PageSize
	if p.boot, err = bpk.DecodeBootIndex(head, k.index); err != nil {
		return p, false
	}
	if p.image, err = os.Open(base + ".image"); err != nil {
		return p, false
	}
	if p.chunks, err = os.Open(base + ".chunks"); err != nil {
		p.image.Close()
		return p, false
	}
	return p, true
}

// read reads which chunks there are. It is called once, in a goroutine of its own.
func (o *older) read() {
	if o.came == nil {
		return
	}
	defer close(o.came)
	for i, p := range o.packs {
		b, err := io.ReadAll(io.LimitReader(p.chunks, maxOlderRecords*cachefile.ChunkRecordSize))
		if err != nil {
			continue
		}
		for ; len(b) >= cachefile.ChunkRecordSize && len(o.chunk) < maxOlderRecords; b = b[cachefile.ChunkRecordSize:] {
			if r, ok := cachefile.DecodeChunk(b, p.pages); ok {
				o.chunk[r.Stored] = olderChunk{i, r}
			}
		}
	}
}

// has tells whether there may be a chunk of the body.
func (o *older) has(e *bpk.Entry) bool {
	if o == nil || o.came == nil || e.Codec == bpk.CodecZero {
		return false
	}
	<-o.came // it takes milliseconds
	c, ok := o.chunk[e.SHA256]
	return ok && c.Codec == e.Codec
}

// pages returns the content of a chunk that must hold n pages, nil if it is not there whole. The file may be of a client that
// writes to it or takes pages out of it: the digest tells.
func (o *older) pagesOf(e *bpk.Entry, n int64) []byte {
	if !o.has(e) {
		return nil
	}
	c := o.chunk[e.SHA256]
	p := &o.packs[c.in]
	ranges := p.boot.ColdRanges(c.Page, c.Pages)
	total := int64(0)
	for _, r := range ranges {
		total += r.Pages
	}
	if total != n {
		return nil
	}
	out := make([]byte, n*bpk.PageSize)
	b := out
	for _, r := range ranges {
		part := b[:r.Pages*bpk.PageSize]
		if _, err := p.image.ReadAt(part, r.Page*bpk.PageSize); err != nil {
			return nil
		}
		b = b[len(part):]
	}
	if sha256.Sum256(out) != c.Sum {
		return nil
	}
	return out
}

func (o *older) close() {
	if o == nil {
		return
	}
	for _, p := range o.packs {
		p.image.Close()
		p.chunks.Close()
	}
}
