package ext4

import "math/bits"

// Tuning.
const (
	cachePiece  = 16 << 10 // bytes
	cachePieces = 1024     // of metadata while a tree or a map is made
)

// A cachedReader reads small pieces through larger ones.
type cachedReader struct {
	r      *Reader
	pieces map[int64][]byte // by offset
	order  []int64          // of the pieces, a ring
	next   int              // the oldest in order
}

func newCachedReader(r *Reader) *cachedReader {
	return &cachedReader{r: r, pieces: map[int64][]byte{}}
}

// read is a source. Large reads go past the cache.
func (c *cachedReader) read(p []byte, off int64) error {
	if size := c.r.info.BytesUsed; len(p) > cachePiece || off < 0 || off > size || int64(len(p)) > size-off {
		return c.r.readFull(p, off)
	}
	for len(p) > 0 {
		at := off / cachePiece * cachePiece
		b, err := c.piece(at)
		if err != nil {
			return err
		}
		n := copy(p, b[off-at:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (c *cachedReader) piece(at int64) ([]byte, error) {
	if b, ok := c.pieces[at]; ok {
		return b, nil
	}
	var b []byte
	if len(c.order) == cachePieces {
		old := c.order[c.next]
		b = c.pieces[old]
		delete(c.pieces, old)
	} else {
		b = make([]byte, cachePiece)
	}
	b = b[:min(cachePiece, c.r.info.BytesUsed-at)]
	if err := c.r.readFull(b, at); err != nil {
		c.order, c.pieces, c.next = nil, map[int64][]byte{}, 0 // the ring has lost a piece
		return nil, err
	}
	c.pieces[at] = b
	if len(c.order) < cachePieces {
		c.order = append(c.order, at)
	} else {
		c.order[c.next] = at
		c.next = (c.next + 1) % cachePieces
	}
	return b, nil
}

// A bitmap is a set of small numbers.
type bitmap []uint64

func newBitmap(n int64) bitmap { return make(bitmap, (n+63)/64) }

func (m bitmap) has(i int64) bool { return m[i/64]>>(i%64)&1 != 0 }

// take adds the numbers [first, first+n) and returns the first that was there already, or -1.
func (m bitmap) take(first, n int64) int64 {
	there := int64(-1)
	for n > 0 {
		word, bit := first/64, first%64
		count := min(64-bit, n)
		mask := (^uint64(0) >> (64 - count)) << bit
		if old := m[word] & mask; old != 0 && there < 0 {
			there = word*64 + int64(bits.TrailingZeros64(old))
		}
		m[word] |= mask
		first, n = first+count, n-count
	}
	return there
}

// ranges calls f for every longest range of numbers below limit that are in the set.
func (m bitmap) ranges(limit int64, f func(first, n int64)) {
	start := int64(-1)
	for i := int64(0); i < limit; i++ {
		if i%64 == 0 && (start < 0 && m[i/64] == 0 || start >= 0 && m[i/64] == ^uint64(0)) && i+64 <= limit {
			i += 63
			continue
		}
		switch in := m.has(i); {
		case in && start < 0:
			start = i
		case !in && start >= 0:
			f(start, i-start)
			start = -1
		}
	}
	if start >= 0 {
		f(start, limit-start)
	}
}
