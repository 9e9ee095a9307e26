// Package ext4 reads ext2, ext3 and ext4 images without mounting them: the tree of files for a pack, and the
// map that tells which file a range of the image belongs to.
//
// The image is cut into blocks of 1 to 64 KiB, and these into groups. A group has a bitmap of its blocks and one
// of its inodes, and a table of inodes of fixed size; descriptors of all groups follow the superblock. An inode's
// 60 bytes of block pointers are one of: the root of a tree of extents, 12 blocks and three trees of indirect
// blocks, a short symlink's target, a device number, or the first bytes of inline data, whose rest is the
// attribute system.data. Attributes stand behind the inode's fields, in one block that inodes may share, or,
// if large, in inodes of their own.
//
// Traps: an unwritten extent has blocks, but reads as zeros; there may be extents behind the end of the file.
// A directory's index looks like empty entries to who reads it linearly. An inline file may be longer than its
// inline data. A file system that was mounted when it was copied has a journal to replay: until then its blocks
// may be old.
//
// Nothing in an image is believed: every block and inode is taken once, so that work and memory are at most linear in
// the image's size. Where there are checksums of metadata (metadata_csum), those of the superblock, group descriptors,
// inodes, extents, directories and attribute blocks are checked.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

var le = binary.LittleEndian

// A CorruptError tells that an image contradicts itself or is cut short.
type CorruptError struct{ What string }

func (e *CorruptError) Error() string { return "ext4 image is corrupt: " + e.What }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Sprintf(format, args...)} }

// An UnsupportedError tells that an image is sound as far as one can see, but of a kind that this package does
// not read.
type UnsupportedError struct {
	What string // what the image is or has: "with compression"
	Do   string // what can be done about it, or ""
}

func (e *UnsupportedError) Error() string {
	s := "ext4 image " + e.What + ": not supported"
	if e.Do != "" {
		s += "; " + e.Do
	}
	return s
}

// Info is what the superblock says.
type Info struct {
	Version    string // "ext2", "ext3" or "ext4", by the features in use
	BlockSize  int    // bytes, a power of two
	BytesUsed  int64  // length of the file system; the image may be longer
	Inodes     uint32 // used and free ones
	Label      string // of the volume, or ""
	UUID       [16]byte
	MkfsTime   int64 // seconds since 1970, 0 if not known
	Checksums  bool  // the metadata has checksums
	Clean      bool  // unmounted and without known errors
	HasJournal bool

	// NeedsRecovery tells that the newest metadata is in the journal: the file system was mounted when the
	// image was taken. Tree refuses it, and what Map says may be out of date.
	NeedsRecovery bool
}

// A Reader is an open image. It is safe for concurrent use and has nothing to close: the io.ReaderAt it was
// made from must outlive it, its tree and the contents of that. The image must not change.
type Reader struct {
	r      io.ReaderAt
	s      super
	info   Info
	groups []group

	mu   sync.Mutex
	root *tree.Inode // once read
}

// Probe tells whether r looks like an ext2, ext3 or ext4 image.
func Probe(r io.ReaderAt) bool {
	b := make([]byte, superLen)
	if n, _ := r.ReadAt(b, superOff); n < superLen {
		return false
	}
	return le.Uint16(b[0x38:]) == superMagic && le.Uint32(b[0x18:]) <= maxBlockLog && le.Uint32(b[0x28:]) > 0
}

// Open reads the superblock and the group descriptors of the image r of size bytes.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	b := make([]byte, superLen)
	if n, err := r.ReadAt(b, superOff); n < superLen {
		if err == io.EOF || err == nil {
			return nil, corrupt("%d bytes are too few for a superblock", size)
		}
		return nil, fmt.Errorf("reading the ext4 superblock: %w", err)
	}
	rd := &Reader{r: r}
	if err := rd.parseSuper(b, size); err != nil {
		return nil, err
	}
	return rd, rd.readGroups()
}

// Info returns what the superblock says.
func (r *Reader) Info() Info { return r.info }

// Tree reads the tree of files, lost+found as it is there. It is read once; further calls return the same
// tree. Attributes that Linux does not show (those of namespaces it has no handler for) are left out. An image with
// encrypted files or with a journal to replay is an UnsupportedError.
func (r *Reader) Tree() (*tree.Inode, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.root != nil {
		return r.root, nil
	}
	if r.info.NeedsRecovery {
		return nil, &UnsupportedError{"with a journal to replay", "run e2fsck on it or mount it once"}
	}
	root, err := newBuilder(r, false).build()
	if err != nil {
		return nil, err
	}
	r.root = root
	return root, nil
}

// Map tells what lies where in the image. A regular file's Data segments are the blocks it has written: they
// end where the file ends, and unwritten extents have no segment, as free blocks have none. Inline data is
// inside the range of the Inode segment too. What no file owns alone is Meta: superblocks, group
// descriptors, bitmaps, the inodes not in use, extent and indirect blocks, attribute blocks and
// inodes, the journal and other inner files, what fs-verity keeps.
//
// Of an encrypted directory only its own blocks are known. With a journal to replay (Info.NeedsRecovery) the
// map tells the state before: files whose metadata makes no sense are left out.
func (r *Reader) Map() (*imagemap.Map, error) {
	b := newBuilder(r, true)
	if _, err := b.build(); err != nil {
		return nil, err
	}
	if err := b.mapInner(); err != nil {
		return nil, err
	}
	return imagemap.New(append(b.segs, b.metaSegments()...)), nil
}

// A source reads len(p) bytes of the file system at off or returns an error.
type source func(p []byte, off int64) error

// readFull reads len(p) bytes of the file system at off.
func (r *Reader) readFull(p []byte, off int64) error {
	if off < 0 || off > r.info.BytesUsed || int64(len(p)) > r.info.BytesUsed-off {
		return corrupt("[%d +%d) is outside its %d bytes", off, len(p), r.info.BytesUsed)
	}
	if n, err := r.r.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading the ext4 image at [%d +%d): %w", off, len(p), err)
	}
	return nil
}
