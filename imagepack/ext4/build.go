package ext4

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

const (
	maxDepth     = 2048      // directories; what PATH_MAX allows a path to name
	minPathBytes = 128 << 20 // bytes of all paths that the map of any image may have
	minLists     = 1 << 16   // attributes in lists of all inodes that any image may have
)

// A builder walks all files once, for the tree or for the map. Every block and every inode can be taken once.
type builder struct {
	r       *Reader
	cache   *cachedReader
	mapping bool // collect segs and meta, make no tree
	lenient bool // leave out files that make no sense

	claimed bitmap // blocks
	visited bitmap // inodes
	linked  map[uint32]*tree.Inode
	segs    []imagemap.Segment
	meta    bitmap       // blocks of no file's own
	paths   int64        // bytes of paths that may still be made
	lists   int64        // attributes that may still be listed for more than one inode
	memory  *tree.Budget // nil for a map

	xattrBlocks map[int64][]tree.Xattr
	xattrValues map[uint32][]byte
}

func newBuilder(r *Reader, mapping bool) *builder {
	b := &builder{
		r: r, cache: newCachedReader(r), mapping: mapping, lenient: mapping && r.info.NeedsRecovery,
		claimed: newBitmap(r.s.blocks), visited: newBitmap(int64(r.s.inodes) + 1), linked: map[uint32]*tree.Inode{},
		paths: minPathBytes + r.info.BytesUsed/2, lists: minLists + r.info.BytesUsed/xattrEntryLen,
		xattrBlocks: map[int64][]tree.Xattr{}, xattrValues: map[uint32][]byte{},
	}
	if mapping {
		b.meta = newBitmap(r.s.blocks)
	} else {
		b.memory = tree.NewBudget(0)
	}
	return b
}

func (b *builder) read(p []byte, off int64) error { return b.cache.read(p, off) }

func corruptInode(ino uint32) string { return "inode " + strconv.FormatUint(uint64(ino), 10) }

// claim takes blocks for a file. That two take the same is damage.
func (b *builder) claim(c blockRange) error {
	if at := b.claimed.take(c.first, c.n); at >= 0 {
		return corrupt("block %d belongs to two files", at)
	}
	return nil
}

func (b *builder) addMeta(c blockRange) {
	if b.mapping {
		b.meta.take(c.first, c.n)
	}
}

// A place is a name in a directory. Paths are made of places only where they are wanted.
type place struct {
	up    *place // nil for the root
	name  string
	depth int
	len   int // bytes of the path
}

func (p *place) path() string {
	var names []string
	for ; p.up != nil; p = p.up {
		names = append(names, p.name)
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return strings.Join(names, "/")
}

// short is the path for an error: the end of it, if it is long.
func (p *place) short() string {
	s := ""
	for ; p.up != nil; p = p.up {
		if s = "/" + p.name + s; len(s) > 300 {
			return "..." + s
		}
	}
	return "/" + strings.TrimPrefix(s, "/")
}

// in names the file in an error, at the innermost file only.
func (p *place) in(err error) error {
	var c *CorruptError
	if errors.As(err, &c) && !strings.HasPrefix(c.What, "\"") {
		return corrupt("%q: %s", p.short(), c.What)
	}
	return err
}

func (b *builder) build() (*tree.Inode, error) {
	for g, gr := range b.r.groups {
		head, _ := b.r.s.head(int64(g))
		for _, c := range []blockRange{head, {gr.blockBitmap, 1}, {gr.inodeBitmap, 1}, {gr.inodeTable, b.r.s.tableBlocks()}} {
			if at := b.claimed.take(c.first, c.n); at >= 0 && !b.lenient {
				return nil, corrupt("block %d is used twice by the tables of group %d", at, g)
			}
			b.addMeta(c)
		}
	}
	for i := range b.r.s.descBlocks() {
		b.addMeta(blockRange{b.r.s.descBlock(i), 1})
	}
	root, err := b.node(rootIno, &place{})
	if err == nil && !root.IsDir() {
		err = corrupt("the root is not a directory")
	}
	return root, err
}

// node returns inode ino with all that is below it. at is the first name it is reached by. For a map the result
// has a type only, and is nil for a further name.
func (b *builder) node(ino uint32, at *place) (*tree.Inode, error) {
	if b.visited.take(int64(ino), 1) >= 0 {
		n := b.linked[ino]
		if n == nil && !b.mapping {
			return nil, at.in(corrupt("inode %d has another name already", ino))
		}
		return n, nil
	}
	in, err := b.r.readInode(b.read, ino)
	if err != nil {
		return nil, at.in(err)
	}
	if in.has(flagEncrypt) && !b.mapping {
		return nil, &UnsupportedError{fmt.Sprintf("with encrypted files (%q)", at.short()), ""}
	}
	if in.has(flagEAInode) {
		return nil, at.in(corrupt("inode %d is an attribute's value", ino))
	}
	n, err := in.attributes()
	if err != nil {
		return nil, at.in(err)
	}
	if n.Xattrs, err = b.xattrs(in); err != nil {
		return nil, at.in(err)
	}
	path := ""
	if b.mapping {
		if path, err = b.mapInode(in, at); err != nil {
			return nil, err
		}
	} else if in.links > 1 && !n.IsDir() {
		b.linked[ino] = n
	}
	switch n.Type() {
	case tree.ModeRegular:
		err = b.regular(in, n, path)
	case tree.ModeSymlink:
		n.LinkTarget, err = b.target(in, path)
	}
	if err == nil {
		err = b.memory.Inode(n, at.len)
	}
	if err == nil && n.IsDir() {
		var entries []dirent
		if entries, err = b.listing(in, path); err == nil && !in.has(flagEncrypt) {
			return n, b.children(n, entries, at)
		}
	}
	return n, at.in(err)
}

// children reads the inodes that a directory's entries name.
func (b *builder) children(n *tree.Inode, entries []dirent, at *place) error {
	if len(entries) > 0 && at.depth >= maxDepth {
		return at.in(corrupt("more than %d directories deep", maxDepth))
	}
	if !b.mapping {
		n.Entries = make([]tree.Entry, 0, len(entries))
	}
	for i, e := range entries {
		if i > 0 && entries[i-1].name == e.name {
			return at.in(corrupt("the name %q is there twice", e.name))
		}
		below, err := b.node(e.ino, &place{at, e.name, at.depth + 1, at.len + 1 + len(e.name)})
		var damaged *CorruptError
		if b.lenient && errors.As(err, &damaged) {
			continue
		}
		if err != nil {
			return err
		}
		if !b.mapping {
			n.Entries = append(n.Entries, tree.Entry{Name: e.name, Inode: below})
		}
	}
	return nil
}

// eachRun takes the blocks of n and calls f for its runs.
func (b *builder) eachRun(n *inode, f func(run) error) error {
	node := func(blk int64) error {
		b.addMeta(blockRange{blk, 1})
		return b.claim(blockRange{blk, 1})
	}
	shared := b.r.s.roCompat&roShared != 0 && n.typ() == tree.ModeRegular
	return b.r.runs(b.read, n, node, func(r run) error {
		if err := b.claim(blockRange{r.blk, r.n}); err != nil && !shared {
			return err
		}
		return f(r)
	})
}

// regular finds where a regular file has data.
func (b *builder) regular(in *inode, n *tree.Inode, path string) error {
	n.Size = in.size
	data := []tree.Extent{}
	if in.has(flagInline) {
		p, err := in.inlinePieces()
		if err != nil {
			return err
		}
		b.mapInline(in, p, path, imagemap.Data)
		if l := min(in.size, int64(p[0].n+p[1].n)); l > 0 {
			data = append(data, tree.Extent{Off: 0, Len: l})
		}
	} else if err := b.eachRun(in, func(r run) error {
		b.mapRun(in, r, path, imagemap.Data)
		off := r.fileBlk * b.r.s.blockSize
		length := min(r.n*b.r.s.blockSize, in.size-off)
		switch last := len(data) - 1; {
		case r.unwritten || length <= 0 || b.mapping:
		case last >= 0 && data[last].Off+data[last].Len == off:
			data[last].Len += length
		default:
			data = append(data, tree.Extent{Off: off, Len: length})
			return b.memory.Take(32)
		}
		return nil
	}); err != nil {
		return err
	}
	if b.mapping || in.size == 0 {
		return nil
	}
	if len(data) > 0 {
		n.Content = &content{b.r, in.ino}
	}
	if len(data) != 1 || data[0] != (tree.Extent{Off: 0, Len: in.size}) {
		n.Data = data
	}
	return nil
}

// target reads a symlink's target.
func (b *builder) target(in *inode, path string) (string, error) {
	if in.size == 0 || in.size > maxTarget {
		return "", corrupt("inode %d: a symlink target of %d bytes", in.ino, in.size)
	}
	if b.r.fastTarget(in) {
		return checkTarget(in, in.blockField()[:in.size])
	}
	t, err := b.readWhole(in, path, imagemap.Inode)
	if err != nil || b.mapping && in.has(flagEncrypt) {
		return "", err
	}
	return checkTarget(in, t)
}

func checkTarget(in *inode, t []byte) (string, error) {
	if i := strings.IndexByte(string(t), 0); i >= 0 && !in.has(flagEncrypt) {
		return "", corrupt("inode %d: a symlink target with a NUL after %d bytes", in.ino, i)
	}
	return string(t), nil
}

// readWhole reads a small file: a symlink's target or an attribute's value. It must not have holes. Its blocks
// are mapped as kind.
func (b *builder) readWhole(in *inode, path string, kind imagemap.Kind) ([]byte, error) {
	if in.has(flagInline) {
		data, err := in.inlineData()
		if err == nil && int64(len(data)) < in.size {
			err = corrupt("inode %d: %d of %d bytes are there", in.ino, len(data), in.size)
		}
		return data, err
	}
	buf, got := []byte{}, int64(0)
	err := b.eachRun(in, func(r run) error {
		off := r.fileBlk * b.r.s.blockSize
		length := min(r.n*b.r.s.blockSize, in.size-off)
		b.mapRun(in, r, path, kind)
		if r.unwritten || length <= 0 {
			return nil
		}
		if off != got {
			return corrupt("inode %d has a hole", in.ino)
		}
		got += length
		buf = append(buf, make([]byte, length)...)
		return b.read(buf[off:], r.blk*b.r.s.blockSize)
	})
	if err == nil && got != in.size {
		err = corrupt("inode %d: %d of %d bytes are there", in.ino, got, in.size)
	}
	return buf, err
}
