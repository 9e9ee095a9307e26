package erofs

import (
	"errors"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// An inode is what its 32 or 64 bytes say.
type inode struct {
	nid      uint64
	off      int64 // in the image
	headLen  int64 // inode and inline xattrs
	mode     uint32
	size     int64
	layout   byte
	union    uint32
	uid, gid uint32
	sec      int64
	nsec     uint32
	xattrs   []tree.Xattr // ReadTree only
}

// readInode reads the inode nid and its xattrs.
func (w *walker) readInode(nid uint64) (*inode, error) {
	if nid > uint64(w.size)/nidUnit {
		return nil, corrupt(w.metaBase, "inode %d lies outside the image of %d bytes", nid, w.size)
	}
	n := &inode{nid: nid, off: w.metaBase + int64(nid)*nidUnit, headLen: inodeCompactSize}
	var b [inodeExtendedSize]byte
	if err := w.meta.read(b[:inodeCompactSize], n.off); err != nil {
		return nil, err
	}
	format := le.Uint16(b[0:])
	if format&^0xf != 0 {
		return nil, &UnsupportedError{What: "inode format bits " + hex(uint64(format))}
	}
	if format&1 != 0 {
		n.headLen = inodeExtendedSize
		if err := w.meta.read(b[inodeCompactSize:], n.off+inodeCompactSize); err != nil {
			return nil, err
		}
		n.size = int64(le.Uint64(b[8:]))
		n.uid, n.gid = le.Uint32(b[24:]), le.Uint32(b[28:])
		n.sec, n.nsec = int64(le.Uint64(b[32:])), le.Uint32(b[40:])
	} else {
		n.size = int64(le.Uint32(b[8:]))
		n.uid, n.gid = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		// Since Linux 6.15 there are seconds after the build in what was reserved, and zero, before.
		n.sec, n.nsec = w.buildSec+int64(le.Uint32(b[12:])), w.buildNsec
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
	return n, w.readXattrs(n, xattrOff)
}

// A placement is where the content of an inode is: in segments without a path, or compressed. A file that a map
// leaves out has neither.
type placement struct {
	kind imagemap.Kind
	segs []imagemap.Segment
	z    *zfile
	end  int64 // in the image, of the inode with its xattrs and indexes
}

// visit reads inode nid. ReadMap's segments are recorded; for ReadTree the inode is made. For a directory it
// returns the entries, never nil.
func (w *walker) visit(nid uint64, path string) ([]dirent, *tree.Inode, error) {
	w.seen[nid] = nil
	n, err := w.readInode(nid)
	if err != nil {
		return nil, nil, err
	}
	p, err := w.place(n)
	if err != nil {
		return nil, nil, err
	}
	var node *tree.Inode
	if w.tree {
		node, err = w.node(n, p, path)
	} else {
		err = w.mapInode(n, p, path)
	}
	if err != nil || p.kind != imagemap.Dir {
		return nil, node, err
	}
	entries, err := w.readDir(p.segs)
	if err == nil && w.tree {
		err = sortEntries(entries, path)
		node.Entries = make([]tree.Entry, 0, len(entries))
	}
	return entries, node, err
}

// place finds where the content of n is, if it has any.
func (w *walker) place(n *inode) (placement, error) {
	p := placement{kind: imagemap.Data, end: n.off + n.headLen}
	switch n.mode & tree.ModeType {
	case tree.ModeRegular:
	case tree.ModeDir:
		p.kind = imagemap.Dir
	case tree.ModeSymlink:
		p.kind = imagemap.Inode
	case tree.ModeBlock, tree.ModeChar, tree.ModeFIFO, tree.ModeSocket:
		return p, nil
	default:
		return p, corrupt(n.off, "inode %d has the unknown mode %#o", n.nid, n.mode)
	}
	var err error
	switch {
	case !compressed(n.layout):
		p.segs, p.end, err = w.content(n)
	case p.kind == imagemap.Dir:
		return p, &UnsupportedError{What: "compressed directory"}
	default:
		w.compressed++
		if p.z, err = w.openCompressed(n); err == nil {
			p.end = p.z.headEnd
		} else if !w.tree && errors.As(err, new(*UnsupportedError)) {
			p.z, err = nil, nil // a map leaves it out
		}
	}
	return p, err
}

func compressed(layout byte) bool {
	return layout == layoutCompressed || layout == layoutCompressedFull
}

// mapInode records the segments of an inode and of its content.
func (w *walker) mapInode(n *inode, p placement, path string) error {
	if p.z != nil {
		var err error
		if p.segs, err = w.mapCompressed(p.z); err != nil {
			return err
		}
	}
	head := imagemap.Segment{ImageOff: n.off, ImageLen: p.end - n.off, Path: path, Kind: imagemap.Inode}
	for _, s := range p.segs {
		s.Path, s.Kind = path, p.kind
		if s.Kind == imagemap.Inode { // a symlink's target
			s.FileOff, s.FileLen = 0, 0
			if s.ImageOff == head.ImageOff+head.ImageLen { // it follows its inode
				head.ImageLen += s.ImageLen
				continue
			}
		}
		if err := w.add(s); err != nil {
			return err
		}
	}
	return w.add(head)
}
