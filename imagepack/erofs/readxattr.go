package erofs

import (
	"sort"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

const longPrefix = 0x80 // bit of a name index: it counts long prefixes

// readXattrs reads the inline xattr area of n, which begins at off, and the shared xattrs it refers to. A map
// wants the places of the shared ones only.
func (w *walker) readXattrs(n *inode, off int64) error {
	end := n.off + n.headLen
	if end == off {
		return nil
	}
	var b [4]byte
	if err := w.meta.read(b[:], off+4); err != nil {
		return err
	}
	count := int64(b[0])
	off += xattrHeaderSize
	if count*4 > end-off {
		return corrupt(off, "%d shared xattrs do not fit in the xattr area", count)
	}
	shared := make([]tree.Xattr, 0, count)
	for ; count > 0; count-- {
		if err := w.meta.read(b[:], off); err != nil {
			return err
		}
		off += 4
		x, err := w.shared(w.xattrBase + int64(le.Uint32(b[:]))*4)
		if err != nil {
			return err
		}
		shared = append(shared, x)
	}
	if !w.tree {
		return nil
	}
	for off < end {
		if err := w.meta.read(b[:], off); err != nil {
			return err
		}
		if b == [4]byte{} { // padding
			off += 4
			continue
		}
		x, length, err := w.readXattr(off, end)
		if err != nil {
			return err
		}
		n.xattrs = append(n.xattrs, x)
		off += length
	}
	// Of two with one name Linux returns the first: an inline one before a shared one.
	n.xattrs = append(n.xattrs, shared...)
	sort.SliceStable(n.xattrs, func(i, j int) bool { return n.xattrs[i].Name < n.xattrs[j].Name })
	kept := n.xattrs[:0]
	for _, x := range n.xattrs {
		if len(kept) == 0 || kept[len(kept)-1].Name != x.Name {
			kept = append(kept, x)
		}
	}
	n.xattrs = kept
	return nil
}

// shared records and returns the shared xattr at imageOff.
func (w *walker) shared(imageOff int64) (tree.Xattr, error) {
	x, known := w.sharedAt[imageOff]
	if known {
		return x, nil
	}
	var b [xattrEntrySize]byte
	if err := w.meta.read(b[:], imageOff); err != nil {
		return x, err
	}
	n := alignUp(xattrEntrySize+int64(b[0])+int64(le.Uint16(b[2:])), 4)
	err := w.spend(imageOff, n)
	if err == nil && w.tree {
		x, _, err = w.readXattr(imageOff, w.size)
	} else if err == nil {
		err = w.add(imagemap.Segment{ImageOff: imageOff, ImageLen: n, Kind: imagemap.Meta})
	}
	w.sharedAt[imageOff] = x
	return x, err
}

// readXattr reads the entry at imageOff, which may not go beyond end, and returns its padded length.
func (w *walker) readXattr(imageOff, end int64) (x tree.Xattr, length int64, err error) {
	var b [xattrEntrySize]byte
	if err := w.meta.read(b[:], imageOff); err != nil {
		return x, 0, err
	}
	nameLen, valueLen := int(b[0]), int(le.Uint16(b[2:]))
	length = alignUp(int64(xattrEntrySize+nameLen+valueLen), 4)
	if length > end-imageOff {
		return x, 0, corrupt(imageOff, "an extended attribute of %d bytes has room for %d", length, end-imageOff)
	}
	if err := w.memory.Take(2 * length); err != nil {
		return x, 0, err
	}
	data := make([]byte, nameLen+valueLen)
	if err := w.meta.read(data, imageOff+xattrEntrySize); err != nil {
		return x, 0, err
	}
	prefix, err := w.xattrPrefix(b[1], imageOff)
	if err != nil {
		return x, 0, err
	}
	x = tree.Xattr{Name: prefix + string(data[:nameLen]), Value: data[nameLen:]}
	switch acl := b[1] == 2 || b[1] == 3; {
	case acl != (nameLen == 0) && b[1]&longPrefix == 0, len(x.Name) > 255:
		return x, 0, corrupt(imageOff, "the extended attribute name %.300q", x.Name)
	}
	for _, c := range []byte(x.Name) {
		if c == 0 {
			return x, 0, corrupt(imageOff, "the extended attribute name %.300q", x.Name)
		}
	}
	return x, length, nil
}

// xattrPrefix returns what the name index of the entry at imageOff stands for.
func (w *walker) xattrPrefix(index byte, imageOff int64) (string, error) {
	if index&longPrefix != 0 {
		if i := int(index &^ longPrefix); i < len(w.longName) {
			return w.longName[i], nil
		}
		return "", corrupt(imageOff, "extended attribute prefix %d of %d", index&^longPrefix, len(w.longName))
	}
	for _, p := range xattrPrefixes {
		if p.index == index {
			return p.prefix, nil
		}
	}
	return "", &UnsupportedError{"extended attributes of name space " + hex(uint64(index))}
}

// readPrefixes reads the long xattr prefixes: each a length of 16 bits, the index of a short prefix and what
// follows that, beginning at a multiple of 4 bytes.
func (w *walker) readPrefixes() error {
	read, size := w.meta.read, w.size
	if w.prefixPacked {
		o := w.packed.open()
		size = w.packed.size
		read = func(p []byte, off int64) error {
			if off > size || int64(len(p)) > size-off {
				return corrupt(0, "extended attribute prefixes lie outside the packed inode of %d bytes", size)
			}
			_, err := o.ReadAt(p, off)
			return eofIsNone(err)
		}
	}
	off := w.prefixOff
	for range w.prefixes {
		b := make([]byte, 2, 2+256)
		if err := read(b, off); err != nil {
			return err
		}
		n := int(le.Uint16(b))
		if n < 1 || n > 256 {
			return corrupt(off, "an extended attribute prefix of %d bytes", n)
		}
		b = b[:2+n]
		if err := read(b[2:], off+2); err != nil {
			return err
		}
		if b[2]&longPrefix != 0 {
			return corrupt(off, "an extended attribute prefix made of another")
		}
		short, err := w.xattrPrefix(b[2], off)
		if err != nil {
			return err
		}
		w.longName = append(w.longName, short+string(b[3:]))
		off = alignUp(off+int64(len(b)), 4)
	}
	return nil
}
