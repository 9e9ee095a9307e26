package ext4

import "bootprof/imagepack/tree"

// Flags of inodes.
const (
	flagEncrypt = 0x800
	flagExtents = 0x80000
	flagEAInode = 0x200000
	flagInline  = 0x10000000
)

const (
	blockFieldOff = 0x28 // of the 60 bytes of block pointers in an inode
	blockFieldLen = 60
	xattrMagic    = 0xea020000
	maxTarget     = 4096 // bytes of a symlink target, as in the kernel
)

// An inode as it is in the inode table.
type inode struct {
	ino      uint32
	imageOff int64
	raw      []byte
	mode     uint32
	size     int64
	flags    uint32
	links    uint32
	xattrBlk int64  // 0: none
	seed     uint32 // of the checksums of its blocks
	extraEnd int    // where its fields end, 128 if there are none but the old ones
}

func (n *inode) u16(off int) uint32     { return uint32(le.Uint16(n.raw[off:])) }
func (n *inode) u32(off int) uint32     { return le.Uint32(n.raw[off:]) }
func (n *inode) has(flag uint32) bool   { return n.flags&flag != 0 }
func (n *inode) typ() uint32            { return n.mode & tree.ModeType }
func (n *inode) blockField() []byte     { return n.raw[blockFieldOff : blockFieldOff+blockFieldLen] }
func (n *inode) fits(fieldEnd int) bool { return fieldEnd <= n.extraEnd }

// inodeOff returns where inode number ino is.
func (r *Reader) inodeOff(ino uint32) (int64, error) {
	if ino == 0 || ino > r.s.inodes {
		return 0, corrupt("inode %d of %d", ino, r.s.inodes)
	}
	g, i := int64(ino-1)/r.s.inodesPerGroup, int64(ino-1)%r.s.inodesPerGroup
	return r.groups[g].inodeTable*r.s.blockSize + i*r.s.inodeSize, nil
}

// readInner reads the inode of one of the file system's own files, which may be all zeros.
func (r *Reader) readInner(src source, ino uint32) (*inode, error) {
	off, err := r.inodeOff(ino)
	if err != nil {
		return nil, err
	}
	n := &inode{ino: ino, imageOff: off, raw: make([]byte, r.s.inodeSize), extraEnd: 128}
	if err := src(n.raw, off); err != nil {
		return nil, err
	}
	n.mode, n.flags, n.links = n.u16(0), n.u32(0x20), n.u16(0x1a)
	n.size = int64(n.u32(4))
	if t := n.typ(); t == tree.ModeRegular || r.s.incompat&incompatLarge != 0 && t == tree.ModeDir {
		n.size |= int64(n.u32(0x6c)) << 32
	}
	n.xattrBlk = int64(n.u32(0x68))
	if r.s.incompat&incompat64bit != 0 {
		n.xattrBlk |= int64(n.u16(0x76)) << 32
	}
	n.seed = r.s.inodeSeed(ino, n.raw)
	return n, nil
}

// readInode reads the inode of a file of the tree or of an attribute's value.
func (r *Reader) readInode(src source, ino uint32) (*inode, error) {
	n, err := r.readInner(src, ino)
	if err != nil {
		return nil, err
	}
	if len(n.raw) > 128 {
		extra := int(n.u16(0x80))
		if extra == 0 {
			extra = 32 // as the kernel takes it
		}
		if n.extraEnd += extra; n.extraEnd > len(n.raw) || extra%4 != 0 {
			return nil, corrupt("inode %d: %d bytes of extra fields", ino, extra)
		}
	}
	switch {
	case r.s.metaCsum() && !inodeSumOK(n.seed, n.raw):
		return nil, corrupt("inode %d: wrong checksum", ino)
	case n.links == 0:
		return nil, corrupt("inode %d is not in use", ino)
	case n.size < 0 || n.size > r.s.blockSize<<32:
		return nil, corrupt("inode %d: a size of %d", ino, uint64(n.size))
	case n.has(flagInline) && n.has(flagExtents):
		return nil, corrupt("inode %d has both inline data and extents", ino)
	}
	switch n.typ() {
	case tree.ModeRegular, tree.ModeDir, tree.ModeSymlink, tree.ModeBlock, tree.ModeChar, tree.ModeFIFO, tree.ModeSocket:
		return n, nil
	}
	return nil, corrupt("inode %d has the mode %#o", ino, n.mode)
}

// attributes makes the tree's inode of n, without what its type has of its own.
func (n *inode) attributes() (*tree.Inode, error) {
	t := &tree.Inode{
		Mode: n.mode, UID: n.u16(2) | n.u16(0x78)<<16, GID: n.u16(0x18) | n.u16(0x7a)<<16,
		MtimeSec: int64(int32(n.u32(0x10))),
	}
	if n.fits(0x8c) {
		// Two bits extend the seconds beyond 2038, thirty are the nanoseconds.
		extra := n.u32(0x88)
		t.MtimeSec += int64(extra&3) << 32
		if t.MtimeNsec = extra >> 2; t.MtimeNsec >= 1e9 {
			return nil, corrupt("inode %d: a time with %d nanoseconds", n.ino, t.MtimeNsec)
		}
	}
	if n.typ() == tree.ModeBlock || n.typ() == tree.ModeChar {
		if dev := n.u32(blockFieldOff); dev != 0 {
			t.RdevMajor, t.RdevMinor = dev>>8&0xff, dev&0xff
		} else {
			dev = n.u32(blockFieldOff + 4)
			t.RdevMajor, t.RdevMinor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
		}
	}
	return t, nil
}

// fastTarget tells whether n is a symlink whose target takes the place of its block pointers.
func (r *Reader) fastTarget(n *inode) bool {
	if n.typ() != tree.ModeSymlink || n.has(flagInline) || n.size >= blockFieldLen {
		return false
	}
	if r.s.incompat&incompatEAInode != 0 {
		return true
	}
	// A short target in a block of its own is told by the count of blocks, in units of 512 bytes.
	sectors := int64(n.u32(0x1c))
	if n.xattrBlk != 0 {
		sectors -= r.s.clusterBlocks * r.s.blockSize / 512
	}
	return sectors == 0
}

// A piece is bytes of an inode that hold inline data.
type piece struct {
	off, n int // in inode.raw
}

// inlinePieces returns where the inline data of n is: first the place of the block pointers, then the value of
// the attribute system.data. What they hold together may be more or less than the file's size.
func (n *inode) inlinePieces() ([2]piece, error) {
	out := [2]piece{{blockFieldOff, blockFieldLen}, {}}
	list, err := n.ownXattrs()
	if err != nil {
		return out, err
	}
	for _, x := range list {
		if x.index != xattrSystem || x.name != "data" {
			continue
		}
		if x.valueIno != 0 {
			return out, corrupt("inode %d: inline data in an inode of its own", n.ino)
		}
		out[1] = piece{x.off, x.size}
		return out, nil
	}
	return out, corrupt("inode %d: inline data without the attribute for it", n.ino)
}

// inlineData returns the file's bytes as far as they are inline; the rest of its size is zeros.
func (n *inode) inlineData() ([]byte, error) {
	p, err := n.inlinePieces()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, p[0].n+p[1].n)
	for _, p := range p {
		b = append(b, n.raw[p.off:p.off+p.n]...)
	}
	return b[:min(int64(len(b)), n.size)], nil
}
