package relayout

import (
	"context"
	"fmt"

	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree"
)

// Write writes the tree below root as an image, in the order of opts. dst must be empty; after an error it holds
// nothing of use. What squashfs has no room for (names, owners, device numbers, attribute values) is an error, but
// for the counts in Layout.
//
// With the compressor "none" all blocks begin at multiples of 4 KiB, so that a page of a file is a page of the image
// where blocks are of 4 KiB.
func Write(ctx context.Context, root *tree.Inode, dst File, opts Options) (*Layout, error) {
	comp, ok := compressorNumbers[opts.Compressor]
	if !ok {
		return nil, fmt.Errorf("squashfs compressor %q: want zstd, gzip, xz, lz4 or none", opts.Compressor)
	}
	if opts.BlockSize == 0 {
		opts.BlockSize = 128 << 10
	}
	if bs := opts.BlockSize; bs < minBlockSize || bs > maxBlockSize || bs&(bs-1) != 0 {
		return nil, fmt.Errorf("squashfs block size %d: want a power of two from %d to %d", bs, minBlockSize, maxBlockSize)
	}
	if !root.IsDir() {
		return nil, fmt.Errorf("the root of the tree is not a directory")
	}
	m := &image{
		compressor: comp, blockSize: int64(opts.BlockSize), mkfsTime: opts.MkfsTime, exportable: true,
		flags: flagDeduplicated | flagExportable,
	}
	enc, err := newEncoder(comp, nil, opts.BlockSize, opts.workers(), false)
	if err != nil {
		return nil, err
	}
	if opts.Compressor == "none" {
		enc = plainEncoder{}
		m.flags |= flagPlainInodes | flagPlainData | flagPlainFragments | flagPlainXattrs | flagPlainIDs | flagAlwaysFragment
	}
	if comp == compLZ4 {
		m.options = lz4Options
		m.flags |= flagCompOptions
	}

	c := newConverter(enc)
	if err := c.convert(root, int64(opts.BlockSize)); err != nil {
		return nil, err
	}
	m.root, m.count, m.owners = c.inodes[0], uint32(len(c.inodes)), c.owners
	if m.xattrs, err = c.xattrs.finish(); err != nil {
		return nil, err
	}
	l := &Layout{Inodes: len(c.inodes), DroppedXattrs: c.xattrs.dropped, ClampedTimes: c.clamped}
	w := &contentWriter{ctx: ctx, opts: &opts, bs: int64(opts.BlockSize), enc: enc, pack: opts.Compressor == "none", layout: l, heat: newHeat(m.root)}
	out := newSeqWriter(dst, m.contentOff())
	if err := w.write(out, c.files); err != nil {
		return nil, err
	}
	for _, f := range w.fragments {
		m.fragments = append(m.fragments, *f)
	}
	m.inodes = w.heat.inodeOrder(c.inodes)
	used, size, err := m.writeTables(dst, out, enc)
	if err != nil {
		return nil, err
	}
	l.Size = size
	return l, l.finish(ctx, dst, used)
}

// A converter makes the inodes of the image of those of a tree.
type converter struct {
	inodes  []*squashfs.RawInode // by number, from 1 on
	of      map[*tree.Inode]*squashfs.RawInode
	files   []*file
	owners  []uint32
	ownerOf map[uint32]uint16
	xattrs  *xattrWriter
	clamped int
}

// A file is a regular file that is not empty.
type file struct {
	raw  *squashfs.RawInode
	node *tree.Inode
	path string // its first
}

func newConverter(enc encoder) *converter {
	return &converter{of: map[*tree.Inode]*squashfs.RawInode{}, ownerOf: map[uint32]uint16{}, xattrs: newXattrWriter(enc)}
}

func (c *converter) convert(root *tree.Inode, blockSize int64) error {
	if err := c.xattrs.prepare(root); err != nil {
		return err
	}
	if _, err := c.inode(root, "", blockSize); err != nil {
		return err
	}
	if err := c.dir(root, "", blockSize); err != nil {
		return err
	}
	c.inodes[0].Parent = uint32(len(c.inodes)) + 1 // as mksquashfs does: the root has none
	return nil
}

// dir converts all that is below n. The files of a directory get numbers in sequence, so that its listing, which
// stores differences, is short.
func (c *converter) dir(n *tree.Inode, path string, blockSize int64) error {
	raw := c.of[n]
	if path != "" {
		path += "/"
	}
	raw.Nlink = 2
	raw.Entries = make([]squashfs.RawEntry, 0, len(n.Entries))
	for _, e := range n.Entries {
		if len(e.Name) == 0 || len(e.Name) > 255 {
			return fmt.Errorf("%q: a name has 1 to 255 bytes", path+e.Name)
		}
		child, err := c.inode(e.Inode, path+e.Name, blockSize)
		if err != nil {
			return err
		}
		if e.Inode.IsDir() {
			raw.Nlink++
			child.Parent = raw.Number
		} else {
			child.Nlink++
		}
		raw.Entries = append(raw.Entries, squashfs.RawEntry{Name: e.Name, Inode: child})
	}
	for _, e := range n.Entries {
		if e.Inode.IsDir() {
			if err := c.dir(e.Inode, path+e.Name, blockSize); err != nil {
				return err
			}
		}
	}
	return nil
}

var rawTypes = map[uint32]uint16{
	tree.ModeDir: squashfs.RawDir, tree.ModeRegular: squashfs.RawFile, tree.ModeSymlink: squashfs.RawSymlink,
	tree.ModeBlock: squashfs.RawBlock, tree.ModeChar: squashfs.RawChar, tree.ModeFIFO: squashfs.RawFIFO,
	tree.ModeSocket: squashfs.RawSocket,
}

// maxBlocks bounds the list of a file's blocks, which is in memory: 128 MiB.
const maxBlocks = 1 << 25

func (c *converter) inode(n *tree.Inode, path string, blockSize int64) (*squashfs.RawInode, error) {
	if raw := c.of[n]; raw != nil {
		if n.IsDir() {
			return nil, fmt.Errorf("%q: a directory with a second name", path)
		}
		return raw, nil
	}
	raw := &squashfs.RawInode{Number: uint32(len(c.inodes)) + 1, Type: rawTypes[n.Type()], Perm: uint16(n.Mode & 0o7777), Fragment: squashfs.NoFragment}
	c.inodes = append(c.inodes, raw)
	c.of[n] = raw
	raw.Mtime = uint32(min(max(n.MtimeSec, 0), 1<<32-1))
	if int64(raw.Mtime) != n.MtimeSec {
		c.clamped++
	}
	var err error
	if raw.UID, err = c.owner(n.UID); err != nil {
		return nil, err
	}
	if raw.GID, err = c.owner(n.GID); err != nil {
		return nil, err
	}
	if raw.Xattr, err = c.xattrs.add(n.Xattrs); err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	switch raw.Type {
	case 0:
		return nil, fmt.Errorf("%q: mode %o is of no known type", path, n.Mode)
	case squashfs.RawSymlink:
		if raw.Target = n.LinkTarget; len(raw.Target) == 0 || len(raw.Target) > 4095 {
			return nil, fmt.Errorf("%q: a symlink's target has 1 to 4095 bytes, not %d", path, len(raw.Target))
		}
	case squashfs.RawBlock, squashfs.RawChar:
		if n.RdevMajor > 0xfff || n.RdevMinor > 0xfffff {
			return nil, fmt.Errorf("%q: squashfs has room for devices up to 4095:1048575, not %d:%d", path, n.RdevMajor, n.RdevMinor)
		}
		raw.Rdev = n.RdevMajor<<8 | n.RdevMinor&0xff | n.RdevMinor&^0xff<<12
	case squashfs.RawFile:
		if raw.Size = n.Size; n.Size < 0 || n.Size/blockSize >= maxBlocks {
			return nil, fmt.Errorf("%q: a file of %d bytes is too large for blocks of %d bytes", path, n.Size, blockSize)
		}
		if n.Size > 0 {
			c.files = append(c.files, &file{raw: raw, node: n, path: path})
		}
	}
	return raw, nil
}

// owner returns the index of an owner in the table.
func (c *converter) owner(id uint32) (uint16, error) {
	i, ok := c.ownerOf[id]
	if !ok {
		if len(c.owners) == maxOwners {
			return 0, fmt.Errorf("more than %d different owners and groups, the most that squashfs has room for", maxOwners)
		}
		i = uint16(len(c.owners))
		c.ownerOf[id] = i
		c.owners = append(c.owners, id)
	}
	return i, nil
}
