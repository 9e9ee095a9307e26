package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/anchore/go-lzo"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compressor numbers of the superblock.
const (
	compGzip = 1
	compLZMA = 2 // never in the kernel
	compLZO  = 3
	compXZ   = 4
	compLZ4  = 5
	compZstd = 6
)

var compressorNames = map[uint16]string{
	compGzip: "gzip", compLZMA: "lzma", compLZO: "lzo", compXZ: "xz", compLZ4: "lz4", compZstd: "zstd",
}

// A codec unpacks one block into dst and returns how many bytes it unpacks to. A block that unpacks to
// more than len(dst) is an error, found without taking more memory. It is safe for concurrent use.
type codec func(dst, src []byte) (int, error)

var errTooLong = errors.New("unpacks to more than a block")

// openCodec sets r.codec by the superblock and the compressor's options behind it.
func (r *Reader) openCodec() error {
	switch r.super.compressor {
	case compGzip:
		r.codec = zlibCodec()
	case compXZ:
		r.codec = xzCodec()
		return r.checkXZOptions()
	case compLZO:
		r.codec = func(dst, src []byte) (int, error) { return lzo.Decompress(src, dst) }
	case compLZ4:
		r.codec = func(dst, src []byte) (int, error) { return lz4.UncompressBlock(src, dst) }
	case compZstd:
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return err
		}
		r.codec = func(dst, src []byte) (int, error) {
			out, err := d.DecodeAll(src, dst[:0:len(dst)])
			return len(out), err
		}
	default:
		name := compressorNames[r.super.compressor]
		if name == "" {
			name = fmt.Sprintf("compressor %d", r.super.compressor)
		}
		return &UnsupportedError{"compressed with " + name}
	}
	return nil
}

func zlibCodec() codec {
	var pool sync.Pool
	return func(dst, src []byte) (int, error) {
		in := bytes.NewReader(src)
		var z io.ReadCloser
		if v := pool.Get(); v != nil {
			z = v.(io.ReadCloser)
			if err := z.(zlib.Resetter).Reset(in, nil); err != nil {
				return 0, err
			}
		} else {
			var err error
			if z, err = zlib.NewReader(in); err != nil {
				return 0, err
			}
		}
		n, err := readAllInto(dst, z)
		if err == nil {
			pool.Put(z)
		}
		return n, err
	}
}

// readAllInto reads r to its end, where a checksum is checked, into dst.
func readAllInto(dst []byte, r io.Reader) (int, error) {
	// Not io.ReadFull: it returns the same error for a stream that is cut short as for one that ends early.
	n := 0
	for n < len(dst) {
		m, err := r.Read(dst[n:])
		n += m
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	var one [1]byte
	switch m, err := io.ReadFull(r, one[:]); {
	case m > 0:
		return n, errTooLong
	case err != io.EOF:
		return n, err
	}
	return n, nil
}
