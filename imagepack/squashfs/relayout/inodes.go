package relayout

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"bootprof/imagepack/squashfs"
)

const extended = 7 // what an extended inode's type adds to a basic one's

// Limits of a group of entries in a listing.
const (
	maxGroup     = 256
	maxIndexes   = 1<<16 - 1 // of a directory's inode; what lies behind them is found more slowly
	groupHeadLen = 12
)

// An inodeWriter writes the inode table and collects the directory table, which follows it.
type inodeWriter struct {
	inodes metaWriter
	dirs   metaWriter
	dirBuf bytes.Buffer
}

// write writes the inodes in an order in which each directory comes after all that is in it. It sets their Ref.
func (w *inodeWriter) write(inodes []*squashfs.RawInode) error {
	w.dirs.out = &w.dirBuf
	for _, n := range inodes {
		var d listing
		if n.Type == squashfs.RawDir {
			var err error
			if d, err = w.listing(n); err != nil {
				return err
			}
		}
		n.Ref = w.inodes.ref()
		if n.Ref>>16 > math.MaxUint32 || w.dirs.stored > math.MaxUint32 {
			return fmt.Errorf("the inodes or listings of the image need more than 4 GiB, the most that squashfs has room for")
		}
		if _, err := w.inodes.Write(encodeInode(n, &d)); err != nil {
			return err
		}
	}
	if err := w.inodes.flush(); err != nil {
		return err
	}
	return w.dirs.flush()
}

// A listing is where a directory's entries are, and the index into them.
type listing struct {
	ref   uint64
	size  int64
	index []byte
	count uint16 // entries of the index
}

// listing writes the entries of a directory in groups that have the metadata block of their inodes in common. A group
// ends as well where a metadata block of the listing ends, so that the index can lead there.
func (w *inodeWriter) listing(n *squashfs.RawInode) (listing, error) {
	le := binary.LittleEndian
	m := &w.dirs
	if len(n.Entries) == 0 {
		return listing{}, nil
	}
	l := listing{ref: m.ref()}
	begin := m.total
	indexed := begin / metaLen // block of the directory table that was last begun with a group
	for rest := n.Entries; len(rest) > 0; {
		first := rest[0].Inode
		block, number := first.Ref>>16, int64(first.Number)
		if b := m.total / metaLen; b > indexed {
			indexed = b
			if l.count < maxIndexes {
				l.count++
				l.index = le.AppendUint32(l.index, uint32(m.total-begin))
				l.index = le.AppendUint32(l.index, uint32(m.stored))
				l.index = le.AppendUint32(l.index, uint32(len(rest[0].Name)-1))
				l.index = append(l.index, rest[0].Name...)
			}
		}
		group := make([]byte, groupHeadLen, 1024)
		count := 0
		for count < min(maxGroup, len(rest)) {
			e := rest[count]
			delta := int64(e.Inode.Number) - number
			if e.Inode.Ref>>16 != block || delta != int64(int16(delta)) ||
				count > 0 && (m.total+int64(len(group)))/metaLen > indexed {
				break
			}
			group = le.AppendUint16(group, uint16(e.Inode.Ref))
			group = le.AppendUint16(group, uint16(delta))
			group = le.AppendUint16(group, e.Inode.Type)
			group = le.AppendUint16(group, uint16(len(e.Name)-1))
			group = append(group, e.Name...)
			count++
		}
		le.PutUint32(group, uint32(count-1))
		le.PutUint32(group[4:], uint32(block))
		le.PutUint32(group[8:], uint32(number))
		rest = rest[count:]
		if _, err := m.Write(group); err != nil {
			return l, err
		}
	}
	if l.size = m.total - begin; l.size > math.MaxUint32-3 {
		return l, fmt.Errorf("a directory of %d entries has a listing of %d bytes; squashfs has room for 4 GiB", len(n.Entries), l.size)
	}
	return l, nil
}

func encodeInode(n *squashfs.RawInode, d *listing) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 64+4*len(n.Blocks)+len(n.Target)+len(d.index))
	head := func(ext bool) {
		typ := n.Type
		if ext {
			typ += extended
		}
		for _, v := range []uint16{typ, n.Perm, n.UID, n.GID} {
			b = le.AppendUint16(b, v)
		}
		b = le.AppendUint32(le.AppendUint32(b, n.Mtime), n.Number)
	}
	u32 := func(vs ...uint32) {
		for _, v := range vs {
			b = le.AppendUint32(b, v)
		}
	}
	ext := n.Xattr != squashfs.NoXattr
	switch n.Type {
	case squashfs.RawDir:
		size := uint32(d.size + 3) // "." and ".." count as three bytes
		block, offset := uint32(d.ref>>16), uint16(d.ref)
		ext = ext || size > math.MaxUint16 || d.count > 0
		head(ext)
		if !ext {
			u32(block, n.Nlink)
			b = le.AppendUint16(le.AppendUint16(b, uint16(size)), offset)
			u32(n.Parent)
			break
		}
		u32(n.Nlink, size, block, n.Parent)
		b = le.AppendUint16(le.AppendUint16(b, d.count), offset)
		u32(n.Xattr)
		b = append(b, d.index...)
	case squashfs.RawFile:
		ext = ext || n.Nlink != 1 || n.Sparse > 0 || n.Start > math.MaxUint32 || n.Size > math.MaxUint32
		head(ext)
		if ext {
			b = le.AppendUint64(b, uint64(n.Start))
			b = le.AppendUint64(b, uint64(n.Size))
			b = le.AppendUint64(b, uint64(n.Sparse))
			u32(n.Nlink, n.Fragment, n.FragOff, n.Xattr)
		} else {
			u32(uint32(n.Start), n.Fragment, n.FragOff, uint32(n.Size))
		}
		u32(n.Blocks...)
	default:
		head(ext)
		u32(n.Nlink)
		switch n.Type {
		case squashfs.RawSymlink:
			u32(uint32(len(n.Target)))
			b = append(b, n.Target...)
		case squashfs.RawBlock, squashfs.RawChar:
			u32(n.Rdev)
		}
		if ext {
			u32(n.Xattr)
		}
	}
	return b
}
