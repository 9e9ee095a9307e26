// Package tree is the model of a file-system tree that stands between the inputs of a pack (a
// directory, a tar, a squashfs) and the image writers.
//
// A tree is a graph of inodes: a hard-link group is one *Inode reached through several entries. Names
// and symlink targets are raw bytes held in strings, never assumed to be UTF-8. Modes are st_mode as
// Linux has it, file type included, not fs.FileMode.
//
// A finished tree is read-only and safe for concurrent use.
package tree

import (
	"io"
	"sort"
)

// File types of Inode.Mode, as in <linux/stat.h>.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
)

// An Inode is one file of any type.
type Inode struct {
	Mode       uint32 // st_mode: type, setuid, setgid, sticky, permissions
	UID, GID   uint32
	MtimeSec   int64  // seconds since 1970, may be negative
	MtimeNsec  uint32 // 0 to 999,999,999; 0 where the source has whole seconds only
	RdevMajor  uint32 // block and character devices
	RdevMinor  uint32
	Xattrs     []Xattr // sorted by name, no name twice
	LinkTarget string  // symlinks
	Entries    []Entry // directories: sorted by name, bytewise, without "." and ".."

	Size    int64    // regular files: length in bytes
	Content Content  // regular files with Size > 0; nil means all zero
	Data    []Extent // regular files: where data is; nil means no known holes. Sorted, disjoint, inside Size
}

// Type returns the file type bits of the mode.
func (n *Inode) Type() uint32 { return n.Mode & ModeType }

// IsDir tells whether n is a directory.
func (n *Inode) IsDir() bool { return n.Type() == ModeDir }

// An Entry is a name in a directory.
type Entry struct {
	Name  string // 1 to 255 bytes, no '/' and no NUL
	Inode *Inode
}

// An Xattr is an extended attribute under its full name ("security.capability").
type Xattr struct {
	Name  string
	Value []byte
}

// An Extent is the part [Off, Off+Len) of a file, in bytes.
type Extent struct{ Off, Len int64 }

// A Content gives access to a regular file's bytes. Open may be called many times and from several
// goroutines; what it returns is used by one goroutine at a time and closed by the caller. A content
// that changed since the tree was read (another size) is an error of ReadAt, never silent zeros.
type Content interface {
	Open() (ReadAtCloser, error)
}

// ReadAtCloser is an open Content.
type ReadAtCloser interface {
	io.ReaderAt
	io.Closer
}

// Lookup returns the entry called name, or nil.
func (n *Inode) Lookup(name string) *Inode {
	i := sort.Search(len(n.Entries), func(i int) bool { return n.Entries[i].Name >= name })
	if i < len(n.Entries) && n.Entries[i].Name == name {
		return n.Entries[i].Inode
	}
	return nil
}

// Walk calls f for the root (path "") and for every entry below it, parents first and names in order.
// Paths have no leading slash. A hard-linked inode is visited once for each of its names. It stops at
// the first error and returns it.
func Walk(root *Inode, f func(path string, n *Inode) error) error {
	return walk("", root, f)
}

func walk(path string, n *Inode, f func(string, *Inode) error) error {
	if err := f(path, n); err != nil {
		return err
	}
	for _, e := range n.Entries {
		p := e.Name
		if path != "" {
			p = path + "/" + e.Name
		}
		if err := walk(p, e.Inode, f); err != nil {
			return err
		}
	}
	return nil
}
