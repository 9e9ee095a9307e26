// Package imagemap says which file a range of an image belongs to, and where in the image a file lies.
//
// A Map is made once by a reader of a file system (imagepack/erofs, imagepack/squashfs) and answers in
// both directions: recorder turns touched image ranges into (path, file offset); pack turns (path, file
// offset) of a profile recorded on another image into ranges of its own image.
//
// Where the image is compressed, one range of the image holds a longer range of the file: ImageLen and
// FileLen differ, and an answer covers the whole compressed block. Several files may share one range (a
// fragment block, a hard-linked file has its first path only, an inode table block).
//
// A Map is read-only once made and safe for concurrent use.
package imagemap

import "sort"

// Kind says what of a file a segment holds.
type Kind uint8

const (
	Data  Kind = iota // a regular file's content
	Inode             // the inode, with its inline xattrs, symlink target or inline tail where the format puts them there
	Dir               // a directory's entries
	Meta              // superblock, shared xattrs, tables: no path
)

// A Segment ties a range of the image to a range of a file.
type Segment struct {
	ImageOff int64 // bytes
	ImageLen int64 // bytes, > 0
	Path     string
	FileOff  int64 // Data and Dir: offset in the file's content
	FileLen  int64 // Data and Dir: bytes of content; equals ImageLen if stored plainly
	Kind     Kind
}

// A Map is the sorted list of an image's segments.
type Map struct {
	segs   []Segment        // by ImageOff, then Path
	maxEnd []int64          // maxEnd[i] is the largest end of segs[0..i], for overlapping segments
	byPath map[string][]int // indices into segs, by (Kind, FileOff)
}

// New makes a Map of the segments, which it takes over and sorts.
func New(segs []Segment) *Map {
	sort.Slice(segs, func(i, j int) bool {
		a, b := &segs[i], &segs[j]
		switch {
		case a.ImageOff != b.ImageOff:
			return a.ImageOff < b.ImageOff
		case a.Path != b.Path:
			return a.Path < b.Path
		case a.Kind != b.Kind:
			return a.Kind < b.Kind
		}
		return a.FileOff < b.FileOff
	})
	m := &Map{segs: segs, maxEnd: make([]int64, len(segs)), byPath: make(map[string][]int)}
	var end int64
	for i, s := range segs {
		end = max(end, s.ImageOff+s.ImageLen)
		m.maxEnd[i] = end
		m.byPath[s.Path] = append(m.byPath[s.Path], i)
	}
	return m
}

// Segments returns all segments in image order. The caller must not change them.
func (m *Map) Segments() []Segment { return m.segs }

// At returns the segments that overlap the image range [imageOff, imageOff+length), in image order.
func (m *Map) At(imageOff, length int64) []Segment {
	end := imageOff + length
	lo := sort.Search(len(m.segs), func(i int) bool { return m.maxEnd[i] > imageOff })
	var out []Segment
	for _, s := range m.segs[lo:] {
		if s.ImageOff >= end {
			break
		}
		if s.ImageOff+s.ImageLen > imageOff {
			out = append(out, s)
		}
	}
	return out
}

// Find returns the segments of kind k of path that overlap the file range [fileOff, fileOff+length). For
// Inode and Meta the file range is not looked at.
func (m *Map) Find(path string, k Kind, fileOff, length int64) []Segment {
	var out []Segment
	for _, i := range m.byPath[path] {
		s := m.segs[i]
		if s.Kind != k {
			continue
		}
		if k == Inode || k == Meta || s.FileOff < fileOff+length && s.FileOff+s.FileLen > fileOff {
			out = append(out, s)
		}
	}
	return out
}
