package relayout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// An encoder compresses blocks. It is safe for concurrent use.
type encoder interface {
	// encode returns src compressed, or nil if that is not shorter.
	encode(src []byte) ([]byte, error)
}

// compressorNumbers are those that Write can be asked for. "none" names the one every kernel has, and does not
// use it.
var compressorNumbers = map[string]uint16{"": compZstd, "zstd": compZstd, "gzip": compGzip, "xz": compXZ, "lz4": compLZ4, "none": compGzip}

// newEncoder makes the encoder for a compressor number. options is the image's block of compressor options, with
// its header, or nil. What there is no encoder for is stored plainly, which every reader takes.
func newEncoder(comp uint16, options []byte, blockSize, workers int, fast bool) (encoder, error) {
	switch comp {
	case compGzip:
		return &gzipEncoder{}, nil
	case compZstd:
		// The kernel has memory for a window of a block, and of a metadata block, only.
		level := zstd.SpeedBestCompression
		if fast {
			level = zstd.SpeedBetterCompression
		}
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(false),
			zstd.WithEncoderConcurrency(workers), zstd.WithWindowSize(max(blockSize, metaLen)), zstd.WithSingleSegment(true))
		if err != nil {
			return nil, err
		}
		return zstdEncoder{z}, nil
	case compXZ:
		// Nor for a larger dictionary than the options tell.
		dict := int64(max(blockSize, metaLen))
		if len(options) >= 6 && binary.LittleEndian.Uint16(options)&plainMetaBit != 0 {
			dict = int64(binary.LittleEndian.Uint32(options[2:]))
		}
		return xzEncoder{dict}, nil
	case compLZ4:
		return &lz4Encoder{}, nil
	}
	return plainEncoder{}, nil
}

type plainEncoder struct{}

func (plainEncoder) encode([]byte) ([]byte, error) { return nil, nil }

// shorter returns out if it is shorter than src.
func shorter(out, src []byte) []byte {
	if len(out) >= len(src) {
		return nil
	}
	return out
}

type gzipEncoder struct{ pool sync.Pool }

func (g *gzipEncoder) encode(src []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(src)/2 + 64)
	z, _ := g.pool.Get().(*zlib.Writer)
	if z == nil {
		var err error
		if z, err = zlib.NewWriterLevel(&out, zlib.BestCompression); err != nil {
			return nil, err
		}
	} else {
		z.Reset(&out)
	}
	defer g.pool.Put(z)
	if _, err := z.Write(src); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return shorter(out.Bytes(), src), nil
}

type zstdEncoder struct{ z *zstd.Encoder }

func (e zstdEncoder) encode(src []byte) ([]byte, error) {
	return shorter(e.z.EncodeAll(src, make([]byte, 0, len(src)/2+64)), src), nil
}

// xzEncoder has the largest dictionary that a reader has memory for.
type xzEncoder struct{ dict int64 }

func (e xzEncoder) encode(src []byte) ([]byte, error) {
	const smallest = 4096
	if e.dict < smallest {
		return nil, nil
	}
	dict := int64(smallest) // powers of two: other sizes may be rounded up
	for dict < int64(len(src)) && 2*dict <= e.dict {
		dict *= 2
	}
	var out bytes.Buffer
	// The kernel knows no other checksum.
	z, err := xz.WriterConfig{DictCap: int(dict), CheckSum: xz.CRC32}.NewWriter(&out)
	if err != nil {
		return nil, fmt.Errorf("starting an xz block: %w", err)
	}
	_, err = z.Write(src)
	if err == nil {
		err = z.Close()
	}
	// The package cannot store a part that does not compress if that is longer than the dictionary.
	if errors.Is(err, lzma.ErrNoSpace) {
		return nil, nil
	}
	return shorter(out.Bytes(), src), err
}

type lz4Encoder struct{ pool sync.Pool }

// lz4Options say that blocks are bare ones, made by the slower method. Kernels insist on them.
var lz4Options = []byte{8, 0x80, 1, 0, 0, 0, 1, 0, 0, 0}

func (e *lz4Encoder) encode(src []byte) ([]byte, error) {
	c, _ := e.pool.Get().(*lz4.CompressorHC)
	if c == nil {
		c = &lz4.CompressorHC{Level: lz4.Level4}
	}
	defer e.pool.Put(c)
	out := make([]byte, lz4.CompressBlockBound(len(src)))
	n, err := c.CompressBlock(src, out)
	if err != nil || n == 0 {
		return nil, err
	}
	return shorter(out[:n], src), nil
}
