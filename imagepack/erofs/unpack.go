package erofs

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

var errUnpack = errors.New("the compressed data is damaged")

var pclusterPool = sync.Pool{New: func() any { return new([]byte) }}

// unpack fills dst, which has the extent's length, from its pcluster.
func (im *image) unpack(dst []byte, e *zextent) error {
	buf := pclusterPool.Get().(*[]byte)
	defer pclusterPool.Put(buf)
	if int64(cap(*buf)) < e.imageLen {
		*buf = make([]byte, e.imageLen)
	}
	src := (*buf)[:e.imageLen]
	if err := readFull(im.r, src, e.imageOff); err != nil {
		return err
	}
	// The data ends where the pcluster ends; the zeros before it are less than a block. Only images of the first
	// mkfs.erofs have LZ4 data at the start, with anything behind it.
	if im.zeroPadded || e.alg != algLZ4 {
		n := 0
		for n < len(src) && src[n] == 0 {
			n++
		}
		if n == len(src) || n >= 1<<im.blkBits {
			return corrupt(e.imageOff, "a pcluster of zeros")
		}
		src = src[n:]
	}
	var err error
	switch {
	case e.alg == algLZ4 && im.zeroPadded && !e.partial:
		var n int
		if n, err = lz4.UncompressBlock(src, dst); err == nil && n != len(dst) {
			err = errUnpack
		}
	case e.alg == algLZ4:
		err = lz4Prefix(dst, src)
	case e.alg == algLZMA:
		err = microLZMA(dst, src, e.partial)
	case e.alg == algDeflate:
		err = inflate(dst, src)
	case e.alg == algZstd:
		err = unzstd(dst, src)
	default:
		return &UnsupportedError{"compression algorithm " + hex(uint64(e.alg))}
	}
	if err != nil {
		return corrupt(e.imageOff, "unpacking %d bytes to %d: %v", len(src), len(dst), err)
	}
	return nil
}

// lz4Prefix fills dst with the first bytes of what an LZ4 block unpacks to. Nothing is said about the rest of it.
func lz4Prefix(dst, src []byte) error {
	d, s := 0, 0
	more := func(n int) int { // the length that goes on in further bytes
		for n >= 0 && s < len(src) {
			b := src[s]
			s++
			if n += int(b); b != 255 {
				return n
			}
		}
		return -1
	}
	for s < len(src) {
		token := int(src[s])
		s++
		literals := token >> 4
		if literals == 15 {
			literals = more(literals)
		}
		if n := min(literals, len(dst)-d); n < 0 || n > len(src)-s {
			return errUnpack
		}
		d += copy(dst[d:], src[s:min(s+literals, len(src))])
		if d == len(dst) {
			return nil
		}
		s += literals
		if s+2 > len(src) {
			return errUnpack
		}
		back := int(le.Uint16(src[s:]))
		s += 2
		length := token & 15
		if length == 15 {
			length = more(length)
		}
		if length < 0 || back == 0 || back > d {
			return errUnpack
		}
		for end := min(d+length+4, len(dst)); d < end; {
			d += copy(dst[d:end], dst[d-back:d]) // they may overlap: at most back bytes a time
		}
		if d == len(dst) {
			return nil
		}
	}
	return errUnpack
}

var inflaters sync.Pool

func inflate(dst, src []byte) error {
	z, ok := inflaters.Get().(io.ReadCloser)
	if !ok {
		z = flate.NewReader(bytes.NewReader(src))
	} else if err := z.(flate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
		return err
	}
	_, err := io.ReadFull(z, dst)
	inflaters.Put(z)
	return err
}

var zstdDecoders sync.Pool

func unzstd(dst, src []byte) error {
	z, ok := zstdDecoders.Get().(*zstd.Decoder)
	if !ok {
		var err error
		z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(16<<20), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return err
		}
	}
	err := z.Reset(bytes.NewReader(src))
	if err == nil {
		_, err = io.ReadFull(z, dst)
	}
	zstdDecoders.Put(z)
	return err
}

// microLZMA unpacks an LZMA stream without a header, whose first byte, always zero, gave way to the inverted
// properties. A dictionary longer than dst is of no use.
func microLZMA(dst, src []byte, partial bool) error {
	h := make([]byte, lzma.HeaderLen+1)
	h[0] = ^src[0]
	le.PutUint32(h[1:], uint32(max(len(dst), lzma.MinDictCap)))
	length := uint64(len(dst))
	if partial {
		length = 1<<64 - 1 // not known
	}
	le.PutUint64(h[5:], length)
	z, err := lzma.NewReader(io.MultiReader(bytes.NewReader(h), bytes.NewReader(src[1:])))
	if err != nil {
		return err
	}
	n, err := io.ReadFull(z, dst)
	if partial && n < len(dst) {
		// The reader unpacks ahead, and what follows need not be sound; it still has what came before.
		var m int
		if m, _ = z.Read(dst[n:]); n+m == len(dst) {
			err = nil
		}
	}
	return err
}
