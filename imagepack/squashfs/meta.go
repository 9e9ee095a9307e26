package squashfs

import (
	"encoding/binary"
	"fmt"
)

// A metaRange is a metadata block of the image and how much of it was used.
type metaRange struct {
	imageOff, imageLen int64 // with its header of two bytes
	used               int64 // unpacked bytes
}

// metaBlock reads and unpacks the metadata block at imageOff, which must end by limit. It also returns how
// long it is in the image.
func (r *Reader) metaBlock(imageOff, limit int64, cache *blockCache) ([]byte, int64, error) {
	var h [2]byte
	if imageOff < superLen || imageOff > limit-2 {
		return nil, 0, corrupt("metadata block at %d is outside its table", imageOff)
	}
	if err := r.readFull(h[:], imageOff); err != nil {
		return nil, 0, err
	}
	word := binary.LittleEndian.Uint16(h[:])
	stored := int64(word &^ plainMetaBit)
	if stored == 0 || stored > metaLen || stored > limit-imageOff-2 {
		return nil, 0, corrupt("metadata block at %d is %d bytes long", imageOff, stored)
	}
	load := func() ([]byte, error) {
		src := make([]byte, stored)
		if err := r.readFull(src, imageOff+2); err != nil {
			return nil, err
		}
		if word&plainMetaBit != 0 {
			return src, nil
		}
		dst := make([]byte, metaLen)
		n, err := r.unpack(dst, src)
		if err != nil {
			return nil, fmt.Errorf("metadata block at %d: %w", imageOff, err)
		}
		return dst[:n:n], nil
	}
	var data []byte
	var err error
	if cache == nil {
		data, err = load()
	} else {
		data, err = cache.Get(blockKey{imageOff, uint32(word)}, load)
	}
	return data, stored + 2, err
}

// unpack unpacks one block; what the decoder complains of is a fault of the image, unless it is of a kind
// that is not supported.
func (r *Reader) unpack(dst, src []byte) (int, error) {
	n, err := r.codec(dst, src)
	if _, ok := err.(*UnsupportedError); ok {
		return 0, err
	}
	if err != nil {
		return 0, corrupt("%s: %v", r.info.Compressor, err)
	}
	return n, nil
}

// A cursor reads on in a stream of metadata blocks.
type cursor struct {
	r      *Reader
	cache  *blockCache
	next   int64 // where the next block begins
	limit  int64 // where the table ends
	data   []byte
	pos    int
	ranges []metaRange // of all blocks read from
}

// newCursor goes to the byte offset of the block at imageOff of a table that ends at limit.
func (r *Reader) newCursor(imageOff, offset, limit int64, cache *blockCache) (*cursor, error) {
	c := &cursor{r: r, cache: cache, next: imageOff, limit: limit}
	if err := c.advance(); err != nil {
		return nil, err
	}
	if offset > int64(len(c.data)) {
		return nil, corrupt("offset %d in the metadata block at %d, which has %d bytes", offset, imageOff, len(c.data))
	}
	c.pos = int(offset)
	return c, nil
}

func (c *cursor) advance() error {
	data, length, err := c.r.metaBlock(c.next, c.limit, c.cache)
	if err != nil {
		return err
	}
	c.ranges = append(c.ranges, metaRange{c.next, length, 0})
	c.data, c.pos = data, 0
	c.next += length
	return nil
}

// read returns the next n bytes, which hold until the next call at least. It takes no more memory than there is data.
func (c *cursor) read(n int) ([]byte, error) {
	if n <= len(c.data)-c.pos {
		b := c.data[c.pos : c.pos+n : c.pos+n]
		c.pos += n
		c.ranges[len(c.ranges)-1].used += int64(n)
		return b, nil
	}
	b := make([]byte, 0, min(n, 2*metaLen))
	for len(b) < n {
		if c.pos == len(c.data) {
			if err := c.advance(); err != nil {
				return nil, err
			}
		}
		m := min(n-len(b), len(c.data)-c.pos)
		b = append(b, c.data[c.pos:c.pos+m]...)
		c.pos += m
		c.ranges[len(c.ranges)-1].used += int64(m)
	}
	return b, nil
}
