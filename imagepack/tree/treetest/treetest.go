// Package treetest compares a directory of the running system, usually a mounted image, with a
// tree.Inode, and makes directories that hold one of everything.
//
// The kernel is the oracle: everything here goes through lstat, readdir, llistxattr, readlink and read, and
// nothing through package tree's own inputs.
//
// Traps: it needs root to see trusted.* attributes and to make devices. The number of links is
// compared too, so a mount that shows only a part of a tree differs. An overlayfs shows attributes of its own.
package treetest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree"
)

// Options loosen a comparison. The zero value compares everything.
type Options struct {
	WholeSeconds bool // the directory or the tree keeps no part of a second
	NoNlink      bool // do not compare st_nlink with the number of names in the tree
	NoXattrs     bool
	Max          int // differences after which to stop; 0 means 40
}

// CompareDir reports every difference between what the kernel shows at dir and want as a test error: names,
// type and mode, owner, mtime, device numbers, hard-link groups, extended attributes, symlink targets, size
// and content. It also checks that content outside want's Data extents is zero.
func CompareDir(t testing.TB, dir string, want *tree.Inode) {
	t.Helper()
	for _, d := range Diff(dir, want, Options{}) {
		t.Error(d)
	}
}

// Diff returns what CompareDir reports, one line for each difference.
func Diff(dir string, want *tree.Inode, o Options) []string {
	if o.Max == 0 {
		o.Max = 40
	}
	c := &comparer{o: o, names: map[*tree.Inode]int{}, byID: map[[2]uint64]*tree.Inode{}, byInode: map[*tree.Inode]seen{}}
	if err := tree.Walk(want, func(_ string, n *tree.Inode) error { c.names[n]++; return nil }); err != nil {
		return []string{err.Error()}
	}
	c.compare(dir, "", want)
	return c.diffs
}

type seen struct {
	id   [2]uint64
	path string
}

type comparer struct {
	o       Options
	diffs   []string
	names   map[*tree.Inode]int
	byID    map[[2]uint64]*tree.Inode // (dev, ino) to the tree's inode
	byInode map[*tree.Inode]seen
	a, b    []byte // read buffers
}

func (c *comparer) diff(path, format string, args ...any) {
	c.diffs = append(c.diffs, fmt.Sprintf("%q: ", path)+fmt.Sprintf(format, args...))
}

// compare compares the file at dir/path with n and then, in a directory, everything below.
func (c *comparer) compare(dir, path string, n *tree.Inode) {
	if len(c.diffs) >= c.o.Max {
		return
	}
	full := dir + "/" + path
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		c.diff(path, "lstat: %v", err)
		return
	}
	if st.Mode != n.Mode {
		c.diff(path, "mode %o on disk, %o in the tree", st.Mode, n.Mode)
	}
	if st.Mode&tree.ModeType != n.Type() {
		return
	}
	if st.Uid != n.UID || st.Gid != n.GID {
		c.diff(path, "owner %d:%d on disk, %d:%d in the tree", st.Uid, st.Gid, n.UID, n.GID)
	}
	nsec := uint32(st.Mtim.Nsec)
	if c.o.WholeSeconds {
		nsec = n.MtimeNsec
	}
	if st.Mtim.Sec != n.MtimeSec || nsec != n.MtimeNsec {
		c.diff(path, "mtime %d.%09d on disk, %d.%09d in the tree", st.Mtim.Sec, st.Mtim.Nsec, n.MtimeSec, n.MtimeNsec)
	}
	if !c.o.NoXattrs {
		c.compareXattrs(full, path, n)
	}
	if n.IsDir() {
		c.compareEntries(dir, path, n)
		return
	}
	if first := c.compareLinks(path, &st, n); !first {
		return
	}
	switch n.Type() {
	case tree.ModeBlock, tree.ModeChar:
		if maj, min := unix.Major(st.Rdev), unix.Minor(st.Rdev); maj != n.RdevMajor || min != n.RdevMinor {
			c.diff(path, "device %d:%d on disk, %d:%d in the tree", maj, min, n.RdevMajor, n.RdevMinor)
		}
	case tree.ModeSymlink:
		if target, err := os.Readlink(full); err != nil {
			c.diff(path, "readlink: %v", err)
		} else if target != n.LinkTarget {
			c.diff(path, "target %q on disk, %q in the tree", target, n.LinkTarget)
		}
	case tree.ModeRegular:
		if st.Size != n.Size {
			c.diff(path, "size %d on disk, %d in the tree", st.Size, n.Size)
			return
		}
		c.compareContent(full, path, n)
	}
}

// compareLinks checks that two names are one file on disk exactly if they are one inode in the tree. It
// tells whether this is the inode's first name.
func (c *comparer) compareLinks(path string, st *unix.Stat_t, n *tree.Inode) bool {
	if !c.o.NoNlink && int(st.Nlink) != c.names[n] {
		c.diff(path, "%d links on disk, %d names in the tree", st.Nlink, c.names[n])
	}
	id := [2]uint64{uint64(st.Dev), st.Ino}
	other, knownID := c.byID[id]
	if knownID && other != n {
		c.diff(path, "hard link to %q on disk, a file of its own in the tree", c.byInode[other].path)
	}
	s, knownInode := c.byInode[n]
	if knownInode && s.id != id {
		c.diff(path, "hard link to %q in the tree, a file of its own on disk", s.path)
	}
	if !knownInode {
		c.byInode[n] = seen{id, path}
	}
	if !knownID {
		c.byID[id] = n
	}
	return !knownInode
}

func (c *comparer) compareEntries(dir, path string, n *tree.Inode) {
	d, err := os.Open(dir + "/" + path)
	if err != nil {
		c.diff(path, "open: %v", err)
		return
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		c.diff(path, "readdir: %v", err)
		return
	}
	sort.Strings(names)
	onDisk := make(map[string]bool, len(names))
	for _, name := range names {
		onDisk[name] = true
		if n.Lookup(name) == nil {
			c.diff(path, "entry %q is on disk only", name)
		}
	}
	for i, e := range n.Entries {
		if i > 0 && n.Entries[i-1].Name >= e.Name {
			c.diff(path, "entries %q, %q of the tree are not in order", n.Entries[i-1].Name, e.Name)
		}
		if !onDisk[e.Name] {
			c.diff(path, "entry %q is in the tree only", e.Name)
			continue
		}
		p := e.Name
		if path != "" {
			p = path + "/" + e.Name
		}
		c.compare(dir, p, e.Inode)
	}
}

func (c *comparer) compareXattrs(full, path string, n *tree.Inode) {
	onDisk, err := Xattrs(full)
	if err != nil {
		c.diff(path, "%v", err)
		return
	}
	for i, x := range n.Xattrs {
		if i > 0 && n.Xattrs[i-1].Name >= x.Name {
			c.diff(path, "xattrs %q, %q of the tree are not in order", n.Xattrs[i-1].Name, x.Name)
		}
		v, ok := onDisk[x.Name]
		switch {
		case !ok:
			c.diff(path, "xattr %q is in the tree only", x.Name)
		case !bytes.Equal(v, x.Value):
			c.diff(path, "xattr %q: %s on disk, %s in the tree", x.Name, short(v), short(x.Value))
		}
		delete(onDisk, x.Name)
	}
	for name := range onDisk {
		c.diff(path, "xattr %q is on disk only", name)
	}
}

func short(b []byte) string {
	if len(b) > 32 {
		return fmt.Sprintf("%q... (%d bytes)", b[:32], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// Xattrs returns the extended attributes of the file at path, of the link itself if it is a symlink.
func Xattrs(path string) (map[string][]byte, error) {
	n, err := unix.Llistxattr(path, nil)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	list := make([]byte, n)
	if err == nil {
		n, err = unix.Llistxattr(path, list)
	}
	if err != nil {
		return nil, fmt.Errorf("llistxattr: %w", err)
	}
	out := map[string][]byte{}
	for _, name := range strings.Split(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		v := make([]byte, 1<<16)
		m, err := unix.Lgetxattr(path, name, v)
		if err != nil {
			return nil, fmt.Errorf("lgetxattr %q: %w", name, err)
		}
		out[name] = v[:m]
	}
	return out, nil
}

func (c *comparer) compareContent(full, path string, n *tree.Inode) {
	f, err := os.Open(full)
	if err != nil {
		c.diff(path, "%v", err)
		return
	}
	defer f.Close()
	var content tree.ReadAtCloser
	if n.Content != nil {
		if content, err = n.Content.Open(); err != nil {
			c.diff(path, "opening the content of the tree: %v", err)
			return
		}
		defer content.Close()
	}
	if c.a == nil {
		c.a, c.b = make([]byte, 1<<20), make([]byte, 1<<20)
	}
	for off := int64(0); off < n.Size; off += int64(len(c.a)) {
		a := c.a[:min(int64(len(c.a)), n.Size-off)]
		b := c.b[:len(a)]
		if _, err := f.ReadAt(a, off); err != nil {
			c.diff(path, "reading at %d: %v", off, err)
			return
		}
		if content == nil {
			clear(b)
		} else if m, err := content.ReadAt(b, off); m != len(b) || err != nil && err != io.EOF {
			c.diff(path, "reading the tree's content at %d: %d of %d bytes, %v", off, m, len(b), err)
			return
		}
		if !bytes.Equal(a, b) {
			for i := range a {
				if a[i] != b[i] {
					c.diff(path, "content differs at byte %d: %#02x on disk, %#02x in the tree", off+int64(i), a[i], b[i])
					return
				}
			}
		}
		if n.Data != nil && !zeroOutside(n.Data, a, off) {
			c.diff(path, "content in [%d +%d) is not zero outside the tree's extents", off, len(a))
			return
		}
	}
	for i, e := range n.Data {
		if e.Len <= 0 || e.Off < 0 || e.Off+e.Len > n.Size || i > 0 && n.Data[i-1].Off+n.Data[i-1].Len > e.Off {
			c.diff(path, "extent %d [%d +%d) of the tree is empty, outside the file or out of order", i, e.Off, e.Len)
		}
	}
}

// zeroOutside tells whether buf, the file's bytes from off on, is zero outside the extents.
func zeroOutside(data []tree.Extent, buf []byte, off int64) bool {
	pos, end := off, off+int64(len(buf))
	for _, e := range append(data[:len(data):len(data)], tree.Extent{Off: end}) {
		if stop := min(e.Off, end); stop > pos && !allZero(buf[pos-off:stop-off]) {
			return false
		}
		pos = max(pos, e.Off+e.Len)
		if pos >= end {
			break
		}
	}
	return true
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
