package ext4_test

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"bootprof/imagepack/ext4"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// checkCovered is checkMap of an image that is not mounted.
func checkCovered(t *testing.T, image string, r *ext4.Reader, root *tree.Inode) {
	t.Helper()
	checkMap(t, image, "", r, root)
}

// checkMap checks the map against the contents and dumpe2fs, and against the kernel's FIEMAP if the image is
// mounted at dir.
func checkMap(t *testing.T, image, dir string, r *ext4.Reader, root *tree.Inode) {
	t.Helper()
	f, err := os.Open(image)
	testrig.Must(t, err)
	defer f.Close()
	m := openMap(t, r)
	bs := int64(r.Info().BlockSize)
	covered := make([]bool, r.Info().BytesUsed/bs)
	cover := func(off, length int64) {
		for at := off / bs; at < (off+length+bs-1)/bs; at++ {
			covered[at] = true
		}
	}
	for _, s := range m.Segments() {
		if s.ImageLen <= 0 || s.ImageOff < 0 || s.ImageOff+s.ImageLen > r.Info().BytesUsed {
			t.Fatalf("a segment is outside the image: %+v", s)
		}
		cover(s.ImageOff, s.ImageLen)
		if s.Kind == imagemap.Meta && s.Path != "" || s.Kind == imagemap.Data && s.FileLen != s.ImageLen {
			t.Errorf("odd segment %+v", s)
		}
	}
	checked := map[*tree.Inode]bool{}
	err = tree.Walk(root, func(p string, n *tree.Inode) error {
		if checked[n] {
			return nil
		}
		checked[n] = true
		inodes := m.Find(p, imagemap.Inode, 0, 0) // of a symlink also its target
		if !slices.ContainsFunc(inodes, func(s imagemap.Segment) bool { return s.ImageLen >= 128 && s.ImageOff%128 == 0 }) {
			t.Errorf("%q: the inode is in %v", p, inodes)
		}
		switch n.Type() {
		case tree.ModeDir:
			if len(n.Entries) > 0 && len(m.Find(p, imagemap.Dir, 0, 1)) != 1 {
				t.Errorf("%q: no segment holds the start of the directory", p)
			}
		case tree.ModeRegular:
			checkFile(t, f, dir, m, p, n, cover)
		}
		return nil
	})
	testrig.Must(t, err)

	free, err := r.Free()
	testrig.Must(t, err)
	if want := freeOf(t, image, bs); !slices.Equal(free, want) {
		t.Errorf("free: %v\ndumpe2fs says %v", free, want)
	}
	for _, f := range free {
		if s := m.At(f.ImageOff, f.Len); len(s) > 0 {
			t.Errorf("free blocks [%d +%d) are in %+v", f.ImageOff, f.Len, s[0])
		}
		cover(f.ImageOff, f.Len)
	}
	var bare []int
	for i, c := range covered {
		if !c {
			bare = append(bare, i)
		}
	}
	// Clusters are taken whole, a file may use a part.
	if len(bare) > 0 && !strings.Contains(t.Name(), "bigalloc") {
		t.Errorf("%d used blocks are in no segment: %v", len(bare), bare[:min(20, len(bare))])
	}
}

// checkFile checks a regular file's segments. cover is told of blocks that are the file's, but hold nothing.
func checkFile(t *testing.T, image io.ReaderAt, dir string, m *imagemap.Map, p string, n *tree.Inode, cover func(off, n int64)) {
	t.Helper()
	segs := slices.DeleteFunc(m.Find(p, imagemap.Data, 0, n.Size), func(s imagemap.Segment) bool { return s.Kind != imagemap.Data })
	slices.SortFunc(segs, func(a, b imagemap.Segment) int { return int(a.FileOff - b.FileOff) })
	var data int64
	if n.Content != nil {
		c, err := n.Content.Open()
		testrig.Must(t, err)
		defer c.Close()
		for _, s := range segs {
			buf := make([]byte, s.FileLen)
			if k, err := c.ReadAt(buf, s.FileOff); k != len(buf) {
				t.Fatalf("%q: reading [%d +%d): %v", p, s.FileOff, s.FileLen, err)
			}
			stored := make([]byte, s.ImageLen)
			if _, err := image.ReadAt(stored, s.ImageOff); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf, stored) {
				t.Errorf("%q: [%d +%d) of the file is not at %d of the image", p, s.FileOff, s.FileLen, s.ImageOff)
			}
			data += s.FileLen
		}
	}
	want := n.Size
	if n.Data != nil {
		want = 0
		for _, e := range n.Data {
			want += e.Len
		}
	}
	if data != want {
		t.Errorf("%q: segments hold %d bytes of %d", p, data, want)
	}
	if dir == "" {
		return
	}
	// The kernel's extents and ours, joined where both file and image go on.
	var kernel, ours []fiemapExtent
	for _, e := range fiemap(t, dir+"/"+p) {
		switch {
		case e.flags&fiemapInline != 0:
			e.length, e.flags = min(60, n.Size), fiemapInline // the rest is elsewhere in the inode
			kernel = join(kernel, e)
			continue
		case e.flags&(fiemapUnknown|fiemapDelalloc) != 0:
			t.Fatalf("%q: FIEMAP does not know %v", p, e)
		case e.flags&fiemapUnwritten != 0:
			cover(e.imageOff, e.length)
			continue
		}
		e.flags = 0
		if e.length = min(e.length, n.Size-e.fileOff); e.length > 0 {
			kernel = join(kernel, e)
		}
	}
	for _, s := range segs {
		ours = join(ours, fiemapExtent{fileOff: s.FileOff, imageOff: s.ImageOff, length: s.ImageLen})
	}
	if len(kernel) == 1 && kernel[0].flags&fiemapInline != 0 && len(ours) > 0 {
		ours[0].flags, ours = kernel[0].flags, ours[:1]
	}
	if !slices.Equal(kernel, ours) {
		t.Errorf("%q: FIEMAP says %v, the map %v", p, kernel, ours)
	}
}

func join(l []fiemapExtent, e fiemapExtent) []fiemapExtent {
	if k := len(l) - 1; k >= 0 && l[k].fileOff+l[k].length == e.fileOff && l[k].imageOff+l[k].length == e.imageOff {
		l[k].length += e.length
		return l
	}
	return append(l, e)
}
