package erofs

import (
	"errors"
	"fmt"
	"io"

	"bootprof/imagepack/imagemap"
)

// ErrCompressed says that an image has compressed files. ReadMap then returns a map without their
// contents, along with an error that Is ErrCompressed.
var ErrCompressed = errors.New("the image has compressed files")

// ErrNotErofs says that there is no EROFS superblock.
var ErrNotErofs = errors.New("not an EROFS image")

// An UnsupportedError says that an image uses something of EROFS that ReadMap does not know.
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

// ReadMap reads the map of the EROFS image of size bytes in r. Contents on other devices are left out, as
// are compressed ones (see ErrCompressed).
//
// Work and memory are bounded by the size of the image: sound metadata never overlaps, so a walk that
// reads more bytes of it than the image has ends with an error.
func ReadMap(r io.ReaderAt, size int64) (*imagemap.Map, error) {
	w := &walker{
		r:        &cachedReader{r: r, size: size},
		size:     size,
		budget:   size,
		paths:    minPathBytes + size/2,
		seen:     make(map[uint64]bool),
		sharedAt: make(map[int64]bool),
	}
	if err := w.readSuper(); err != nil {
		return nil, err
	}
	if err := w.walk(); err != nil {
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
	minPieces    = 1 << 20   // pieces of chunk-based files that any image may have
)

// A walker is the state of one ReadMap.
type walker struct {
	r      *cachedReader
	size   int64
	budget int64 // bytes of metadata that may still be read
	paths  int64 // bytes of paths that may still be made
	pieces int64 // pieces of chunk-based files that may still be recorded

	blkBits   uint
	metaBase  int64 // bytes; where nid 0 lies
	xattrBase int64 // bytes; where shared xattr 0 lies
	rootNid   uint64
	devices   bool // some addresses may be of other devices

	seen       map[uint64]bool // inodes, by nid
	sharedAt   map[int64]bool  // shared xattrs, by place in the image
	compressed int
	segs       []imagemap.Segment
}

func (w *walker) readSuper() error {
	var b [superSize]byte
	if err := w.r.read(b[:], superOff); err != nil {
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
	w.pieces = minPieces + 2*(w.size>>w.blkBits)
	w.devices = features&incompatDevices != 0 && le.Uint16(b[86:]) > 0
	w.rootNid = uint64(le.Uint16(b[14:]))
	w.metaBase = int64(le.Uint32(b[40:])) << w.blkBits
	w.xattrBase = int64(le.Uint32(b[44:])) << w.blkBits
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

// A cachedReader reads small pieces through a few large ones.
type cachedReader struct {
	r      io.ReaderAt
	size   int64
	blocks map[int64][]byte
}

const (
	cacheBlock  = 64 << 10
	cacheBlocks = 64
)

// read fills p from imageOff on. Less than that is a *CorruptError.
func (c *cachedReader) read(p []byte, imageOff int64) error {
	if imageOff < 0 || imageOff > c.size || int64(len(p)) > c.size-imageOff {
		return corrupt(imageOff, "[%d +%d) lies outside the image of %d bytes", imageOff, len(p), c.size)
	}
	for len(p) > 0 {
		at := imageOff / cacheBlock * cacheBlock
		b, ok := c.blocks[at]
		if !ok {
			b = make([]byte, min(cacheBlock, c.size-at))
			if n, err := c.r.ReadAt(b, at); n < len(b) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("reading EROFS metadata at %d: %w", at, err)
			}
			if c.blocks == nil || len(c.blocks) >= cacheBlocks {
				c.blocks = make(map[int64][]byte)
			}
			c.blocks[at] = b
		}
		n := copy(p, b[imageOff-at:])
		p, imageOff = p[n:], imageOff+int64(n)
	}
	return nil
}
