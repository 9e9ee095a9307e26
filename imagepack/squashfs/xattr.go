package squashfs

import (
	"encoding/binary"
	"sort"
	"strings"

	"bootprof/imagepack/tree"
)

// Attribute name prefixes by type; bit 8 of the type tells that the value is kept elsewhere in the table.
var xattrPrefixes = []string{"user.", "trusted.", "security."}

const xattrOutOfLine = 0x100

// An xattrList is a place in the attribute table. Inodes with the same attributes have it in common.
type xattrList struct {
	ref   uint64
	count uint32
}

// xattrs returns the attributes of an id of the attribute id table.
func (b *builder) xattrs(id uint32) ([]tree.Xattr, error) {
	e := &b.r.ends
	if id == noXattr || b.r.super.xattrTable == noTable {
		return nil, nil
	}
	if id >= e.xattrCount {
		return nil, corrupt("attribute id %d of %d", id, e.xattrCount)
	}
	if set, ok := b.xattrSets[id]; ok {
		return set, nil
	}
	data, _, err := b.r.metaBlock(e.xattrIDs[id/512], b.r.size, b.meta)
	if err != nil {
		return nil, err
	}
	off := int(id%512) * 16
	if off+16 > len(data) {
		return nil, corrupt("attribute id %d is outside its block", id)
	}
	key := xattrList{binary.LittleEndian.Uint64(data[off:]), binary.LittleEndian.Uint32(data[off+8:])}
	set, ok := b.xattrLists[key]
	if !ok {
		if set, err = b.readXattrs(key); err != nil {
			return nil, err
		}
		b.xattrLists[key] = set
	}
	b.xattrSets[id] = set
	return set, nil
}

// xattrCursor goes to a position in the attribute table.
func (b *builder) xattrCursor(ref uint64) (*fields, error) {
	e := &b.r.ends
	if ref>>16 >= uint64(e.xattrEnd-e.xattrStart) {
		return nil, corrupt("attributes at %#x are outside their table", ref)
	}
	c, err := b.r.newCursor(e.xattrStart+int64(ref>>16), int64(ref&0xffff), e.xattrEnd, b.meta)
	return &fields{c: c}, err
}

func (b *builder) readXattrs(l xattrList) ([]tree.Xattr, error) {
	f, err := b.xattrCursor(l.ref)
	if err != nil {
		return nil, err
	}
	var out []tree.Xattr
	for range l.count {
		typ := f.u16()
		name := string(f.bytes(int(f.u16())))
		length := f.u32()
		if f.err != nil {
			return nil, f.err
		}
		prefix := int(typ &^ xattrOutOfLine)
		if prefix >= len(xattrPrefixes) || name == "" || len(xattrPrefixes[prefix])+len(name) > 255 ||
			strings.Contains(name, "\x00") || length > maxXattrValue {
			return nil, corrupt("an attribute of type %#x, name %.80q, %d bytes", typ, name, length)
		}
		var value []byte
		if typ&xattrOutOfLine != 0 {
			if length != 8 {
				return nil, corrupt("attribute %q: the position of its value has %d bytes", name, length)
			}
			ref := f.u64()
			if f.err != nil {
				return nil, f.err
			}
			if value, err = b.xattrValue(ref); err != nil {
				return nil, err
			}
		} else {
			value = append([]byte{}, f.bytes(int(length))...)
		}
		if f.err != nil {
			return nil, f.err
		}
		// Also while reading: a table may say that there are 2^32 of them.
		if f.n > b.xattrBytes {
			return nil, corrupt("attributes overlap")
		}
		out = append(out, tree.Xattr{Name: xattrPrefixes[prefix] + name, Value: value})
		if err := b.memory.Xattr(out[len(out)-1]); err != nil {
			return nil, err
		}
	}
	b.xattrBytes -= f.n
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	for i := 1; i < len(out); i++ {
		if out[i].Name == out[i-1].Name {
			return nil, corrupt("attribute %q is there twice", out[i].Name)
		}
	}
	return out, nil
}

// xattrValue reads a value that is kept out of line.
func (b *builder) xattrValue(ref uint64) ([]byte, error) {
	if v, ok := b.xattrValues[ref]; ok {
		return v, nil
	}
	f, err := b.xattrCursor(ref)
	if err != nil {
		return nil, err
	}
	length := f.u32()
	if length > maxXattrValue {
		return nil, corrupt("an attribute value of %d bytes", length)
	}
	v := append([]byte{}, f.bytes(int(length))...)
	if f.err != nil {
		return nil, f.err
	}
	if b.xattrBytes -= f.n; b.xattrBytes < 0 {
		return nil, corrupt("attributes overlap")
	}
	b.xattrValues[ref] = v
	return v, nil
}
