package container

import (
	"errors"
	"io"
	"sort"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// Open returns the bytes of p out of the outer image r, and how many they are.
func (p Part) Open(r io.ReaderAt) (io.ReaderAt, int64) {
	if p.Extents == nil {
		return io.NewSectionReader(r, p.Off, p.Len), p.Len
	}
	return newExtentReader(r, p.Extents), p.Len
}

// Shift turns segments of p's own map into segments of the outer image. A segment over the border of two extents
// becomes several; if it is compressed, each of them stands for the whole file range, as only all together can
// be unpacked. segs is not changed. What lies behind the end of p is left out.
func (p Part) Shift(segs []imagemap.Segment) []imagemap.Segment {
	extents := p.Extents
	if extents == nil {
		extents = []tree.Extent{{Off: p.Off, Len: p.Len}}
	}
	starts := startsOf(extents)
	out := make([]imagemap.Segment, 0, len(segs))
	for _, s := range segs {
		first := max(sort.Search(len(starts), func(i int) bool { return starts[i] > s.ImageOff })-1, 0)
		end := s.ImageOff + s.ImageLen
		for i := first; i < len(extents) && starts[i] < end; i++ {
			from, to := max(s.ImageOff, starts[i]), min(end, starts[i]+extents[i].Len)
			if from >= to {
				continue
			}
			piece := s
			piece.ImageOff, piece.ImageLen = extents[i].Off+from-starts[i], to-from
			if s.FileLen == s.ImageLen {
				piece.FileOff, piece.FileLen = s.FileOff+from-s.ImageOff, to-from
			}
			out = append(out, piece)
		}
	}
	return out
}

// An extentReader reads several ranges of an image as one.
type extentReader struct {
	r       io.ReaderAt
	extents []tree.Extent
	starts  []int64 // of each extent in the whole
	size    int64
}

func newExtentReader(r io.ReaderAt, extents []tree.Extent) *extentReader {
	e := &extentReader{r: r, extents: extents, starts: startsOf(extents)}
	if n := len(extents); n > 0 {
		e.size = e.starts[n-1] + extents[n-1].Len
	}
	return e
}

// startsOf returns where each extent starts when they are joined.
func startsOf(extents []tree.Extent) []int64 {
	starts := make([]int64, len(extents))
	var at int64
	for i, e := range extents {
		starts[i] = at
		at += e.Len
	}
	return starts
}

func (e *extentReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	done := 0
	i := sort.Search(len(e.starts), func(i int) bool { return e.starts[i] > off }) - 1
	for ; done < len(p) && off < e.size; i++ {
		in := off - e.starts[i]
		n := int(min(int64(len(p)-done), e.extents[i].Len-in))
		got, err := e.r.ReadAt(p[done:done+n], e.extents[i].Off+in)
		done += got
		off += int64(got)
		if got < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// nested are the places of an image inside the root of a live image's squashfs.
var nested = []string{"LiveOS/rootfs.img", "LiveOS/ext3fs.img"}

// NestedImage returns the image file in the tree of a part that holds nothing but an image, as the LiveOS/squashfs.img
// of older Fedora images does, and its path; or nil if the tree is a root file system itself.
func NestedImage(root *tree.Inode) (path string, file *tree.Inode) {
	if root.Lookup("usr") != nil || root.Lookup("etc") != nil || root.Lookup("bin") != nil {
		return "", nil
	}
	for _, path := range nested {
		dir, name := path[:len("LiveOS")], path[len("LiveOS/"):]
		d := root.Lookup(dir)
		if d == nil || !d.IsDir() {
			continue
		}
		if f := d.Lookup(name); f != nil && f.Type() == tree.ModeRegular && f.Size > 0 {
			return path, f
		}
	}
	return "", nil
}
