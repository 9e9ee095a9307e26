package relayout

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"sort"

	"bootprof/imagepack/tree"
)

// A blockReader reads a file's blocks. Not safe for concurrent use.
type blockReader struct {
	n    *tree.Inode
	bs   int64
	open tree.ReadAtCloser
}

// read fills p with block i and tells whether it has any byte that is not zero. It does not read what is known to
// be a hole.
func (r *blockReader) read(i int64, p *[]byte) (bool, error) {
	off, n := i*r.bs, r.n
	end := off + int64(len(*p))
	if n.Content == nil {
		return false, nil
	}
	if n.Data != nil {
		k := sort.Search(len(n.Data), func(k int) bool { return n.Data[k].Off+n.Data[k].Len > off })
		if k == len(n.Data) || n.Data[k].Off >= end {
			return false, nil
		}
	}
	if r.open == nil {
		var err error
		if r.open, err = n.Content.Open(); err != nil {
			return false, err
		}
	}
	m, err := r.open.ReadAt(*p, off)
	if m < len(*p) {
		if err == nil || err == io.EOF {
			err = fmt.Errorf("the file ends at %d, its size was %d", off+int64(m), n.Size)
		}
		return false, err
	}
	return !allZero(*p), nil
}

func (r *blockReader) close() {
	if r.open != nil {
		r.open.Close() // it was only read from
	}
}

var zeros [4096]byte

func allZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// A contentHash is the digest of a file's blocks. Those of zeros do not count, whether they are holes or not.
type contentHash struct{ h hash.Hash }

func newContentHash() contentHash { return contentHash{sha256.New()} }

func (h contentHash) add(i int64, block []byte) {
	h.h.Write(binary.LittleEndian.AppendUint64(nil, uint64(i)))
	h.h.Write(block)
}

func (h contentHash) sum() (out [sha256.Size]byte) {
	h.h.Sum(out[:0])
	return out
}
