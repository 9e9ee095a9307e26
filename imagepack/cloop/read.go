package cloop

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// ReadAt implements io.ReaderAt for the device.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading a cloop device at %d: negative offset", off)
	}
	if off >= r.Size() {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > r.Size()-off {
		p, eof = p[:r.Size()-off], io.EOF
	}
	done := 0
	for done < len(p) {
		i, in := (off+int64(done))/r.blockSize, (off+int64(done))%r.blockSize
		n, err := r.readBlock(p[done:], i, in)
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, eof
}

// readBlock reads from block i from its byte in on.
func (r *Reader) readBlock(p []byte, i, in int64) (int, error) {
	if in == 0 && int64(len(p)) >= r.blockSize {
		// The whole block is asked for: it goes where it is wanted, past the cache.
		return int(r.blockSize), r.unpack(p[:r.blockSize], i)
	}
	s := r.cache.slot(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.data == nil {
		s.data = make([]byte, r.blockSize)
	} else if s.block == i {
		return copy(p, s.data[in:]), nil
	}
	s.block = -1 // while data is half written
	if err := r.unpack(s.data, i); err != nil {
		return 0, err
	}
	s.block = i
	return copy(p, s.data[in:]), nil
}

// A cache keeps unpacked blocks, each in the one slot that its number gives, so that reads wait for each other only if
// they want the same slot. Blocks of a stretch as long as the cache do not push each other out.
type cache struct{ slots []slot }

type slot struct {
	mu    sync.Mutex // guards what follows; held while the block is unpacked
	block int64      // -1 if data is none
	data  []byte     // nil until first used
}

func (c *cache) init(blockSize, blocks int64) {
	c.slots = make([]slot, max(1, min(maxSlots, cacheBytes/blockSize, blocks)))
	for i := range c.slots {
		c.slots[i].block = -1
	}
}

func (c *cache) slot(block int64) *slot { return &c.slots[block%int64(len(c.slots))] }

// An unpacker has what is needed to read and unpack one block.
type unpacker struct {
	stored []byte
	in     bytes.Reader
	z      io.ReadCloser // nil until first used
}

var unpackers = sync.Pool{New: func() any { return new(unpacker) }}

// unpack reads block i into dst, which is as long as a block. The last block may be shorter than that: a short
// device's end, to which zeros are added.
func (r *Reader) unpack(dst []byte, i int64) error {
	start, end, err := r.block(i)
	if err != nil {
		return err
	}
	u := unpackers.Get().(*unpacker)
	defer unpackers.Put(u)
	if int64(cap(u.stored)) < end-start {
		u.stored = make([]byte, end-start)
	}
	stored := u.stored[:end-start]
	if err := r.readFull(stored, start); err != nil {
		return err
	}
	n, err := u.inflate(dst, stored)
	if err != nil {
		return corrupt("block %d at %d: %v", i, start, err)
	}
	if n < len(dst) && i != r.blocks-1 {
		return corrupt("block %d at %d unpacks to %d bytes, not %d", i, start, n, len(dst))
	}
	clear(dst[n:])
	return nil
}

// inflate unpacks a zlib stream into dst and returns how long it is.
func (u *unpacker) inflate(dst, stored []byte) (int, error) {
	u.in.Reset(stored)
	var err error
	if u.z == nil {
		u.z, err = zlib.NewReader(&u.in)
	} else {
		err = u.z.(zlib.Resetter).Reset(&u.in, nil)
	}
	if err != nil {
		u.z = nil
		return 0, err
	}
	// Not io.ReadFull: it returns the same error for a stream that is cut short as for one that ends early.
	n := 0
	for n < len(dst) {
		m, err := u.z.Read(dst[n:])
		n += m
		if err == io.EOF { // the checksum was right
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	var one [1]byte
	switch m, err := io.ReadFull(u.z, one[:]); {
	case m > 0:
		return n, fmt.Errorf("unpacks to more than %d bytes", len(dst))
	case err != io.EOF:
		return n, err
	}
	return n, nil
}
