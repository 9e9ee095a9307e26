package erofs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync/atomic"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// maxOpen is how many opened contents an Image keeps for the next read.
const maxOpen = 16

// A span is a range of the image, in bytes.
type span struct{ imageOff, length int64 }

// A part is a range of the image whose bytes are known: metadata in memory, or a piece of a file.
type part struct {
	span
	bytes   []byte // of length length; nil for a piece of a file
	file    *file
	fileOff int64
}

// An Image is a planned image. It is safe for concurrent use. The owner closes it.
type Image struct {
	size   int64
	files  []*file
	shared []span // shared xattrs
	parts  []part // in image order; what they leave out is zero
	open   *openFiles
	closed atomic.Bool
}

// Size returns the length of the image in bytes, a multiple of 4096.
func (im *Image) Size() int64 { return im.size }

// Close closes the contents that are kept open. Reads fail from then on.
func (im *Image) Close() error {
	im.closed.Store(true)
	return im.open.close()
}

func (im *Image) addBytes(imageOff int64, b []byte) {
	if len(b) > 0 {
		im.parts = append(im.parts, part{span: span{imageOff, int64(len(b))}, bytes: b})
	}
}

// addContent adds the pieces of a regular file. A file without Content is zero.
func (im *Image) addContent(f *file) {
	if f.node.Content == nil {
		return
	}
	for _, r := range f.runs {
		im.parts = append(im.parts, part{span: span{r.imageOff, r.length}, file: f, fileOff: r.fileOff})
	}
	if f.tail > 0 {
		s := span{f.off + f.headLen(), f.tail}
		im.parts = append(im.parts, part{span: s, file: f, fileOff: f.size - f.tail})
	}
}

// ReadAt implements io.ReaderAt. A file that cannot be read, or is shorter than the tree says, is an
// error that names it.
func (im *Image) ReadAt(p []byte, imageOff int64) (int, error) {
	if im.closed.Load() {
		return 0, fmt.Errorf("reading an EROFS image at %d: %w", imageOff, os.ErrClosed)
	}
	if imageOff < 0 {
		return 0, fmt.Errorf("reading an EROFS image at %d: negative offset", imageOff)
	}
	if imageOff >= im.size {
		return 0, io.EOF
	}
	var eof error
	if n := im.size - imageOff; int64(len(p)) > n {
		p, eof = p[:n], io.EOF
	}
	i := sort.Search(len(im.parts), func(i int) bool {
		return im.parts[i].imageOff+im.parts[i].length > imageOff
	})
	n := 0
	for ; n < len(p); i++ {
		if i == len(im.parts) {
			clear(p[n:])
			n = len(p)
			break
		}
		pt := &im.parts[i]
		skip := imageOff + int64(n) - pt.imageOff // bytes of the part before what is wanted
		if skip < 0 {
			gap := min(-skip, int64(len(p)-n))
			clear(p[n : n+int(gap)])
			n += int(gap)
			if n == len(p) {
				break
			}
			skip = 0
		}
		want := p[n : n+int(min(pt.length-skip, int64(len(p)-n)))]
		if pt.bytes != nil {
			copy(want, pt.bytes[skip:])
		} else if err := im.readContent(want, pt.file, pt.fileOff+skip); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, eof
}

// readContent fills p from a file.
func (im *Image) readContent(p []byte, f *file, fileOff int64) error {
	c, err := im.open.get(f.node)
	if err != nil {
		return fmt.Errorf("opening %q for the image: %w", "/"+f.path, err)
	}
	n, err := c.ReadAt(p, fileOff)
	if n < len(p) {
		c.Close()
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading %q [%d +%d): %w", "/"+f.path, fileOff, len(p), err)
	}
	im.open.put(f.node, c)
	return nil
}

// Map returns the map of the image. It is made anew by each call.
func (im *Image) Map() *imagemap.Map {
	var segs []imagemap.Segment
	meta := func(s span) {
		segs = append(segs, imagemap.Segment{ImageOff: s.imageOff, ImageLen: s.length, Kind: imagemap.Meta})
	}
	meta(span{0, superOff + superSize})
	for _, s := range im.shared {
		meta(s)
	}
	for _, f := range im.files {
		kind := imagemap.Data
		inode := f.headLen()
		switch f.node.Type() {
		case tree.ModeDir:
			kind = imagemap.Dir
		case tree.ModeSymlink:
			kind = imagemap.Inode
			inode += f.tail
		}
		add := func(k imagemap.Kind, imageOff, length, fileOff, fileLen int64) {
			if length > 0 {
				segs = append(segs, imagemap.Segment{ImageOff: imageOff, ImageLen: length, Path: f.path,
					FileOff: fileOff, FileLen: fileLen, Kind: k})
			}
		}
		add(imagemap.Inode, f.off, inode, 0, 0)
		for _, r := range f.runs {
			if kind == imagemap.Inode {
				add(kind, r.imageOff, r.length, 0, 0)
			} else {
				add(kind, r.imageOff, r.length, r.fileOff, r.length)
			}
		}
		if kind != imagemap.Inode {
			add(kind, f.off+f.headLen(), f.tail, f.size-f.tail, f.tail)
		}
	}
	return imagemap.New(segs)
}

// Segments returns which file each used range of the image belongs to, in image order: file contents,
// directory entries, inodes and the metadata of no file.
func (im *Image) Segments() []imagemap.Segment { return im.Map().Segments() }
