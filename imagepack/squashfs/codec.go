package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// Compressor numbers of the superblock.
const (
	compGzip = 1
	compXZ   = 4
	compLZ4  = 5
	compZstd = 6
)

var compressorNames = map[uint16]string{compGzip: "gzip", 2: "lzma", 3: "lzo", compXZ: "xz", compLZ4: "lz4", compZstd: "zstd"}

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
		r.codec = unpackXZ
		return r.checkXZOptions()
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
	n, err := io.ReadFull(r, dst)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return n, nil
	}
	if err != nil {
		return n, err
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

var errBCJ = &UnsupportedError{"compressed with xz and a BCJ filter"}

// checkXZOptions refuses an image whose options say that blocks may have gone through a BCJ filter.
// mksquashfs tries each filter for each block, so there need not be one in the first blocks.
func (r *Reader) checkXZOptions() error {
	if r.super.flags&flagCompOpts == 0 {
		return nil
	}
	b := make([]byte, 10) // header, dictionary size, filters
	if err := r.readFull(b, superLen); err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(b)&plainMetaBit == 0 {
		return nil // a compressed block of options: the blocks themselves will tell
	}
	if binary.LittleEndian.Uint32(b[6:]) != 0 {
		return errBCJ
	}
	return nil
}

// unpackXZ unpacks one xz stream. The decoder takes a dictionary as large as the stream's block header asks for,
// up to 4 GiB, for each block anew; but no match can reach back further than the block is long. So the
// header is written again with a dictionary of that length.
func unpackXZ(dst, src []byte) (int, error) {
	src, err := shrinkXZDict(src, len(dst))
	if err != nil {
		return 0, err
	}
	z, err := xz.ReaderConfig{DictCap: 4096, SingleStream: true}.NewReader(bytes.NewReader(src))
	if err != nil {
		return 0, err
	}
	return readAllInto(dst, z)
}

// shrinkXZDict returns the stream with a dictionary that holds length bytes. Offsets are those of the .xz
// file format, sections 2.1.1 and 3.1.
func shrinkXZDict(src []byte, length int) ([]byte, error) {
	const streamHeader = 12
	bad := errors.New("no valid xz block header")
	if len(src) < streamHeader+8 {
		return nil, bad
	}
	h := src[streamHeader:]
	if size := (int(h[0]) + 1) * 4; h[0] == 0 || size > len(h) {
		return nil, bad
	} else {
		h = h[:size]
	}
	flags, p := h[1], 2
	for _, bit := range []byte{0x40, 0x80} { // stored sizes
		if flags&bit != 0 {
			_, n := binary.Uvarint(h[p:])
			if n <= 0 {
				return nil, bad
			}
			p += n
		}
	}
	const lzma2 = 0x21
	if flags&3 != 0 || p+3 > len(h)-4 || h[p] != lzma2 {
		return nil, errBCJ
	}
	if h[p+1] != 1 || h[p+2] > 40 {
		return nil, bad
	}
	props := byte(0) // 4 KiB, 6 KiB, 8 KiB, 12 KiB, ...
	for props < 40 && (2|int(props)&1)<<(props/2+11) < length {
		props++
	}
	if h[p+2] <= props {
		return src, nil
	}
	if crc32.ChecksumIEEE(h[:len(h)-4]) != binary.LittleEndian.Uint32(h[len(h)-4:]) {
		return nil, bad
	}
	out := bytes.Clone(src)
	h = out[streamHeader : streamHeader+len(h)]
	h[p+2] = props
	binary.LittleEndian.PutUint32(h[len(h)-4:], crc32.ChecksumIEEE(h[:len(h)-4]))
	return out, nil
}
