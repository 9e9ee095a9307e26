package erofs

import (
	"encoding/binary"
	"fmt"
	"strings"

	"bootprof/imagepack/tree"
)

// acl returns a POSIX ACL as xattrs carry it: with a named user, so that it is not just a mode.
func acl(uid uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, 0xffffffff}, {2, 5, uid}, {4, 5, 0xffffffff}, {16, 5, 0xffffffff}, {32, 5, 0xffffffff}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// everything is a tree with one of each thing that an image must keep.
func everything() *tree.Inode {
	hard := newFile(10_000, 3)
	hard.Mode = tree.ModeRegular | 0o4755
	hard.UID, hard.GID = 4_000_000_000, 70_000
	hard.MtimeSec, hard.MtimeNsec = -5, 999_999_999
	special := func(mode, major, minor uint32) *tree.Inode {
		return &tree.Inode{Mode: mode, RdevMajor: major, RdevMinor: minor, MtimeSec: 5_000_000_000, MtimeNsec: 1}
	}
	sticky := newDir(tree.Entry{Name: "second name", Inode: hard})
	sticky.Mode = tree.ModeDir | 0o1777

	types := newDir(
		tree.Entry{Name: "block", Inode: special(tree.ModeBlock|0o660, 259, 1_048_575)},
		tree.Entry{Name: "char", Inode: special(tree.ModeChar|0o666, 4095, 255)},
		tree.Entry{Name: "fifo", Inode: special(tree.ModeFIFO|0o600, 0, 0)},
		tree.Entry{Name: "socket", Inode: special(tree.ModeSocket|0o2755, 0, 0)},
		tree.Entry{Name: "link", Inode: newLink("../some/where")},
		tree.Entry{Name: "link4031", Inode: newLink(strings.Repeat("x", 4031))},
		tree.Entry{Name: "link4032", Inode: newLink(strings.Repeat("x", 4032))},
		tree.Entry{Name: "link4095", Inode: newLink(strings.Repeat("y", 4095))},
		tree.Entry{Name: "empty dir", Inode: newDir()},
	)
	// Names around "." and "..", bytes that are no UTF-8, and the longest.
	names := newDir()
	for i, name := range []string{"!", "-", "--", ".-", "...", "..a", ".a", "0", "\x01", "\xff\xfe",
		strings.Repeat("n", 255), strings.Repeat("\xe4", 255), "a\nb", "\u00e4"} {
		names.Entries = append(names.Entries, tree.Entry{Name: name, Inode: newFile(i*100, byte(i))})
	}
	names = newDir(names.Entries...)

	sizes := newDir()
	for i, size := range []int{0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 8193, 16383, 16384, 16385, 20000, 300_001} {
		sizes.Entries = append(sizes.Entries, tree.Entry{Name: fmt.Sprintf("s%06d", size), Inode: newFile(size, byte(i))})
	}

	many := newDir()
	for i := range 2000 {
		n := newFile(i%50, byte(i))
		n.Xattrs = []tree.Xattr{{Name: "security.selinux", Value: []byte("system_u:object_r:usr_t:s0")}}
		many.Entries = append(many.Entries, tree.Entry{Name: fmt.Sprintf("file-%05d", i), Inode: n})
	}
	root := newDir(
		tree.Entry{Name: "hard", Inode: hard},
		tree.Entry{Name: "dir", Inode: newDir(tree.Entry{Name: "hard", Inode: hard})},
		tree.Entry{Name: "dir-2", Inode: sticky},
		tree.Entry{Name: "types", Inode: types},
		tree.Entry{Name: "names", Inode: names},
		tree.Entry{Name: "sizes", Inode: sizes},
		tree.Entry{Name: "many", Inode: many},
		tree.Entry{Name: "xattrs", Inode: xattrTree()},
		tree.Entry{Name: "sparse", Inode: sparseTree()},
	)
	root.Mode, root.UID = tree.ModeDir|0o751, 12
	return root
}

func xattrTree() *tree.Inode {
	with := func(n *tree.Inode, x ...tree.Xattr) *tree.Inode { n.Xattrs = x; return n }
	large := tree.Xattr{Name: "user.large", Value: make([]byte, 65535)}
	for i := range large.Value {
		large.Value[i] = byte(i * 13)
	}
	var lots []tree.Xattr
	for i := range 120 {
		lots = append(lots, tree.Xattr{Name: fmt.Sprintf("user.x%03d", i), Value: []byte(strings.Repeat("v", i))})
	}
	d := newDir(
		tree.Entry{Name: "acl", Inode: with(newFile(100, 1), tree.Xattr{Name: "system.posix_acl_access", Value: acl(1000)})},
		tree.Entry{Name: "all", Inode: with(newFile(3000, 1),
			tree.Xattr{Name: "security.capability", Value: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
			tree.Xattr{Name: "trusted.overlay.opaque", Value: []byte("y")},
			tree.Xattr{Name: "user.empty"},
			tree.Xattr{Name: "user." + strings.Repeat("n", 250), Value: []byte("1")})},
		tree.Entry{Name: "big", Inode: with(newFile(10, 1), large)},
		tree.Entry{Name: "big2", Inode: with(newFile(0, 1), large)},
		tree.Entry{Name: "link", Inode: with(newLink("acl"), tree.Xattr{Name: "trusted.t", Value: []byte("l")})},
		tree.Entry{Name: "lots", Inode: with(newFile(5000, 1), lots...)},
		tree.Entry{Name: "middle", Inode: with(newFile(3500, 1), tree.Xattr{Name: "user.m", Value: make([]byte, 900)})},
	)
	return with(d, tree.Xattr{Name: "system.posix_acl_access", Value: acl(1000)},
		tree.Xattr{Name: "system.posix_acl_default", Value: acl(1001)})
}

// sparseFile returns a file with known holes.
func sparseFile(size int64, data ...tree.Extent) *tree.Inode {
	if data == nil {
		data = []tree.Extent{}
	}
	return &tree.Inode{Mode: tree.ModeRegular | 0o600, Size: size, Data: data, Content: &sparseContent{size, data}}
}

func sparseTree() *tree.Inode {
	checker := sparseFile(64 * 8192)
	for i := range int64(64) {
		checker.Data = append(checker.Data, tree.Extent{Off: i*8192 + 5, Len: 4000})
	}
	checker.Content = &sparseContent{checker.Size, checker.Data}
	return newDir(
		tree.Entry{Name: "all hole", Inode: sparseFile(1 << 20)},
		tree.Entry{Name: "no content", Inode: &tree.Inode{Mode: tree.ModeRegular, Size: 5000}},
		tree.Entry{Name: "no content small", Inode: &tree.Inode{Mode: tree.ModeRegular, Size: 50}},
		tree.Entry{Name: "huge hole", Inode: sparseFile(1 << 45)},
		tree.Entry{Name: "end", Inode: sparseFile(1<<20+17, tree.Extent{Off: 1 << 20, Len: 17})},
		tree.Entry{Name: "start", Inode: sparseFile(3<<20, tree.Extent{Off: 0, Len: 4097})},
		tree.Entry{Name: "middle", Inode: sparseFile(3<<20, tree.Extent{Off: 5000, Len: 1}, tree.Extent{Off: 1 << 20, Len: 70_000})},
		tree.Entry{Name: "checker", Inode: checker},
		tree.Entry{Name: "small hole", Inode: sparseFile(9000, tree.Extent{Off: 0, Len: 1}, tree.Extent{Off: 4096, Len: 1}, tree.Extent{Off: 8999, Len: 1})},
		tree.Entry{Name: "over 4 GiB", Inode: sparseFile(5<<30+3, tree.Extent{Off: 123, Len: 5000}, tree.Extent{Off: 5 << 30, Len: 3})},
	)
}
