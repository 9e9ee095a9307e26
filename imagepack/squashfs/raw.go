package squashfs

import (
	"encoding/binary"
	"math"
	"sort"

	"bootprof/imagepack/imagemap"
)

// Types of a RawInode.
const (
	RawDir     = typeDir
	RawFile    = typeFile
	RawSymlink = typeSymlink
	RawBlock   = typeBlock
	RawChar    = typeChar
	RawFIFO    = typeFIFO
	RawSocket  = typeSocket
)

// Marks of a RawInode that has none, and of a table that is absent.
const (
	NoFragment = noFragment
	NoXattr    = noXattr
	NoTable    = noTable
)

// A RawInode is an inode as it is stored, basic and extended ones alike, with the inodes it names. It is what
// package relayout changes and encodes again.
type RawInode struct {
	Ref    uint64 // position in the inode table: start of the metadata block << 16 | offset
	Number uint32
	Type   uint16 // RawDir to RawSocket
	Perm   uint16
	UID    uint16 // index in the table of owners
	GID    uint16
	Mtime  uint32
	Nlink  uint32
	Xattr  uint32 // index in the table of attribute sets, or NoXattr

	Parent  uint32     // directories: number of the parent
	Entries []RawEntry // directories: in the order they are stored in

	Start    int64    // files: of the first data block in the image, bytes
	Size     int64    // files: bytes
	Sparse   int64    // files: bytes in holes, as counted by the image's writer
	Blocks   []uint32 // files: size words of the data blocks; 0 is a hole
	Fragment uint32   // files: index of the fragment block that holds the tail, or NoFragment
	FragOff  uint32   // files: of the tail in the unpacked fragment block

	Target string // symlinks
	Rdev   uint32 // devices, as encoded by the kernel
}

// A RawEntry is a name in a directory.
type RawEntry struct {
	Name  string
	Inode *RawInode
}

// A RawFragment is an entry of the fragment table: where a fragment block is stored, and its size word.
type RawFragment struct {
	ImageOff int64
	Size     uint32
}

// StoredLen is the length in bytes of the block with this size word in the image.
func StoredLen(word uint32) int64 { return int64(word &^ plainDataBit) }

// Raw is a whole image but for the content of its files.
type Raw struct {
	Root        *RawInode
	Inodes      []*RawInode // all that have a name, by Ref
	InodeCount  uint32      // of the superblock: the largest inode number
	IDs         []uint32    // owners
	Fragments   []RawFragment
	Compressor  uint16
	BlockSize   int64
	Flags       uint16
	MkfsTime    uint32
	CompOptions []byte // the block of compressor options as it is stored, nil if there is none
	Exportable  bool   // there is an export table

	XattrCount uint32  // attribute sets; 0 if there is no attribute table
	XattrStart int64   // of the attributes in the image; they end where the first block of sets begins
	XattrIDs   []int64 // metadata blocks of the attribute sets, one after the other
}

// ReadStored reads len(p) bytes of the file system as they are stored.
func (r *Reader) ReadStored(p []byte, imageOff int64) error { return r.readFull(p, imageOff) }

// UnpackFragment unpacks a fragment block into dst, which has room for a block, and returns its length.
func (r *Reader) UnpackFragment(dst []byte, f RawFragment) (int, error) {
	return r.readData(dst, blockKey{f.ImageOff, f.Size})
}

// StoredMetaLen returns how long the metadata block at imageOff is in the image, with its header.
func (r *Reader) StoredMetaLen(imageOff int64) (int64, error) {
	_, n, err := r.metaBlock(imageOff, r.size, nil)
	return n, err
}

// Raw reads the inodes and directories of the image and what its tables say. Each call reads them anew, so
// that the caller may change what it got.
func (r *Reader) Raw() (*Raw, error) {
	s, e := &r.super, &r.ends
	w := rawWalker{b: newBuilder(r), inodes: map[uint64]*RawInode{}}
	var err error
	if w.b.inodeBytes, err = r.unpackedMax(int64(s.inodeTable), int64(s.dirTable)); err != nil {
		return nil, err
	}
	if w.b.dirBytes, err = r.unpackedMax(int64(s.dirTable), e.dirEnd); err != nil {
		return nil, err
	}
	const smallest = 20 // bytes of a FIFO's inode
	if int64(s.inodes) > w.b.inodeBytes/smallest {
		return nil, corrupt("%d inodes in a table of at most %d bytes", s.inodes, w.b.inodeBytes)
	}
	raw := &Raw{
		InodeCount: s.inodes, IDs: append([]uint32{}, r.ids...), Compressor: s.compressor, BlockSize: s.blockSize,
		Flags: s.flags, MkfsTime: s.mkfsTime, Exportable: s.exportTable != noTable && s.inodes > 0,
		XattrCount: e.xattrCount, XattrStart: e.xattrStart, XattrIDs: append([]int64{}, e.xattrIDs...),
	}
	for _, f := range r.frags {
		raw.Fragments = append(raw.Fragments, RawFragment{f.imageOff, f.size})
	}
	if s.flags&flagCompOpts != 0 {
		var h [2]byte
		if err := r.readFull(h[:], superLen); err != nil {
			return nil, err
		}
		n := int64(binary.LittleEndian.Uint16(h[:]) &^ plainMetaBit)
		if n > metaLen {
			return nil, corrupt("compressor options of %d bytes", n)
		}
		raw.CompOptions = make([]byte, 2+n)
		if err := r.readFull(raw.CompOptions, superLen); err != nil {
			return nil, err
		}
	}
	if raw.Root, err = w.node(s.rootRef, 0); err != nil {
		return nil, err
	}
	if raw.Root.Type != typeDir {
		return nil, corrupt("the root is not a directory")
	}
	raw.Inodes = make([]*RawInode, 0, len(w.inodes))
	for _, n := range w.inodes {
		raw.Inodes = append(raw.Inodes, n)
	}
	sort.Slice(raw.Inodes, func(i, j int) bool { return raw.Inodes[i].Ref < raw.Inodes[j].Ref })
	return raw, nil
}

// Segments is what Map().Segments() returns, or the error that keeps Map from it.
func (r *Reader) Segments() ([]imagemap.Segment, error) {
	if _, err := r.Tree(); err != nil {
		return nil, err
	}
	m := r.Map()
	if m == nil {
		return nil, corrupt("no map can be made of it")
	}
	return m.Segments(), nil
}

// A rawWalker reads the inodes by going through the directories. Its builder has the cache, and counts the bytes
// that may still be parsed.
type rawWalker struct {
	b      *builder
	inodes map[uint64]*RawInode // by Ref
}

func (w *rawWalker) node(ref uint64, depth int) (*RawInode, error) {
	if n := w.inodes[ref]; n != nil {
		if n.Type == typeDir {
			return nil, corrupt("directory %d has a second name", n.Number)
		}
		return n, nil
	}
	n, d, err := w.inode(ref)
	if err != nil {
		return nil, err
	}
	w.inodes[ref] = n
	if n.Type != typeDir || d.size == 0 {
		return n, nil
	}
	if depth >= maxDepth {
		return nil, corrupt("more than %d directories deep", maxDepth)
	}
	refs, err := w.listing(n, d)
	if err != nil {
		return nil, err
	}
	for i := range n.Entries {
		if n.Entries[i].Inode, err = w.node(refs[i], depth+1); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// rawListing is where a directory's listing is.
type rawListing struct{ block, offset, size int64 }

func (w *rawWalker) inode(ref uint64) (*RawInode, rawListing, error) {
	s := &w.b.r.super
	var d rawListing
	block, offset := ref>>16, ref&0xffff
	if block >= s.dirTable-s.inodeTable {
		return nil, d, corrupt("inode %#x is outside the inode table", ref)
	}
	c, err := w.b.r.newCursor(int64(s.inodeTable+block), int64(offset), int64(s.dirTable), w.b.meta)
	if err != nil {
		return nil, d, err
	}
	f := &fields{c: c}
	n := &RawInode{Ref: ref, Nlink: 1, Xattr: noXattr, Fragment: noFragment}
	n.Type, n.Perm, n.UID, n.GID = f.u16(), f.u16(), f.u16(), f.u16()
	n.Mtime, n.Number = f.u32(), f.u32()
	if f.err != nil {
		return nil, d, f.err
	}
	if n.Type == 0 || n.Type > 2*extended || int(n.UID) >= len(w.b.r.ids) || int(n.GID) >= len(w.b.r.ids) {
		return nil, d, corrupt("inode %d has type %d, owner %d:%d of %d", n.Number, n.Type, n.UID, n.GID, len(w.b.r.ids))
	}
	ext := n.Type > extended
	if ext {
		n.Type -= extended
	}
	n.Perm &= 0o7777
	switch n.Type {
	case typeDir:
		d = f.rawDir(n, ext)
	case typeFile:
		if err := w.file(f, n, ext); err != nil {
			return nil, d, err
		}
	case typeSymlink:
		n.Nlink = f.u32()
		length := f.u32()
		if length == 0 || length > maxTarget {
			return nil, d, corrupt("inode %d: a symlink target of %d bytes", n.Number, length)
		}
		n.Target = string(f.bytes(int(length)))
	default:
		n.Nlink = f.u32()
		if n.Type == typeBlock || n.Type == typeChar {
			n.Rdev = f.u32()
		}
	}
	if ext && n.Type > typeFile {
		n.Xattr = f.u32()
	}
	if f.err != nil {
		return nil, d, f.err
	}
	if n.Xattr >= w.b.r.ends.xattrCount {
		if n.Xattr != noXattr && w.b.r.super.xattrTable != noTable {
			return nil, d, corrupt("attribute id %d of %d", n.Xattr, w.b.r.ends.xattrCount)
		}
		n.Xattr = noXattr
	}
	if w.b.inodeBytes -= f.n; w.b.inodeBytes < 0 {
		return nil, d, corrupt("inodes overlap")
	}
	return n, d, nil
}

func (f *fields) rawDir(n *RawInode, ext bool) (d rawListing) {
	if ext {
		n.Nlink = f.u32()
		d.size, d.block = int64(f.u32()), int64(f.u32())
		n.Parent = f.u32()
		f.u16() // index entries
		d.offset = int64(f.u16())
		n.Xattr = f.u32()
	} else {
		d.block = int64(f.u32())
		n.Nlink = f.u32()
		d.size, d.offset = int64(f.u16()), int64(f.u16())
		n.Parent = f.u32()
	}
	d.size = max(0, d.size-3) // "." and ".." count as three bytes
	return d
}

func (w *rawWalker) file(f *fields, n *RawInode, ext bool) error {
	var start, size, sparse uint64
	if ext {
		start, size, sparse = f.u64(), f.u64(), f.u64()
		n.Nlink = f.u32()
		n.Fragment, n.FragOff = f.u32(), f.u32()
		n.Xattr = f.u32()
	} else {
		start = uint64(f.u32())
		n.Fragment, n.FragOff = f.u32(), f.u32()
		size = uint64(f.u32())
	}
	if f.err != nil {
		return f.err
	}
	r := w.b.r
	bs := r.super.blockSize
	if size > 1<<62 || sparse > math.MaxInt64 || start > uint64(r.size) {
		return corrupt("inode %d: a file of %d bytes at %d", n.Number, size, start)
	}
	n.Start, n.Size, n.Sparse = int64(start), int64(size), int64(sparse)
	count, tail := n.Size/bs, n.Size%bs
	if n.Fragment == noFragment {
		if tail > 0 {
			count++
		}
	} else if int64(n.Fragment) >= int64(len(r.frags)) || int64(n.FragOff)+tail > bs {
		return corrupt("inode %d: its tail [%d +%d) is in fragment %d of %d", n.Number, n.FragOff, tail, n.Fragment, len(r.frags))
	}
	if count > w.b.inodeBytes/4 {
		return corrupt("inode %d: a file of %d blocks", n.Number, count)
	}
	list := f.bytes(int(4 * count))
	if f.err != nil {
		return f.err
	}
	n.Blocks = make([]uint32, count)
	stored := int64(0)
	for i := range n.Blocks {
		n.Blocks[i] = binary.LittleEndian.Uint32(list[4*i:])
		l := StoredLen(n.Blocks[i])
		if l > bs {
			return corrupt("inode %d: a data block of %d stored bytes", n.Number, l)
		}
		stored += l
	}
	if stored > 0 && (n.Start < superLen || stored > r.size-n.Start) {
		return corrupt("inode %d: its content is at [%d +%d) of %d bytes", n.Number, n.Start, stored, r.size)
	}
	return nil
}

// listing reads the names of a directory and the positions of their inodes. builder.readDir says more.
func (w *rawWalker) listing(n *RawInode, d rawListing) ([]uint64, error) {
	if w.b.dirBytes -= d.size; w.b.dirBytes < 0 {
		return nil, corrupt("directory %d: listings overlap", n.Number)
	}
	c, err := w.b.r.newCursor(int64(w.b.r.super.dirTable)+d.block, d.offset, w.b.r.ends.dirEnd, w.b.meta)
	if err != nil {
		return nil, err
	}
	f := &fields{c: c}
	var refs []uint64
	for f.n < d.size {
		count, block := f.u32(), uint64(f.u32())
		f.u32()
		if f.err == nil && count >= 256 {
			return nil, corrupt("directory %d: a group of %d entries", n.Number, int64(count)+1)
		}
		for i := uint32(0); i <= count && f.err == nil; i++ {
			offset := uint64(f.u16())
			f.u16()
			f.u16()
			length := int(f.u16()) + 1
			if length > 255 {
				return nil, corrupt("directory %d: a name of %d bytes", n.Number, length)
			}
			name := string(f.bytes(length))
			n.Entries = append(n.Entries, RawEntry{Name: name})
			refs = append(refs, block<<16|offset)
		}
		if f.err != nil {
			return nil, f.err
		}
	}
	if f.n != d.size {
		return nil, corrupt("directory %d: a listing of %d bytes ends at %d", n.Number, d.size, f.n)
	}
	return refs, nil
}
