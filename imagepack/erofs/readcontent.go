package erofs

import (
	"strconv"

	"bootprof/imagepack/imagemap"
)

// pieceCost is what a piece of a chunk-based file takes while a tree is made, in bytes.
const pieceCost = 128

// content returns the content segments of an inode that is not compressed, without path and kind, and where in
// the image the inode with all that belongs to it ends.
func (w *walker) content(n *inode) ([]imagemap.Segment, int64, error) {
	if n.layout == layoutChunked {
		return w.readChunks(n)
	}
	return w.flat(n), n.off + n.headLen, nil
}

// flat returns the content segments of a plain or inline inode.
func (w *walker) flat(n *inode) []imagemap.Segment {
	var out []imagemap.Segment
	whole := n.size
	if n.layout == layoutInline {
		// The last block is inline, also if it is a full one.
		whole = max(0, (n.size-1)>>w.blkBits<<w.blkBits)
	}
	if whole > 0 {
		out = append(out, imagemap.Segment{ImageOff: int64(n.union) << w.blkBits, ImageLen: whole, FileLen: whole})
	}
	if tail := n.size - whole; tail > 0 {
		out = append(out, imagemap.Segment{ImageOff: n.off + n.headLen, ImageLen: tail, FileOff: whole, FileLen: tail})
	}
	return out
}

// readChunks returns the content segments of a chunk-based inode and the end of its chunk map.
func (w *walker) readChunks(n *inode) (out []imagemap.Segment, mapEnd int64, err error) {
	format := n.union & 0xffff
	if format&^(chunkBitsMask|chunkIndexes) != 0 {
		return nil, 0, &UnsupportedError{What: "chunk format " + hex(uint64(format))}
	}
	unit := int64(4)
	if format&chunkIndexes != 0 {
		unit = 8
	}
	bits := w.blkBits + uint(format&chunkBitsMask)
	chunks := n.size >> bits
	if chunks<<bits < n.size {
		chunks++
	}
	off := alignUp(n.off+n.headLen, unit)
	if chunks > w.size/unit {
		return nil, 0, corrupt(n.off, "a chunk map of %d entries is longer than the image", chunks)
	}
	if err := w.spend(off, chunks*unit); err != nil {
		return nil, 0, err
	}
	var b [8]byte
	for i := range chunks {
		if err := w.meta.read(b[:unit], off+i*unit); err != nil {
			return nil, 0, err
		}
		addr, device := le.Uint32(b[unit-4:]), uint16(0)
		if unit == 8 {
			device = le.Uint16(b[2:])
		}
		if addr == nullBlock {
			continue
		}
		if device != 0 {
			if w.tree {
				return nil, 0, &UnsupportedError{What: "a file on another device"}
			}
			continue
		}
		s := imagemap.Segment{ImageOff: int64(addr) << w.blkBits, FileOff: i << bits}
		s.FileLen = min(1<<bits, n.size-s.FileOff)
		s.ImageLen = s.FileLen
		if k := len(out) - 1; k >= 0 && out[k].FileOff+out[k].FileLen == s.FileOff &&
			out[k].ImageOff+out[k].ImageLen == s.ImageOff {
			out[k].FileLen += s.FileLen
			out[k].ImageLen += s.ImageLen
			continue
		}
		if w.pieces--; w.pieces < 0 {
			return nil, 0, corrupt(n.off, "chunk-based files have more pieces than the image has blocks")
		}
		if err := w.memory.Take(pieceCost); err != nil {
			return nil, 0, err
		}
		out = append(out, s)
	}
	return out, off + chunks*unit, nil
}

func hex(n uint64) string { return "0x" + strconv.FormatUint(n, 16) }
