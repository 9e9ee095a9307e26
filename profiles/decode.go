package profiles

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// A reader takes values off the front of b. The first error sticks, and every later value is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = corrupt(format, args...)
	}
	r.b = nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("a number is cut short or too long")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// size is a uvarint that must fit an int64.
func (r *reader) size() int64 {
	v := r.uvarint()
	if v > math.MaxInt64 {
		r.fail("number %d is too large", v)
		return 0
	}
	return int64(v)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail("a number is cut short or too long")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("%d bytes are asked for, %d are left", n, len(r.b))
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) string(limit int) string {
	n := r.uvarint()
	if n > uint64(limit) {
		r.fail("a text of %d bytes is over the limit of %d", n, limit)
		return ""
	}
	return string(r.bytes(n))
}

// count reads the number of entries that follow, of at least minLen bytes each: what is left bounds it.
func (r *reader) count(limit, minLen int) int {
	n := r.uvarint()
	if n > uint64(limit) || n > uint64(len(r.b)/minLen) {
		r.fail("%d entries do not fit in %d bytes, or are over the limit of %d", n, len(r.b), limit)
		return 0
	}
	return int(n)
}

// times reads a column of n times, each told as what passed since the one before.
func (r *reader) times(n int, set func(i int, at time.Duration)) {
	var at int64
	for i := range n {
		d := r.size()
		if d > math.MaxInt64-at {
			r.fail("entry %d has a time that overflows", i)
		}
		if r.err != nil {
			return
		}
		at += d
		set(i, time.Duration(at))
	}
}

// end fails if bytes are left.
func (r *reader) end(section string) error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes too many in its %s", len(r.b), section)
	}
	return r.err
}

func decodePayload(payload []byte, version VersionError) (*Run, error) {
	var run Run
	var paths []string
	r := &reader{b: payload}
	last := uint64(0)
	for len(r.b) > 0 {
		id := r.uvarint()
		body := r.bytes(r.uvarint())
		if r.err != nil {
			return nil, r.err
		}
		if id <= last || last == 0 && id != secHeader {
			return nil, corrupt("section %d comes after section %d", id, last)
		}
		last = id
		var err error
		s := &reader{b: body}
		switch id {
		case secHeader:
			run.Header, err = decodeHeader(s)
		case secTouches:
			run.Touches, err = decodeTouches(s, run.Header.ImageSize)
		case secMarks:
			run.Marks, err = decodeMarks(s)
		case secPaths:
			paths, err = decodePaths(s)
		case secFileTouches:
			run.FileTouches, err = decodeFileTouches(s, paths)
		default:
			if id < firstOptional {
				version.Feature = fmt.Sprintf("section %d", id)
				return nil, &version
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if last == 0 {
		return nil, corrupt("it has no header")
	}
	if err := run.Validate(); err != nil {
		return nil, corrupt("%v", err)
	}
	return &run, nil
}

// decodeHeader leaves bytes after the fields it knows alone: a later minor version may add some.
func decodeHeader(r *reader) (Header, error) {
	var h Header
	h.ImageSize = r.size()
	copy(h.ImageSHA256[:], r.bytes(uint64(len(h.ImageSHA256))))
	flags := r.uvarint()
	h.Coarse = flags&flagCoarse != 0
	h.TimeScaled = flags&flagTimeScaled != 0
	h.Readahead = r.size()
	h.RecordedAt = r.varint()
	h.Duration = r.size()
	for _, s := range []*string{&h.Filesystem, &h.Method, &h.Kernel, &h.Machine, &h.End} {
		*s = r.string(maxString)
	}
	for range r.count(len(r.b), 1) {
		h.Command = append(h.Command, r.string(maxString))
		if r.err != nil {
			break
		}
	}
	return h, r.err
}

func decodeTouches(r *reader, imageSize int64) ([]Touch, error) {
	ts := make([]Touch, r.count(MaxTouches, 3))
	r.times(len(ts), func(i int, at time.Duration) { ts[i].At = at })
	pages := pagesIn(imageSize)
	starts := make([]int64, len(ts)) // page numbers relative to the end of the touch before
	for i := range starts {
		starts[i] = r.varint()
	}
	var endPage int64
	for i := range ts {
		n := r.size()
		// Every term is bounded by pages, so the sums below cannot overflow.
		if starts[i] < -pages || starts[i] > pages || n < 1 || n > pages {
			r.fail("touch %d is outside of the image", i)
		}
		page := endPage + starts[i]
		if page < 0 || page > pages-n {
			r.fail("touch %d is outside of the image", i)
		}
		if r.err != nil {
			return nil, r.err
		}
		endPage = page + n
		ts[i].ImageOff = page * PageSize
		ts[i].Len = min(n*PageSize, imageSize-ts[i].ImageOff)
	}
	return ts, r.end("touches")
}

func decodeMarks(r *reader) ([]Mark, error) {
	ms := make([]Mark, r.count(MaxTouches, 2))
	var at int64
	for i := range ms {
		d := r.size()
		if d > math.MaxInt64-at {
			r.fail("mark %d has a time that overflows", i)
		}
		at += d
		ms[i] = Mark{At: time.Duration(at), Name: r.string(maxString)}
		if r.err != nil {
			return nil, r.err
		}
	}
	return ms, r.end("marks")
}

func decodePaths(r *reader) ([]string, error) {
	paths := make([]string, 0, r.count(MaxTouches, 2))
	last, total := "", 0
	for i := range cap(paths) {
		shared := r.uvarint()
		if shared > uint64(len(last)) {
			r.fail("path %d shares %d bytes with one of %d", i, shared, len(last))
			shared = 0
		}
		p := last[:shared] + r.string(MaxPathLen)
		total += len(p)
		if len(p) > MaxPathLen || total > maxAllPaths {
			r.fail("path %d is over the limits of %d bytes and of %d bytes for all", i, MaxPathLen, maxAllPaths)
		}
		if i > 0 && p <= last {
			r.fail("path %d is out of order", i)
		}
		if r.err != nil {
			return nil, r.err
		}
		paths = append(paths, p)
		last = p
	}
	return paths, r.end("paths")
}

func decodeFileTouches(r *reader, paths []string) ([]FileTouch, error) {
	ts := make([]FileTouch, r.count(MaxTouches, 5))
	r.times(len(ts), func(i int, at time.Duration) { ts[i].At = at })
	var path int64
	for i := range ts {
		d := r.varint()
		if d < -path || d >= int64(len(paths))-path {
			r.fail("file touch %d has no path", i)
			return nil, r.err
		}
		path += d
		ts[i].Path = paths[path]
	}
	unknown := make([]bool, len(ts))
	for i := range ts {
		k := r.uvarint()
		unknown[i] = k > uint64(KindMeta)
		ts[i].Kind = Kind(k)
	}
	for i := range ts {
		ts[i].FileOff = r.varint() // relative until the next loop
	}
	known := ts[:0]
	var end int64
	var last string
	for i := range ts {
		t := ts[i]
		t.Len = r.size()
		if i > 0 && t.Path == last {
			if t.FileOff > math.MaxInt64-end {
				r.fail("file touch %d has an offset that overflows", i)
			}
			t.FileOff += end
		}
		if t.FileOff < 0 || t.FileOff > math.MaxInt64-t.Len {
			r.fail("file touch %d has no valid range", i)
		}
		if r.err != nil {
			return nil, r.err
		}
		last, end = t.Path, t.FileOff+t.Len
		if !unknown[i] {
			known = append(known, t)
		}
	}
	return known, r.end("file touches")
}
