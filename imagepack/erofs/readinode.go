package erofs

import (
	"strconv"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// An inode is what ReadMap needs to know of one.
type inode struct {
	off     int64 // in the image
	headLen int64 // inode and inline xattrs
	mode    uint32
	size    int64
	layout  byte
	union   uint32
}

// readInode reads the inode nid and the places of its shared xattrs.
func (w *walker) readInode(nid uint64) (*inode, error) {
	if nid > uint64(w.size)/nidUnit {
		return nil, corrupt(w.metaBase, "inode %d lies outside the image of %d bytes", nid, w.size)
	}
	n := &inode{off: w.metaBase + int64(nid)*nidUnit, headLen: inodeCompactSize}
	var b [inodeExtendedSize]byte
	if err := w.r.read(b[:inodeCompactSize], n.off); err != nil {
		return nil, err
	}
	format := le.Uint16(b[0:])
	if format&^0xf != 0 {
		return nil, &UnsupportedError{What: "inode format bits " + hex(uint64(format))}
	}
	if format&1 != 0 {
		n.headLen = inodeExtendedSize
		if err := w.r.read(b[inodeCompactSize:], n.off+inodeCompactSize); err != nil {
			return nil, err
		}
		n.size = int64(le.Uint64(b[8:]))
	} else {
		n.size = int64(le.Uint32(b[8:]))
	}
	n.layout = byte(format >> 1)
	n.mode = uint32(le.Uint16(b[4:]))
	n.union = le.Uint32(b[16:])
	if n.layout > layoutChunked {
		return nil, &UnsupportedError{What: "inode layout " + hex(uint64(n.layout))}
	}
	if n.size < 0 {
		return nil, corrupt(n.off, "inode %d has a size over 2^63", nid)
	}
	xattrOff := n.off + n.headLen
	if icount := int64(le.Uint16(b[2:])); icount > 0 {
		n.headLen += xattrHeaderSize + (icount-1)*4
	}
	if err := w.spend(n.off, n.headLen); err != nil {
		return nil, err
	}
	return n, w.readShared(xattrOff, n.off+n.headLen)
}

// readShared records the shared xattrs that the inline xattr area [off, end) refers to.
func (w *walker) readShared(off, end int64) error {
	if end == off {
		return nil
	}
	var b [4]byte
	if err := w.r.read(b[:], off+4); err != nil {
		return err
	}
	count := int64(b[0])
	off += xattrHeaderSize
	if count*4 > end-off {
		return corrupt(off, "%d shared xattrs do not fit in the xattr area", count)
	}
	for ; count > 0; count-- {
		if err := w.r.read(b[:], off); err != nil {
			return err
		}
		off += 4
		at := w.xattrBase + int64(le.Uint32(b[:]))*4
		if w.sharedAt[at] {
			continue
		}
		w.sharedAt[at] = true
		if err := w.r.read(b[:], at); err != nil {
			return err
		}
		n := alignUp(xattrEntrySize+int64(b[0])+int64(le.Uint16(b[2:])), 4)
		if err := w.spend(at, n); err != nil {
			return err
		}
		if err := w.add(imagemap.Segment{ImageOff: at, ImageLen: n, Kind: imagemap.Meta}); err != nil {
			return err
		}
	}
	return nil
}

// visit records the segments of inode nid. For a directory it returns the entries, never nil.
func (w *walker) visit(nid uint64, path string) ([]dirent, error) {
	w.seen[nid] = true
	n, err := w.readInode(nid)
	if err != nil {
		return nil, err
	}
	s := imagemap.Segment{ImageOff: n.off, ImageLen: n.headLen, Path: path, Kind: imagemap.Inode}
	switch n.mode & tree.ModeType {
	case tree.ModeRegular, tree.ModeDir, tree.ModeSymlink:
	case tree.ModeBlock, tree.ModeChar, tree.ModeFIFO, tree.ModeSocket:
		return nil, w.add(s)
	default:
		return nil, corrupt(n.off, "inode %d has the unknown mode %#o", nid, n.mode)
	}
	var content []imagemap.Segment
	switch n.layout {
	case layoutCompressed, layoutCompressedFull:
		if n.mode&tree.ModeType == tree.ModeDir {
			return nil, &UnsupportedError{What: "compressed directory"}
		}
		w.compressed++
	case layoutChunked:
		mapEnd, c, err := w.readChunks(n)
		if err != nil {
			return nil, err
		}
		content = c
		s.ImageLen = mapEnd - n.off
	default:
		content = w.flat(n)
	}
	switch n.mode & tree.ModeType {
	case tree.ModeSymlink:
		for i, c := range content {
			content[i].FileOff, content[i].FileLen = 0, 0
			content[i].Kind = imagemap.Inode
			if c.ImageOff == s.ImageOff+s.ImageLen { // the target follows its inode
				s.ImageLen += c.ImageLen
				content = append(content[:i], content[i+1:]...)
				break
			}
		}
	case tree.ModeDir:
		for i := range content {
			content[i].Kind = imagemap.Dir
		}
	}
	for _, c := range append(content, s) {
		c.Path = path
		if err := w.add(c); err != nil {
			return nil, err
		}
	}
	if n.mode&tree.ModeType == tree.ModeDir {
		return w.readDir(n, content)
	}
	return nil, nil
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
func (w *walker) readChunks(n *inode) (mapEnd int64, out []imagemap.Segment, err error) {
	format := n.union & 0xffff
	if format&^(chunkBitsMask|chunkIndexes) != 0 {
		return 0, nil, &UnsupportedError{What: "chunk format " + hex(uint64(format))}
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
		return 0, nil, corrupt(n.off, "a chunk map of %d entries is longer than the image", chunks)
	}
	if err := w.spend(off, chunks*unit); err != nil {
		return 0, nil, err
	}
	var b [8]byte
	for i := range chunks {
		if err := w.r.read(b[:unit], off+i*unit); err != nil {
			return 0, nil, err
		}
		addr, device := le.Uint32(b[unit-4:]), uint16(0)
		if unit == 8 {
			device = le.Uint16(b[2:])
		}
		if addr == nullBlock || device != 0 {
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
			return 0, nil, corrupt(n.off, "chunk-based files have more pieces than the image has blocks")
		}
		out = append(out, s)
	}
	return off + chunks*unit, out, nil
}

func hex(n uint64) string { return "0x" + strconv.FormatUint(n, 16) }
