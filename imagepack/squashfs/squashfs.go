// Package squashfs reads squashfs 4.0 images without mounting them: the tree of files for a pack, and the
// map that tells which file a range of the image belongs to.
//
// File content is cut into blocks of 4 KiB to 1 MiB that are compressed one by one and lie one after the
// other from the file's start on. A file's tail, shorter than a block, may share a fragment block with those of
// other files. Inodes, directories and all tables are byte streams cut into metadata blocks of 8 KiB,
// compressed as well; a position in them is (start of the metadata block, offset in what it unpacks to).
//
// Traps: a hard link is a directory entry with another's inode position. A block of stored size 0 is a hole.
// A size word has bit 24 (data) or bit 15 (metadata) set if the block is stored plainly. An image in
// compressed blocks can only be recorded coarsely: reading any page reads the block (see Info.Coarse).
//
// Nothing in an image is believed: sizes are checked before memory is taken for them, and what a tree takes
// is at most linear in the size of the unpacked inode, directory and attribute tables.
package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

const (
	magic         = 0x73717368 // "hsqs"
	superLen      = 96
	metaLen       = 8192 // bytes a metadata block unpacks to, at most
	minBlockLog   = 12
	maxBlockLog   = 20
	noTable       = ^uint64(0)
	noFragment    = ^uint32(0)
	noXattr       = ^uint32(0)
	flagCompOpts  = 0x0400
	plainDataBit  = 1 << 24
	plainMetaBit  = 1 << 15
	maxDepth      = 2048    // directories; what PATH_MAX allows a path to name
	maxTarget     = 4096    // bytes of a symlink target, as in the kernel
	maxXattrValue = 1 << 16 // bytes, as in the kernel
)

// Tuning.
const (
	dataCacheBytes = 16 << 20 // unpacked blocks shared by all open contents of a Reader
	metaCacheBytes = 4 << 20  // unpacked metadata blocks while a tree is read
)

// A CorruptError tells that an image contradicts itself or is cut short.
type CorruptError struct{ What string }

func (e *CorruptError) Error() string { return "squashfs image is corrupt: " + e.What }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Sprintf(format, args...)} }

// An UnsupportedError tells that an image is sound as far as one can see, but of a kind that this package does
// not read.
type UnsupportedError struct{ What string }

func (e *UnsupportedError) Error() string { return "squashfs " + e.What + ": not supported" }

// Info is what the superblock says.
type Info struct {
	BlockSize  int    // bytes of content in a data block, a power of two
	Compressor string // "gzip", "lzo", "xz", "lz4", "zstd"
	Inodes     uint32
	Fragments  uint32
	BytesUsed  int64 // length of the file system; the image may be padded
	MkfsTime   int64 // seconds since 1970
	PlainData  bool  // data and fragment blocks are said to be stored uncompressed
}

// Coarse tells that a recording of this image sees compressed blocks of several pages where a program
// touched one page.
func (i Info) Coarse() bool { return i.BlockSize > 4096 || !i.PlainData }

// A Reader is an open image. It is safe for concurrent use and has nothing to close: the io.ReaderAt it was
// made from must outlive it, its tree and the contents of that.
type Reader struct {
	r     io.ReaderAt
	size  int64 // Info.BytesUsed: nothing is read behind it
	info  Info
	super superblock
	codec codec
	ids   []uint32
	frags []fragment
	ends  tables
	cache *blockCache

	mu   sync.Mutex
	root *tree.Inode // once read
}

// superblock is the part of the superblock that is used after Open.
type superblock struct {
	blockSize                                   int64
	rootRef                                     uint64
	idTable, xattrTable, inodeTable             uint64
	dirTable, fragTable, exportTable            uint64
	inodes, fragments, mkfsTime                 uint32
	compressor, blockLog, flags, idCount, major uint16
}

// Probe tells whether r begins like a squashfs of version 4.
func Probe(r io.ReaderAt) bool {
	b := make([]byte, superLen)
	if n, _ := r.ReadAt(b, 0); n < superLen {
		return false
	}
	le := binary.LittleEndian
	return le.Uint32(b) == magic && le.Uint16(b[28:]) == 4
}

// Open reads the superblock and the small tables of the image r of size bytes.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	b := make([]byte, superLen)
	if n, err := r.ReadAt(b, 0); n < superLen {
		if err == io.EOF {
			return nil, corrupt("%d bytes are too few for a superblock", size)
		}
		return nil, fmt.Errorf("reading the squashfs superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(b) != magic {
		return nil, corrupt("no squashfs magic at its start")
	}
	s := superblock{
		inodes: le.Uint32(b[4:]), mkfsTime: le.Uint32(b[8:]), blockSize: int64(le.Uint32(b[12:])),
		fragments: le.Uint32(b[16:]), compressor: le.Uint16(b[20:]), blockLog: le.Uint16(b[22:]),
		flags: le.Uint16(b[24:]), idCount: le.Uint16(b[26:]), major: le.Uint16(b[28:]),
		rootRef: le.Uint64(b[32:]), idTable: le.Uint64(b[48:]), xattrTable: le.Uint64(b[56:]),
		inodeTable: le.Uint64(b[64:]), dirTable: le.Uint64(b[72:]), fragTable: le.Uint64(b[80:]),
		exportTable: le.Uint64(b[88:]),
	}
	used := le.Uint64(b[40:])
	switch {
	case s.major != 4:
		return nil, &UnsupportedError{fmt.Sprintf("version %d", s.major)}
	case s.blockLog < minBlockLog || s.blockLog > maxBlockLog || s.blockSize != 1<<s.blockLog:
		return nil, corrupt("block size %d (log %d)", s.blockSize, s.blockLog)
	case used < superLen || used > 1<<62:
		return nil, corrupt("length %d in the superblock", used)
	case used > uint64(size):
		return nil, corrupt("cut short: %d of %d bytes", size, used)
	case s.idCount == 0:
		return nil, corrupt("no owners")
	}
	rd := &Reader{r: r, size: int64(used), super: s, cache: newBlockCache(dataCacheBytes)}
	rd.info = Info{
		BlockSize: int(s.blockSize), Compressor: compressorNames[s.compressor], Inodes: s.inodes,
		Fragments: s.fragments, BytesUsed: int64(used), MkfsTime: int64(s.mkfsTime),
		PlainData: s.flags&0x2 != 0 && (s.flags&0x8 != 0 || s.fragments == 0),
	}
	if err := rd.openCodec(); err != nil {
		return nil, err
	}
	return rd, rd.readTables()
}

// Info returns what the superblock says.
func (r *Reader) Info() Info { return r.info }

// Tree reads the tree of files. It is read once; further calls return the same tree. Times are whole seconds.
func (r *Reader) Tree() (*tree.Inode, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.root == nil {
		b := newBuilder(r)
		b.memory = tree.NewBudget(0)
		root, err := b.build()
		if err != nil {
			return nil, err
		}
		r.root = root
	}
	return r.root, nil
}

// Map tells what lies where in the image. Data segments are stored blocks; tails that share a fragment block
// share its range. An Inode or Dir segment is the range of the metadata blocks that hold it, which those of
// other files share too. Map returns nil if Tree returns an error.
func (r *Reader) Map() *imagemap.Map {
	b := newBuilder(r)
	b.mapping = true
	if _, err := b.build(); err != nil {
		return nil
	}
	return imagemap.New(append(b.segs, r.tableSegments()...))
}

// readFull reads len(p) bytes of the file system at off.
func (r *Reader) readFull(p []byte, off int64) error {
	if off < 0 || off > r.size || int64(len(p)) > r.size-off {
		return corrupt("[%d +%d) is outside its %d bytes", off, len(p), r.size)
	}
	if n, err := r.r.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading the squashfs at [%d +%d): %w", off, len(p), err)
	}
	return nil
}
