// Package cloop reads compressed loop images, version 2: a block device's bytes in blocks that are compressed one by
// one, as the live systems of KNOPPIX had them. What is inside is most often an ISO 9660.
//
// An image is a preamble of 128 bytes, which is a shell script that says the version in its second line; then, as
// big-endian numbers, the length of a block unpacked (32 bits), the number of blocks (32 bits), and where each
// block begins, counted from the start of the file, with one entry more for where the last one ends (64 bits each);
// then the blocks as zlib streams.
//
// Traps: the length of the device is only known in blocks: the end of the last one may be padding. The
// preamble names a file system for mount(8), which tells nothing about what is inside. FreeBSD's uzip is
// the same format, but for blocks of no bytes (zeros) and blocks stored once that are there twice; an image
// that has such blocks is taken for a corrupt one.
package cloop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	preambleLen = 128
	headerLen   = preambleLen + 8
	versionAt   = 11 // in the preamble, behind "#!/bin/sh\n#"
)

// Tuning and limits.
const (
	cacheBytes   = 16 << 20 // unpacked blocks that are kept
	maxSlots     = 256      // blocks that are kept
	maxBlockSize = 16 << 20 // bytes; images have 64 to 256 KiB
)

// A CorruptError tells that an image contradicts itself or is cut short.
type CorruptError struct{ What string }

func (e *CorruptError) Error() string { return "cloop image is corrupt: " + e.What }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Sprintf(format, args...)} }

// An UnsupportedError tells that an image is of a version or kind that this package does not read.
type UnsupportedError struct{ What string }

func (e *UnsupportedError) Error() string { return "cloop " + e.What + ": not supported" }

// A Reader is the device inside an image. It is safe for concurrent use and has nothing to close: the
// io.ReaderAt it was made from must outlive it.
type Reader struct {
	r         io.ReaderAt
	fileSize  int64
	blockSize int64
	blocks    int64
	cache     cache
}

// Probe tells whether r begins like a cloop image of any version that keeps its header there. Open tells
// those that are not supported apart.
func Probe(r io.ReaderAt) bool {
	b := make([]byte, preambleLen)
	if n, _ := r.ReadAt(b, 0); n < preambleLen {
		return false
	}
	return version(b) != ""
}

// version returns the version that a preamble tells, such as "V2.0", or "" if it is none of a cloop image. Before 1.0
// there was none in it: it is known by the module it loads and its padding.
func version(preamble []byte) string {
	rest, ok := bytes.CutPrefix(preamble, []byte("#!/bin/sh\n"))
	if !ok {
		return ""
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	if v, ok := bytes.CutPrefix(line, []byte("#")); ok {
		v, _, ok = bytes.Cut(v, []byte(" Format"))
		if ok && len(v) >= 4 && len(v) < 10 && v[0] == 'V' && v[1] >= '0' && v[1] <= '9' && v[2] == '.' {
			for _, c := range v[3:] {
				if c < '0' || c > '9' {
					return ""
				}
			}
			return string(v)
		}
	}
	if bytes.Contains(rest, []byte("cloop")) && preamble[preambleLen-1] == 0 {
		return "V0"
	}
	return ""
}

// Open reads the header of the image r of size bytes and checks its table of blocks, which it does not keep.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	b := make([]byte, headerLen)
	if n, err := r.ReadAt(b, 0); n < headerLen {
		if err == io.EOF {
			return nil, corrupt("%d bytes are too few for a header", size)
		}
		return nil, fmt.Errorf("reading the cloop header: %w", err)
	}
	switch v := version(b[:preambleLen]); {
	case v == "":
		return nil, corrupt("no cloop preamble at its start")
	case v == "V0":
		return nil, &UnsupportedError{"version 0 (no version in the preamble)"}
	case string(b[versionAt:versionAt+4]) != "V2.0":
		return nil, &UnsupportedError{"version " + v[1:]}
	}
	rd := &Reader{
		r: r, fileSize: size,
		blockSize: int64(binary.BigEndian.Uint32(b[preambleLen:])),
		blocks:    int64(binary.BigEndian.Uint32(b[preambleLen+4:])),
	}
	switch {
	case rd.blockSize == 0 || rd.blockSize%512 != 0:
		return nil, corrupt("block size %d", rd.blockSize)
	case rd.blockSize > maxBlockSize:
		return nil, &UnsupportedError{fmt.Sprintf("block size %d, over %d", rd.blockSize, maxBlockSize)}
	case rd.blocks > (size-headerLen)/8-1:
		return nil, corrupt("cut short: %d bytes do not hold the table of %d blocks", size, rd.blocks)
	}
	rd.cache.init(rd.blockSize, rd.blocks)
	return rd, rd.checkTable()
}

// Size returns the length of the device in bytes, a multiple of the block size.
func (r *Reader) Size() int64 { return r.blocks * r.blockSize }

// BlockSize returns the length of a block in bytes: reading any byte reads and unpacks its block.
func (r *Reader) BlockSize() int { return int(r.blockSize) }

// checkTable reads the table through. Blocks must lie one after the other behind it.
func (r *Reader) checkTable() error {
	b := make([]byte, min(64<<10, 8*(r.blocks+1)))
	last := int64(headerLen) + 8*(r.blocks+1)
	for i := int64(0); i <= r.blocks; {
		part := b[:min(int64(len(b)), 8*(r.blocks+1-i))]
		if err := r.readFull(part, headerLen+8*i); err != nil {
			return err
		}
		for ; len(part) > 0; part = part[8:] {
			off := binary.BigEndian.Uint64(part)
			switch {
			case off > uint64(r.fileSize):
				return corrupt("cut short: block %d of %d is at %d of %d bytes", i, r.blocks, off, r.fileSize)
			case i == 0 && int64(off) < last:
				return corrupt("block 0 is at %d, in the table", off)
			case i > 0:
				if err := r.checkBlock(i-1, last, int64(off)); err != nil {
					return err
				}
			}
			last = int64(off)
			i++
		}
	}
	return nil
}

// checkBlock checks where a block is said to be.
func (r *Reader) checkBlock(i, start, end int64) error {
	// zlib makes no block longer by more than this, even with the worst settings.
	if end <= start || end-start > r.blockSize+r.blockSize/4+64 || end > r.fileSize {
		return corrupt("block %d of %d is at [%d .. %d)", i, r.blocks, start, end)
	}
	return nil
}

// block returns where block i is.
func (r *Reader) block(i int64) (start, end int64, err error) {
	var b [16]byte
	if err := r.readFull(b[:], headerLen+8*i); err != nil {
		return 0, 0, err
	}
	start, end = int64(binary.BigEndian.Uint64(b[:])), int64(binary.BigEndian.Uint64(b[8:]))
	if start < headerLen+8*(r.blocks+1) {
		return 0, 0, corrupt("block %d is at %d, in the table", i, start)
	}
	return start, end, r.checkBlock(i, start, end)
}

// readFull reads len(p) bytes of the image at off.
func (r *Reader) readFull(p []byte, off int64) error {
	if n, err := r.r.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading the cloop image at [%d +%d): %w", off, len(p), err)
	}
	return nil
}
