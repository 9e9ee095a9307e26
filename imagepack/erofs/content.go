package erofs

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"bootprof/imagepack/tree"
)

// An image is what contents need of one.
type image struct {
	r          io.ReaderAt
	size       int64
	blkBits    uint
	zeroPadded bool     // LZ4 data lies at the end of its pcluster
	packed     *content // holds the fragments of other files; nil if there are none
	cache      *blockCache
}

// content is where a regular file's bytes are: in runs, or compressed.
type content struct {
	im   *image
	size int64
	runs []run // in file order; what is between them are holes
	z    *zfile
}

// extents returns the parts that are not holes, nil if there are no holes.
func (c *content) extents() []tree.Extent {
	out, pos := []tree.Extent{}, int64(0)
	for _, r := range c.runs {
		if k := len(out) - 1; k >= 0 && r.fileOff == pos {
			out[k].Len += r.length
		} else {
			out = append(out, tree.Extent{Off: r.fileOff, Len: r.length})
		}
		pos = r.fileOff + r.length
	}
	if len(out) == 1 && out[0].Len == c.size {
		return nil
	}
	return out
}

// Open implements tree.Content.
func (c *content) Open() (tree.ReadAtCloser, error) { return c.open(), nil }

func (c *content) open() *openContent {
	o := &openContent{c: c}
	if c.z != nil {
		o.x = &zindex{zfile: c.z, im: c.im, r: &window{r: c.im.r, size: c.im.size}}
	}
	return o
}

// openContent is an open file. It holds on to the extent it used last, so that reading on in small pieces unpacks
// each pcluster once however full the shared cache is.
type openContent struct {
	c      *content
	x      *zindex
	e      zextent      // used last
	data   []byte       // what it unpacks to, or nil
	packed *openContent // once a fragment was read
}

func (o *openContent) Close() error {
	o.data, o.packed, o.x = nil, nil, nil
	return nil
}

// ReadAt implements io.ReaderAt.
func (o *openContent) ReadAt(p []byte, off int64) (int, error) {
	c := o.c
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > c.size-off {
		p, eof = p[:c.size-off], io.EOF
	}
	for done := 0; done < len(p); {
		n, err := 0, error(nil)
		pos := off + int64(done)
		if c.z != nil {
			n, err = o.readCompressed(p[done:], pos)
		} else {
			n, err = o.readPlain(p[done:], pos)
		}
		if err != nil {
			return done, fmt.Errorf("content at %d: %w", pos, err)
		}
		done += n
	}
	return len(p), eof
}

// readPlain reads from the run at pos, or zeros up to the next.
func (o *openContent) readPlain(p []byte, pos int64) (int, error) {
	runs := o.c.runs
	i := sort.Search(len(runs), func(i int) bool { return runs[i].fileOff+runs[i].length > pos })
	if i == len(runs) {
		clear(p)
		return len(p), nil
	}
	r := runs[i]
	if gap := r.fileOff - pos; gap > 0 {
		p = p[:min(gap, int64(len(p)))]
		clear(p)
		return len(p), nil
	}
	p = p[:min(int64(len(p)), r.fileOff+r.length-pos)]
	return len(p), readFull(o.c.im.r, p, r.imageOff+pos-r.fileOff)
}

// readCompressed reads from the extent at pos.
func (o *openContent) readCompressed(p []byte, pos int64) (int, error) {
	if o.x == nil {
		return 0, errors.New("it is closed")
	}
	if pos < o.e.off || pos >= o.e.end() {
		e, err := o.x.extent(pos)
		if err != nil {
			return 0, err
		}
		o.e, o.data = e, nil
	}
	e, im := &o.e, o.c.im
	in := pos - e.off
	p = p[:min(int64(len(p)), e.length-in)]
	switch {
	case e.alg == algHole:
		clear(p)
	case e.alg == algFragment:
		if o.packed == nil {
			o.packed = im.packed.open()
		}
		n, err := o.packed.ReadAt(p, e.imageOff+in)
		return n, eofIsNone(err)
	case e.alg >= algShifted:
		return o.readStored(p, pos)
	case o.data == nil && in == 0 && int64(len(p)) == e.length:
		// The whole extent is asked for: it goes where it is wanted, past the cache.
		return len(p), im.unpack(p, e)
	default:
		if o.data == nil {
			key := blockKey{e.imageOff, e.imageLen, e.length, e.alg, e.partial}
			data, err := im.cache.Get(key, func() ([]byte, error) {
				dst := make([]byte, e.length)
				return dst, im.unpack(dst, e)
			})
			if err != nil {
				return 0, err
			}
			o.data = data
		}
		copy(p, o.data[in:])
	}
	return len(p), nil
}

// readStored reads from an extent that is stored plainly, from the part of it at pos.
func (o *openContent) readStored(p []byte, pos int64) (int, error) {
	parts, err := o.c.im.plainParts(&o.e)
	if err != nil {
		return 0, err
	}
	for _, r := range parts {
		if in := pos - r.fileOff; in >= 0 && in < r.length {
			p = p[:min(int64(len(p)), r.length-in)]
			return len(p), readFull(o.c.im.r, p, r.imageOff+in)
		}
	}
	panic("BUG: an extent whose parts do not cover it")
}

// eofIsNone drops the io.EOF that may come along with all that was asked for.
func eofIsNone(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
