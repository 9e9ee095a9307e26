package squashfs

import (
	"fmt"
	"io"
	"sync"

	"bootprof/imagepack/tree"
)

// content is where a regular file's bytes are.
type content struct {
	r        *Reader
	path     string // the first name the file is reached by
	size     int64
	start    int64    // of the first data block in the image
	blocks   []uint32 // size words; 0 is a hole
	fragment uint32   // or noFragment
	fragOff  int64    // of the tail in the unpacked fragment block
}

// tail returns how many bytes are in a fragment.
func (c *content) tail() int64 {
	if c.fragment == noFragment {
		return 0
	}
	return c.size % c.r.super.blockSize
}

// extents returns the parts that are not holes, nil if there are no holes.
func (c *content) extents() []tree.Extent {
	bs := c.r.super.blockSize
	out, holes := []tree.Extent{}, false
	for i, w := range c.blocks {
		off := int64(i) * bs
		length := min(bs, c.size-off)
		switch last := len(out) - 1; {
		case w == 0:
			holes = true
		case last >= 0 && out[last].Off+out[last].Len == off:
			out[last].Len += length
		default:
			out = append(out, tree.Extent{Off: off, Len: length})
		}
	}
	if !holes {
		return nil
	}
	if t := c.tail(); t > 0 {
		if last := len(out) - 1; last >= 0 && out[last].Off+out[last].Len == c.size-t {
			out[last].Len += t
		} else {
			out = append(out, tree.Extent{Off: c.size - t, Len: t})
		}
	}
	return out
}

// Open implements tree.Content.
func (c *content) Open() (tree.ReadAtCloser, error) {
	o := &openContent{c: c, offs: make([]int64, len(c.blocks))}
	off := c.start
	for i, w := range c.blocks {
		o.offs[i] = off
		off += int64(w &^ plainDataBit)
	}
	return o, nil
}

// openContent is an open file. It holds on to the block it used last, so that reading on in small pieces
// unpacks each block once however full the shared cache is.
type openContent struct {
	c    *content
	offs []int64 // where each block begins in the image
	key  blockKey
	data []byte
}

func (o *openContent) Close() error {
	o.data, o.offs = nil, nil
	return nil
}

func (o *openContent) ReadAt(p []byte, off int64) (int, error) {
	c := o.c
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > c.size-off {
		p, eof = p[:c.size-off], io.EOF
	}
	done, bs := 0, c.r.super.blockSize
	for done < len(p) {
		pos := off + int64(done)
		i, in := pos/bs, pos%bs
		n, err := o.readBlock(p[done:], i, in, min(bs, c.size-i*bs))
		if err != nil {
			return done, fmt.Errorf("reading %q at %d: %w", "/"+c.path, pos, err)
		}
		done += n
	}
	return done, eof
}

// readBlock reads from block i, which has length bytes, from its byte in on.
func (o *openContent) readBlock(p []byte, i, in, length int64) (int, error) {
	c := o.c
	if i >= int64(len(c.blocks)) {
		f := c.r.frags[c.fragment]
		if err := o.load(blockKey{f.imageOff, f.size}); err != nil {
			return 0, err
		}
		if c.fragOff+length > int64(len(o.data)) {
			return 0, corrupt("the tail [%d +%d) of a fragment block of %d bytes", c.fragOff, length, len(o.data))
		}
		return copy(p, o.data[c.fragOff+in:c.fragOff+length]), nil
	}
	key := blockKey{o.offs[i], c.blocks[i]}
	switch {
	case key.size == 0:
		n := min(int64(len(p)), length-in)
		clear(p[:n])
		return int(n), nil
	case in == 0 && int64(len(p)) >= length && (o.data == nil || key != o.key):
		// The whole block is asked for: it goes where it is wanted, past the cache.
		n, err := c.r.readData(p[:length], key)
		if err == nil && int64(n) != length {
			err = corrupt("a data block at %d unpacks to %d bytes, not %d", key.off, n, length)
		}
		return int(length), err
	}
	if err := o.load(key); err != nil {
		return 0, err
	}
	if int64(len(o.data)) != length {
		return 0, corrupt("a data block at %d unpacks to %d bytes, not %d", key.off, len(o.data), length)
	}
	return copy(p, o.data[in:]), nil
}

// load makes o.data the block.
func (o *openContent) load(key blockKey) error {
	if o.data != nil && o.key == key {
		return nil
	}
	r := o.c.r
	data, err := r.cache.Get(key, func() ([]byte, error) {
		dst := make([]byte, r.super.blockSize)
		n, err := r.readData(dst, key)
		return dst[:n], err
	})
	if err != nil {
		return err
	}
	o.key, o.data = key, data
	return nil
}

var storedPool = sync.Pool{New: func() any { return new([]byte) }}

// readData reads the block into dst and returns how long it is.
func (r *Reader) readData(dst []byte, key blockKey) (int, error) {
	stored := int(key.size &^ plainDataBit)
	if key.size&plainDataBit != 0 {
		if stored > len(dst) {
			return 0, corrupt("a plain block at %d has %d bytes, not %d", key.off, stored, len(dst))
		}
		return stored, r.readFull(dst[:stored], key.off)
	}
	buf := storedPool.Get().(*[]byte)
	defer storedPool.Put(buf)
	if cap(*buf) < stored {
		*buf = make([]byte, r.super.blockSize)
	}
	src := (*buf)[:stored]
	if err := r.readFull(src, key.off); err != nil {
		return 0, err
	}
	n, err := r.unpack(dst, src)
	if err != nil {
		return 0, fmt.Errorf("block at %d: %w", key.off, err)
	}
	return n, nil
}
