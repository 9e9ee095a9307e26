package squashfs

import (
	"encoding/binary"

	"bootprof/imagepack/tree"
)

// Inode types. An extended one is its basic one + 7.
const (
	typeDir     = 1
	typeFile    = 2
	typeSymlink = 3
	typeBlock   = 4
	typeChar    = 5
	typeFIFO    = 6
	typeSocket  = 7
	extended    = 7
)

var modeOfType = [...]uint32{
	typeDir: tree.ModeDir, typeFile: tree.ModeRegular, typeSymlink: tree.ModeSymlink, typeBlock: tree.ModeBlock,
	typeChar: tree.ModeChar, typeFIFO: tree.ModeFIFO, typeSocket: tree.ModeSocket,
}

// A rawInode is an inode with what its directory's or file's content is found by.
type rawInode struct {
	n       *tree.Inode
	content *content // regular files
	ranges  []metaRange

	dirBlock, dirOffset, dirSize int64 // directories: start of the listing in the directory table, length
}

// readInode reads the inode at ref, a position in the inode table.
func (b *builder) readInode(ref uint64) (*rawInode, error) {
	s := &b.r.super
	block, offset := ref>>16, ref&0xffff
	if block >= s.dirTable-s.inodeTable {
		return nil, corrupt("inode %#x is outside the inode table", ref)
	}
	c, err := b.r.newCursor(int64(s.inodeTable+block), int64(offset), int64(s.dirTable), b.meta)
	if err != nil {
		return nil, err
	}
	f := &fields{c: c}
	typ := uint32(f.u16())
	perm := uint32(f.u16())
	uid, gid := int(f.u16()), int(f.u16())
	n := &tree.Inode{MtimeSec: int64(f.u32())}
	number := f.u32()
	if f.err != nil {
		return nil, f.err
	}
	if typ == 0 || typ > 2*extended || uid >= len(b.r.ids) || gid >= len(b.r.ids) {
		return nil, corrupt("inode %d has type %d, owner %d:%d of %d", number, typ, uid, gid, len(b.r.ids))
	}
	ext := typ > extended
	if ext {
		typ -= extended
	}
	n.Mode = modeOfType[typ] | perm&0o7777
	n.UID, n.GID = b.r.ids[uid], b.r.ids[gid]
	raw := &rawInode{n: n}
	xattr := noXattr
	switch typ {
	case typeDir:
		xattr = f.dir(raw, ext)
	case typeFile:
		if xattr, err = b.readFile(f, raw, ext); err != nil {
			return nil, err
		}
	case typeSymlink:
		f.u32() // links
		length := f.u32()
		if length == 0 || length > maxTarget {
			return nil, corrupt("inode %d: a symlink target of %d bytes", number, length)
		}
		n.LinkTarget = string(f.bytes(int(length)))
		if ext {
			xattr = f.u32()
		}
	default:
		f.u32() // links
		if typ == typeBlock || typ == typeChar {
			dev := f.u32()
			n.RdevMajor, n.RdevMinor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
		}
		if ext {
			xattr = f.u32()
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	if b.inodeBytes -= f.n; b.inodeBytes < 0 {
		return nil, corrupt("inodes overlap")
	}
	raw.ranges = c.ranges
	n.Xattrs, err = b.xattrs(xattr)
	return raw, err
}

func (f *fields) dir(raw *rawInode, ext bool) (xattr uint32) {
	xattr = noXattr
	if ext {
		f.u32() // links
		raw.dirSize = int64(f.u32())
		raw.dirBlock = int64(f.u32())
		f.u32() // parent
		f.u16() // index entries, which only speed up a look-up
		raw.dirOffset = int64(f.u16())
		xattr = f.u32()
	} else {
		raw.dirBlock = int64(f.u32())
		f.u32() // links
		raw.dirSize = int64(f.u16())
		raw.dirOffset = int64(f.u16())
		f.u32() // parent
	}
	raw.dirSize = max(0, raw.dirSize-3) // "." and ".." count as three bytes
	return xattr
}

// readFile reads the rest of a regular file's inode.
func (b *builder) readFile(f *fields, raw *rawInode, ext bool) (uint32, error) {
	r := b.r
	ct := &content{r: r, fragment: noFragment}
	xattr := noXattr
	var start, size uint64
	if ext {
		start, size = f.u64(), f.u64()
		f.u64() // bytes in holes
		f.u32() // links
		ct.fragment, ct.fragOff = f.u32(), int64(f.u32())
		xattr = f.u32()
	} else {
		start = uint64(f.u32())
		ct.fragment, ct.fragOff = f.u32(), int64(f.u32())
		size = uint64(f.u32())
	}
	if f.err != nil {
		return 0, f.err
	}
	bs := r.super.blockSize
	if size > 1<<62 || start > uint64(r.size) {
		return 0, corrupt("a file of %d bytes at %d", size, start)
	}
	ct.size, ct.start = int64(size), int64(start)
	count := ct.size / bs
	if tail := ct.size % bs; ct.fragment == noFragment {
		if tail > 0 {
			count++
		}
	} else if int64(ct.fragment) >= int64(len(r.frags)) || ct.fragOff+tail > bs {
		return 0, corrupt("a file's tail [%d +%d) is in fragment %d of %d", ct.fragOff, tail, ct.fragment, len(r.frags))
	}
	if count > b.inodeBytes/4 {
		return 0, corrupt("a file of %d blocks", count)
	}
	if err := b.memory.Take(8 * count); err != nil { // the list, and a copy
		return 0, err
	}
	list := f.bytes(int(4 * count))
	if f.err != nil {
		return 0, f.err
	}
	ct.blocks = make([]uint32, count)
	stored := int64(0)
	for i := range ct.blocks {
		w := binary.LittleEndian.Uint32(list[4*i:])
		if int64(w&^plainDataBit) > bs {
			return 0, corrupt("a data block of %d stored bytes", w&^plainDataBit)
		}
		ct.blocks[i] = w
		stored += int64(w &^ plainDataBit)
	}
	if stored > r.size-ct.start {
		return 0, corrupt("a file's content is at [%d +%d) of %d bytes", ct.start, stored, r.size)
	}
	raw.content = ct
	raw.n.Size = ct.size
	raw.n.Data = ct.extents()
	if ct.size > 0 && (raw.n.Data == nil || len(raw.n.Data) > 0) {
		raw.n.Content = ct
	}
	return xattr, nil
}

// fields decodes little-endian numbers from a cursor. After an error all of them are 0.
type fields struct {
	c   *cursor
	n   int64 // bytes read
	err error
}

func (f *fields) bytes(n int) []byte {
	if f.err != nil {
		return nil
	}
	var b []byte
	if b, f.err = f.c.read(n); f.err != nil {
		return nil
	}
	f.n += int64(n)
	return b
}

func (f *fields) u16() uint16 {
	if b := f.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (f *fields) u32() uint32 {
	if b := f.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (f *fields) u64() uint64 {
	if b := f.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}
