package ext4

import (
	"bytes"
	"sort"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// Name indices of attributes. Others have no handler in Linux, which does not show them.
const (
	xattrACL        = 2
	xattrACLDefault = 3
	xattrSystem     = 7 // inline data
)

var xattrPrefixes = map[byte]string{
	1: "user.", xattrACL: "system.posix_acl_access", xattrACLDefault: "system.posix_acl_default", 4: "trusted.",
	6: "security.", 10: "gnu.",
}

const (
	xattrEntryLen  = 16
	xattrHeaderLen = 32      // of an attribute block
	maxXattrValue  = 1 << 16 // bytes, as in the kernel
)

// A rawXattr is an attribute as it is stored. Its value is [off, off+size) of what it was read from, or the
// content of inode valueIno.
type rawXattr struct {
	index     byte
	name      string
	off, size int
	valueIno  uint32
}

// parseXattrs reads the attributes in b, whose list begins at start and whose values count from base on. where
// names b in errors.
func parseXattrs(b []byte, start, base int, where func() string) ([]rawXattr, error) {
	var out []rawXattr
	room := len(b) - start
	for at := start; ; {
		if at+4 > len(b) {
			return nil, corrupt("%s: the list of attributes has no end", where())
		}
		if le.Uint32(b[at:]) == 0 {
			return out, nil
		}
		if at+xattrEntryLen > len(b) || at+xattrEntryLen+int(b[at]) > len(b) {
			return nil, corrupt("%s: the list of attributes is cut short", where())
		}
		name := b[at+xattrEntryLen:][:b[at]]
		x := rawXattr{index: b[at+1], name: string(name), valueIno: le.Uint32(b[at+4:])}
		size := le.Uint32(b[at+8:])
		x.off = base + int(le.Uint16(b[at+2:]))
		if bytes.IndexByte(name, 0) >= 0 || size > maxXattrValue {
			return nil, corrupt("%s: the attribute %.80q with %d bytes", where(), name, size)
		}
		x.size = int(size)
		if x.valueIno == 0 {
			// Values share no bytes, so that what is read is not more than what there is.
			if room -= x.size; x.size > 0 && (room < 0 || x.off+x.size > len(b)) {
				return nil, corrupt("%s: the attribute %.80q has its %d bytes at %d of %d", where(), name, x.size, x.off, len(b))
			}
		}
		out = append(out, x)
		at += (xattrEntryLen + int(b[at]) + 3) &^ 3
	}
}

// ownXattrs returns the attributes that are in n itself; their values are in n.raw.
func (n *inode) ownXattrs() ([]rawXattr, error) {
	if len(n.raw) == 128 || n.u16(0x80) == 0 || n.extraEnd+4 > len(n.raw) || n.u32(n.extraEnd) != xattrMagic {
		return nil, nil
	}
	start := n.extraEnd + 4
	return parseXattrs(n.raw, start, start, func() string { return corruptInode(n.ino) })
}

// xattrs returns the attributes of n as Linux shows them.
func (b *builder) xattrs(n *inode) ([]tree.Xattr, error) {
	own, err := n.ownXattrs()
	if err != nil {
		return nil, err
	}
	set, err := b.decodeXattrs(own, n.raw)
	if err != nil {
		return nil, err
	}
	if n.xattrBlk != 0 {
		more, err := b.xattrBlock(n)
		if err != nil {
			return nil, err
		}
		if len(set) == 0 {
			return more, nil // inodes that share the block share the list
		}
		// Each of these inodes has a list of its own again, which may be much longer than what it has on disk.
		if b.lists -= int64(len(more)); b.lists < 0 {
			return nil, corrupt("inode %d: more attributes than the image has room for", n.ino)
		}
		if set, err = sortXattrs(append(set, more...)); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// xattrBlock returns the attributes in the block of n. Inodes with the same attributes have it in common.
func (b *builder) xattrBlock(n *inode) ([]tree.Xattr, error) {
	s := &b.r.s
	if set, ok := b.xattrBlocks[n.xattrBlk]; ok {
		return set, nil
	}
	at := n.xattrBlk
	if at > s.blocks-1 {
		return nil, corrupt("inode %d has its attributes in block %d of %d", n.ino, at, s.blocks)
	}
	if err := b.claim(blockRange{at, 1}); err != nil {
		return nil, err
	}
	b.addMeta(blockRange{at, 1})
	buf := make([]byte, s.blockSize)
	if err := b.read(buf, at*s.blockSize); err != nil {
		return nil, err
	}
	if le.Uint32(buf) != xattrMagic || le.Uint32(buf[8:]) != 1 {
		return nil, corrupt("inode %d: block %d holds no attributes", n.ino, at)
	}
	if s.metaCsum() && !s.xattrSumOK(at, buf) {
		return nil, corrupt("inode %d: wrong checksum of its attributes", n.ino)
	}
	list, err := parseXattrs(buf, xattrHeaderLen, 0, func() string { return corruptInode(n.ino) })
	if err != nil {
		return nil, err
	}
	set, err := b.decodeXattrs(list, buf)
	if err != nil {
		return nil, err
	}
	b.xattrBlocks[at] = set
	return set, nil
}

func (b *builder) decodeXattrs(list []rawXattr, data []byte) ([]tree.Xattr, error) {
	var out []tree.Xattr
	for _, x := range list {
		var value []byte
		var err error
		if x.valueIno != 0 {
			value, err = b.xattrValue(x)
		} else if !b.mapping && x.size > 0 {
			value = bytes.Clone(data[x.off : x.off+x.size])
		} else if !b.mapping {
			value = []byte{}
		}
		if err != nil {
			return nil, err
		}
		prefix, known := xattrPrefixes[x.index]
		if !known || b.mapping {
			continue
		}
		name := prefix + x.name
		if x.index == xattrACL || x.index == xattrACLDefault {
			if value, err = expandACL(value); err != nil {
				return nil, err
			}
			if name = prefix; value == nil {
				continue
			}
		} else if x.name == "" || len(name) > 255 {
			return nil, corrupt("an attribute named %.300q", name)
		}
		out = append(out, tree.Xattr{Name: name, Value: value})
		if err := b.memory.Xattr(out[len(out)-1]); err != nil {
			return nil, err
		}
	}
	return sortXattrs(out)
}

func sortXattrs(l []tree.Xattr) ([]tree.Xattr, error) {
	sort.Slice(l, func(i, j int) bool { return l[i].Name < l[j].Name })
	for i := 1; i < len(l); i++ {
		if l[i].Name == l[i-1].Name {
			return nil, corrupt("attribute %q is there twice", l[i].Name)
		}
	}
	return l, nil
}

// xattrValue reads a value from an inode of its own, which attributes of many files may share.
func (b *builder) xattrValue(x rawXattr) ([]byte, error) {
	v, ok := b.xattrValues[x.valueIno]
	if !ok {
		n, err := b.r.readInode(b.read, x.valueIno)
		if err != nil {
			return nil, err
		}
		if n.typ() != tree.ModeRegular || !n.has(flagEAInode) || n.size > maxXattrValue {
			return nil, corrupt("inode %d is no attribute's value", n.ino)
		}
		if b.visited.take(int64(n.ino), 1) >= 0 {
			return nil, corrupt("inode %d is both an attribute's value and a file", n.ino)
		}
		if v, err = b.readWhole(n, "", imagemap.Meta); err != nil {
			return nil, err
		}
		if b.mapping {
			v = nil // its blocks are known now
		}
		b.xattrValues[x.valueIno] = v
	}
	if len(v) != x.size && !b.mapping {
		return nil, corrupt("inode %d: an attribute's value of %d bytes has %d", x.valueIno, x.size, len(v))
	}
	return v, nil
}

// expandACL turns an ACL from the form that ext4 keeps it in, which leaves out what is not needed, into that
// of <linux/posix_acl_xattr.h>. One without entries is nil.
func expandACL(b []byte) ([]byte, error) {
	if len(b) < 4 || le.Uint32(b) != 1 {
		return nil, corrupt("an ACL of %d bytes, %.16x", len(b), b)
	}
	out := le.AppendUint32(nil, 2)
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, corrupt("an ACL ends inside an entry")
		}
		out = append(out, b[:4]...)
		switch tag := le.Uint16(b); tag {
		case 0x01, 0x04, 0x10, 0x20: // owner, group, mask, others
			out = le.AppendUint32(out, ^uint32(0))
			b = b[4:]
		case 0x02, 0x08: // a named user or group
			if len(b) < 8 {
				return nil, corrupt("an ACL ends inside an entry")
			}
			out = append(out, b[4:8]...)
			b = b[8:]
		default:
			return nil, corrupt("an ACL entry of type %#x", tag)
		}
	}
	if len(out) == 4 {
		return nil, nil
	}
	return out, nil
}
