package erofs

import (
	"errors"
	"fmt"
	"io"
)

// A metaReader fills p from imageOff on. Less than that is a *CorruptError. Its user is one goroutine.
type metaReader interface {
	read(p []byte, imageOff int64) error
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
	windowSize  = 4 << 10
)

func (c *cachedReader) read(p []byte, imageOff int64) error {
	if err := inside(imageOff, len(p), c.size); err != nil {
		return err
	}
	for len(p) > 0 {
		at := imageOff / cacheBlock * cacheBlock
		b, ok := c.blocks[at]
		if !ok {
			b = make([]byte, min(cacheBlock, c.size-at))
			if err := readFull(c.r, b, at); err != nil {
				return err
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

// A window reads small pieces that mostly follow each other: the indexes of one compressed file.
type window struct {
	r    io.ReaderAt
	size int64
	off  int64 // of buf in the image
	buf  []byte
}

func (w *window) read(p []byte, imageOff int64) error {
	if err := inside(imageOff, len(p), w.size); err != nil {
		return err
	}
	if imageOff < w.off || imageOff+int64(len(p)) > w.off+int64(len(w.buf)) {
		if w.buf == nil {
			w.buf = make([]byte, windowSize)
		}
		w.off = imageOff / windowSize * windowSize
		if imageOff+int64(len(p)) > w.off+windowSize {
			w.off = imageOff
		}
		w.buf = w.buf[:min(windowSize, w.size-w.off)]
		if err := readFull(w.r, w.buf, w.off); err != nil {
			w.buf = w.buf[:0]
			return err
		}
	}
	copy(p, w.buf[imageOff-w.off:])
	return nil
}

// inside checks that [imageOff +n) lies in an image of size bytes.
func inside(imageOff int64, n int, size int64) error {
	if imageOff < 0 || imageOff > size || int64(n) > size-imageOff {
		return corrupt(imageOff, "[%d +%d) lies outside the image of %d bytes", imageOff, n, size)
	}
	return nil
}

// readFull reads len(p) bytes at imageOff, which the image is known to have.
func readFull(r io.ReaderAt, p []byte, imageOff int64) error {
	if n, err := r.ReadAt(p, imageOff); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading the EROFS image at [%d +%d): %w", imageOff, len(p), err)
	}
	return nil
}
