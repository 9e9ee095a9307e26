package erofs

import (
	"errors"
	"fmt"
	"io"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// ErrCompressed says that an image has compressed files: a recording of it is coarse, because reading any page
// of them reads a whole compressed block. ReadMap then returns both a map and an error that Is ErrCompressed.
var ErrCompressed = errors.New("the image has compressed files")

// ErrNotErofs says that there is no EROFS superblock.
var ErrNotErofs = errors.New("not an EROFS image")

// An UnsupportedError says that an image uses something of EROFS that this package does not read.
type UnsupportedError struct{ What string }

func (e *UnsupportedError) Error() string { return "EROFS image not supported: " + e.What }

// A CorruptError says that an image contradicts itself.
type CorruptError struct {
	ImageOff int64 // of the structure at fault, in bytes
	Reason   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("EROFS image is damaged at %d: %s", e.ImageOff, e.Reason)
}

func corrupt(imageOff int64, format string, args ...any) error {
	return &CorruptError{imageOff, fmt.Sprintf(format, args...)}
}

// Probe tells whether r looks like an EROFS image. It reads 4 bytes.
func Probe(r io.ReaderAt) bool {
	var b [4]byte
	n, _ := r.ReadAt(b[:], superOff)
	return n == len(b) && le.Uint32(b[:]) == magic
}

// ReadMap reads the map of the EROFS image of size bytes in r. Contents on other devices are left out. A
// segment of a compressed file (see ErrCompressed) is a compressed block with what it unpacks to; several files
// that have parts of one block, or the same part, share its range.
//
// Work and memory are bounded by the size of the image: sound metadata never overlaps, so a walk that
// reads more bytes of it than the image has ends with an error.
func ReadMap(r io.ReaderAt, size int64) (*imagemap.Map, error) {
	w := newWalker(r, size)
	if err := w.readSuper(); err != nil {
		return nil, err
	}
	if err := w.openPacked(); err != nil {
		return nil, err
	}
	if _, err := w.walk(); err != nil {
		return nil, err
	}
	m := imagemap.New(w.segs)
	if w.compressed > 0 {
		return m, fmt.Errorf("%w: %d of %d inodes", ErrCompressed, w.compressed, len(w.seen))
	}
	return m, nil
}

const (
	maxPath      = 1 << 20   // bytes of one path; 2048 names of 255 bytes are half of it
	minPathBytes = 128 << 20 // bytes of all paths that any image may have
	minPieces    = 1 << 20   // pieces of chunk-based and compressed files that any image may have
)

// A walker is the state of one ReadMap or ReadTree.
type walker struct {
	*image
	meta   *cachedReader
	budget int64 // bytes of metadata that may still be read
	paths  int64 // bytes of paths that may still be made
	pieces int64 // pieces of chunk-based and compressed files that may still be recorded

	metaBase     int64 // bytes; where nid 0 lies
	xattrBase    int64 // bytes; where shared xattr 0 lies
	rootNid      uint64
	packedNid    uint64 // of the inode that holds fragments; 0: none
	devices      bool   // some addresses may be of other devices
	buildSec     int64  // the time of compact inodes counts from here
	buildNsec    uint32
	prefixes     int // number of long xattr prefixes
	prefixOff    int64
	prefixPacked bool // they lie in the packed inode

	seen       map[uint64]*tree.Inode // by nid; nil while making a map
	sharedAt   map[int64]tree.Xattr   // shared xattrs, by place in the image
	compressed int
	segs       []imagemap.Segment

	packedIndex *zindex // of the packed inode, while making a map
	packedLast  zextent // its extent used last: fragments mostly follow each other

	tree     bool         // ReadTree: make inodes, not segments
	memory   *tree.Budget // ReadTree only, else nil
	longName []string     // long xattr prefixes
}

func newWalker(r io.ReaderAt, size int64) *walker {
	return &walker{
		image:    &image{r: r, size: size, cache: newBlockCache(dataCacheBytes)},
		meta:     &cachedReader{r: r, size: size},
		budget:   size,
		paths:    minPathBytes + size/2,
		seen:     make(map[uint64]*tree.Inode),
		sharedAt: make(map[int64]tree.Xattr),
	}
}

func (w *walker) readSuper() error {
	var b [superSize]byte
	if err := w.meta.read(b[:], superOff); err != nil {
		if errors.As(err, new(*CorruptError)) {
			return fmt.Errorf("%w: it has %d bytes only", ErrNotErofs, w.size)
		}
		return err
	}
	if le.Uint32(b[0:]) != magic {
		return fmt.Errorf("%w: no superblock at %d", ErrNotErofs, superOff)
	}
	w.blkBits = uint(b[12])
	features := le.Uint32(b[80:])
	switch {
	case features&^incompatSupported != 0:
		return &UnsupportedError{fmt.Sprintf("incompatible features %#x", features&^incompatSupported)}
	case w.blkBits < 9 || w.blkBits > 16:
		return &UnsupportedError{fmt.Sprintf("blocks of 2^%d bytes", w.blkBits)}
	case b[90] != 0:
		return &UnsupportedError{fmt.Sprintf("directory blocks of 2^%d blocks", b[90])}
	}
	w.zeroPadded = features&incompatZeroPadding != 0
	w.pieces = minPieces + 2*(w.size>>w.blkBits)
	w.devices = features&incompatDevices != 0 && le.Uint16(b[86:]) > 0
	w.rootNid = uint64(le.Uint16(b[14:]))
	w.metaBase = int64(le.Uint32(b[40:])) << w.blkBits
	w.xattrBase = int64(le.Uint32(b[44:])) << w.blkBits
	w.buildSec, w.buildNsec = int64(le.Uint64(b[24:])), le.Uint32(b[32:])
	if features&incompatFragments != 0 {
		w.packedNid = le.Uint64(b[96:])
	}
	if features&incompatPrefixes != 0 {
		w.prefixes, w.prefixOff = int(b[91]), int64(le.Uint32(b[92:]))*4
		w.prefixPacked = w.packedNid != 0 && le.Uint32(b[8:])&compatPlainPrefixes == 0
	}
	length := superSize + int64(b[13])*16
	return w.add(imagemap.Segment{ImageLen: superOff + length, Kind: imagemap.Meta})
}

// spend takes n bytes of metadata at imageOff from the budget and checks that they are in the image.
func (w *walker) spend(imageOff, n int64) error {
	if imageOff < 0 || n < 0 || imageOff > w.size || n > w.size-imageOff {
		return corrupt(imageOff, "metadata [%d +%d) lies outside the image of %d bytes", imageOff, n, w.size)
	}
	if w.budget -= n; w.budget < 0 {
		return corrupt(imageOff, "it has more metadata than bytes: structures overlap")
	}
	return nil
}

// add records a segment. Parts on other devices are left out.
func (w *walker) add(s imagemap.Segment) error {
	if s.ImageLen == 0 {
		return nil
	}
	if s.ImageOff > w.size || s.ImageLen > w.size-s.ImageOff {
		if w.devices && s.Kind == imagemap.Data {
			return nil
		}
		return corrupt(s.ImageOff, "%q [%d +%d) lies outside the image of %d bytes",
			"/"+s.Path, s.ImageOff, s.ImageLen, w.size)
	}
	w.segs = append(w.segs, s)
	return nil
}
