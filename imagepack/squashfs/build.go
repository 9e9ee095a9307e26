package squashfs

import (
	"fmt"
	"sort"
	"strings"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// A builder reads the tree once. The bytes that may still be parsed are counted, so that an image whose inodes
// or listings overlap cannot make more of them than the tables have room for.
type builder struct {
	r       *Reader
	meta    *blockCache
	inodes  map[uint64]*tree.Inode // by position
	mapping bool                   // collect segs
	segs    []imagemap.Segment

	inodeBytes, dirBytes, xattrBytes int64
	memory                           *tree.Budget // nil for a map

	xattrSets   map[uint32][]tree.Xattr
	xattrLists  map[xattrList][]tree.Xattr
	xattrValues map[uint64][]byte // out of line, by position
}

func newBuilder(r *Reader) *builder {
	return &builder{
		r: r, meta: newBlockCache(metaCacheBytes), inodes: map[uint64]*tree.Inode{},
		xattrSets: map[uint32][]tree.Xattr{}, xattrLists: map[xattrList][]tree.Xattr{}, xattrValues: map[uint64][]byte{},
	}
}

func (b *builder) build() (*tree.Inode, error) {
	s, e := &b.r.super, &b.r.ends
	var err error
	if b.inodeBytes, err = b.r.unpackedMax(int64(s.inodeTable), int64(s.dirTable)); err != nil {
		return nil, err
	}
	if b.dirBytes, err = b.r.unpackedMax(int64(s.dirTable), e.dirEnd); err != nil {
		return nil, err
	}
	if e.xattrCount > 0 {
		if b.xattrBytes, err = b.r.unpackedMax(e.xattrStart, e.xattrEnd); err != nil {
			return nil, err
		}
	}
	root, err := b.node(s.rootRef, "", 0)
	if err == nil && !root.IsDir() {
		err = corrupt("the root is not a directory")
	}
	return root, err
}

// node returns the inode at ref with all that is below it. path is the first name it is reached by.
func (b *builder) node(ref uint64, path string, depth int) (*tree.Inode, error) {
	if n := b.inodes[ref]; n != nil {
		if n.IsDir() {
			return nil, corrupt("directory %q has a second name", path)
		}
		return n, nil
	}
	raw, err := b.readInode(ref)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", "/"+path, err)
	}
	if raw.content != nil {
		raw.content.path = path
	}
	n := raw.n
	if err := b.memory.Inode(n, len(path)); err != nil {
		return nil, err
	}
	b.inodes[ref] = n
	if b.mapping {
		b.mapInode(raw, path)
	}
	if n.IsDir() && raw.dirSize > 0 {
		if depth >= maxDepth {
			return nil, corrupt("more than %d directories deep", maxDepth)
		}
		err = b.readDir(raw, path, depth)
	}
	return n, err
}

// readDir reads the listing of a directory and the inodes it names. Entries come in groups of up to 256 whose
// inodes lie in one metadata block.
func (b *builder) readDir(raw *rawInode, path string, depth int) error {
	if b.dirBytes -= raw.dirSize; b.dirBytes < 0 {
		return corrupt("directory %q: listings overlap", path)
	}
	tableOff := int64(b.r.super.dirTable)
	c, err := b.r.newCursor(tableOff+raw.dirBlock, raw.dirOffset, b.r.ends.dirEnd, b.meta)
	if err != nil {
		return err
	}
	type item struct {
		name string
		ref  uint64
	}
	var items []item
	f := &fields{c: c}
	for f.n < raw.dirSize {
		count := int64(f.u32()) + 1
		block := uint64(f.u32())
		f.u32() // inode number the entries count from
		if f.err == nil && count > 256 {
			return corrupt("directory %q: a group of %d entries", path, count)
		}
		for ; count > 0 && f.err == nil; count-- {
			offset := uint64(f.u16())
			f.u16() // inode number
			f.u16() // basic type
			name := string(f.bytes(int(f.u16()) + 1))
			if f.err != nil {
				break
			}
			if len(name) > 255 || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return corrupt("directory %q: the name %.80q", path, name)
			}
			if err := b.memory.Entry(name); err != nil {
				return err
			}
			items = append(items, item{name, block<<16 | offset})
		}
		if f.err != nil {
			return f.err
		}
	}
	if f.n != raw.dirSize {
		return corrupt("directory %q: a listing of %d bytes ends at %d", path, raw.dirSize, f.n)
	}
	if b.mapping {
		b.mapDir(c.ranges, path)
	}
	// mksquashfs writes names in this order; a reader of another's image must not rely on it.
	sort.SliceStable(items, func(i, j int) bool { return items[i].name < items[j].name })
	if path != "" {
		path += "/"
	}
	raw.n.Entries = make([]tree.Entry, 0, len(items))
	for i, it := range items {
		if i > 0 && items[i-1].name == it.name {
			return corrupt("%q is there twice", path+it.name)
		}
		n, err := b.node(it.ref, path+it.name, depth+1)
		if err != nil {
			return err
		}
		raw.n.Entries = append(raw.n.Entries, tree.Entry{Name: it.name, Inode: n})
	}
	return nil
}

// mapInode adds the segments of an inode and, of a regular file, its content.
func (b *builder) mapInode(raw *rawInode, path string) {
	for _, m := range raw.ranges {
		if m.used > 0 {
			b.segs = append(b.segs, imagemap.Segment{ImageOff: m.imageOff, ImageLen: m.imageLen, Path: path, Kind: imagemap.Inode})
		}
	}
	if raw.content == nil {
		return
	}
	ct, bs := raw.content, b.r.super.blockSize
	off := ct.start
	for i, w := range ct.blocks {
		stored := int64(w &^ plainDataBit)
		if stored > 0 {
			fileOff := int64(i) * bs
			b.segs = append(b.segs, imagemap.Segment{ImageOff: off, ImageLen: stored, Path: path,
				FileOff: fileOff, FileLen: min(bs, ct.size-fileOff), Kind: imagemap.Data})
		}
		off += stored
	}
	if tail := ct.tail(); tail > 0 {
		fr := b.r.frags[ct.fragment]
		b.segs = append(b.segs, imagemap.Segment{ImageOff: fr.imageOff, ImageLen: int64(fr.size &^ plainDataBit), Path: path,
			FileOff: ct.size - tail, FileLen: tail, Kind: imagemap.Data})
	}
}

// mapDir adds the segments of a directory's listing.
func (b *builder) mapDir(ranges []metaRange, path string) {
	off := int64(0)
	for _, m := range ranges {
		if m.used > 0 {
			b.segs = append(b.segs, imagemap.Segment{ImageOff: m.imageOff, ImageLen: m.imageLen, Path: path,
				FileOff: off, FileLen: m.used, Kind: imagemap.Dir})
		}
		off += m.used
	}
}
