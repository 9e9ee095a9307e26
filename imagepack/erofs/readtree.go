package erofs

import (
	"bytes"
	"fmt"
	"io"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

const maxDepth = 2048 // directories of a tree; what PATH_MAX allows a path to name

// ReadTree reads the tree of the EROFS image of size bytes in r, compressed or not. r must outlive the tree and its
// contents, which are read when asked for. A tree of less than all files is never returned: what this package does not
// read, such as extra devices, is an *UnsupportedError.
//
// Memory is linear in the metadata of the image, and the indexes of compressed files are not kept. A content is safe for
// concurrent use; all of a tree share a cache of 16 MiB.
func ReadTree(r io.ReaderAt, size int64) (*tree.Inode, error) {
	w := newWalker(r, size)
	w.tree, w.memory = true, tree.NewBudget(0)
	return w.readTree()
}

func (w *walker) readTree() (*tree.Inode, error) {
	if err := w.readSuper(); err != nil {
		return nil, err
	}
	if w.devices {
		return nil, &UnsupportedError{"it has extra devices"}
	}
	if err := w.openPacked(); err != nil {
		return nil, err
	}
	if err := w.readPrefixes(); err != nil {
		return nil, err
	}
	return w.walk()
}

// openPacked reads the inode that holds the fragments of all files.
func (w *walker) openPacked() error {
	if w.packedNid == 0 {
		return nil
	}
	n, err := w.readInode(w.packedNid)
	if err != nil {
		return err
	}
	if n.mode&tree.ModeType != tree.ModeRegular {
		return corrupt(n.off, "the packed inode has mode %#o", n.mode)
	}
	// Its own fragments are refused: there is no packed inode yet.
	p, err := w.place(n)
	if p.z != nil {
		p.z.packedInode = true
	}
	var c *content
	if err == nil {
		c, _, err = w.newContent(n, p)
	}
	if err == nil && compressed(n.layout) {
		w.compressed--
		if p.z == nil { // left out of a map
			err = &UnsupportedError{"its format"}
		}
	}
	if err != nil {
		return fmt.Errorf("the packed inode: %w", err)
	}
	w.packed = c
	if w.tree {
		return nil
	}
	return w.add(imagemap.Segment{ImageOff: n.off, ImageLen: p.end - n.off, Kind: imagemap.Meta})
}

// node makes the tree's inode of n, whose content is at p. The entries of a directory come later.
func (w *walker) node(n *inode, p placement, path string) (*tree.Inode, error) {
	if n.nsec > maxNsec {
		return nil, corrupt(n.off, "the time of %.200q has %d nanoseconds", "/"+path, n.nsec)
	}
	t := &tree.Inode{Mode: n.mode, UID: n.uid, GID: n.gid, MtimeSec: n.sec, MtimeNsec: n.nsec, Xattrs: n.xattrs}
	w.seen[n.nid] = t
	var err error
	switch t.Type() {
	case tree.ModeBlock, tree.ModeChar:
		t.RdevMajor, t.RdevMinor = n.union>>8&0xfff, n.union&0xff|n.union>>12&^0xff
	case tree.ModeRegular:
		var c *content
		if c, t.Data, err = w.newContent(n, p); err == nil && n.size > 0 {
			t.Size = n.size
			if t.Data == nil || len(t.Data) > 0 {
				t.Content = c
			}
		}
	case tree.ModeSymlink:
		t.LinkTarget, err = w.linkTarget(n, p)
	}
	if err != nil {
		return nil, fmt.Errorf("%.200q: %w", "/"+path, err)
	}
	return t, w.memory.Inode(t, len(path))
}

// newContent returns the content of n, which is at p, and its parts that are not holes, nil if there are no holes.
func (w *walker) newContent(n *inode, p placement) (c *content, data []tree.Extent, err error) {
	c = &content{im: w.image, size: n.size, z: p.z}
	if n.size == 0 {
		return c, nil, nil
	}
	if p.z != nil {
		data, err = w.checkCompressed(p.z)
		return c, data, err
	}
	if c.runs, err = w.runs(p.segs); err == nil {
		data = c.extents()
	}
	return c, data, err
}

func (w *walker) linkTarget(n *inode, p placement) (string, error) {
	if n.size == 0 || n.size > maxLink {
		return "", corrupt(n.off, "a symlink's target of %d bytes", n.size)
	}
	c, _, err := w.newContent(n, p)
	if err != nil {
		return "", err
	}
	b := make([]byte, n.size)
	if _, err := c.open().ReadAt(b, 0); eofIsNone(err) != nil {
		return "", err
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return "", corrupt(n.off, "a symlink's target with a NUL")
	}
	return string(b), nil
}

// runs returns the segments as runs, and checks that they are in the image.
func (w *walker) runs(segs []imagemap.Segment) ([]run, error) {
	runs := make([]run, 0, len(segs))
	for _, s := range segs {
		if s.ImageOff < 0 || s.ImageOff > w.size || s.ImageLen > w.size-s.ImageOff {
			return nil, corrupt(s.ImageOff, "[%d +%d) lies outside the image of %d bytes", s.ImageOff, s.ImageLen, w.size)
		}
		runs = append(runs, run{fileOff: s.FileOff, imageOff: s.ImageOff, length: s.FileLen})
	}
	return runs, nil
}
