// Package cpio writes archives in the "newc" form, the one that Linux unpacks as an initramfs.
//
// Terms are those of Documentation/driver-api/early-userspace/buffer-format.rst in the kernel: an archive is a list of
// entries and a trailer, each a header of 110 ASCII bytes, a name and, for files and symlinks, data; names and data end
// at a multiple of four bytes. A kernel takes several archives one after the other, the later on top of the earlier, so
// an archive can be appended to an initrd that somebody else made.
//
// The same entries give the same bytes: they are sorted by path, belong to root, and have no times.
//
// Traps:
//   - The kernel makes no missing directories: WriteTo adds those above an entry, with mode 0755.
//   - In an archive that goes on top of another, a directory replaces a symlink of its name: on a merged-/usr initrd,
//     an entry below "bin" would take away the link to "usr/bin". Such an archive must name "usr/bin/...".
package cpio

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// File types in Entry.Mode, as in st_mode.
const (
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeBlock   = 0o060000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
	modeType    = 0o170000
)

const (
	magic      = "070701"
	trailer    = "TRAILER!!!"
	maxName    = 4095             // PATH_MAX of the kernel, with the NUL
	maxData    = 0xffffffff       // a field has eight hexadecimal digits
	blockBytes = 512              // an archive is padded to whole blocks, as GNU cpio does
	parentMode = ModeDir | 0o0755 // of directories that no entry names
)

// An Entry is one file of any type.
type Entry struct {
	Path         string // without a slash at either end, clean
	Mode         uint32 // st_mode: type and permissions
	Major, Minor uint32 // of a device node
	Data         []byte // content of a regular file, target of a symlink
}

// An Archive collects entries. The zero value is empty. It is not safe for concurrent use.
type Archive struct {
	entries map[string]Entry
	err     error // the first one, told by WriteTo
}

// File adds a regular file with these permissions. data must not change before WriteTo.
func (a *Archive) File(path string, perm uint32, data []byte) {
	a.Add(Entry{Path: path, Mode: ModeRegular | perm, Data: data})
}

// Dir adds a directory.
func (a *Archive) Dir(path string, perm uint32) { a.Add(Entry{Path: path, Mode: ModeDir | perm}) }

// Symlink adds a symbolic link.
func (a *Archive) Symlink(path, target string) {
	a.Add(Entry{Path: path, Mode: ModeSymlink | 0o777, Data: []byte(target)})
}

// Device adds a device node; kind is ModeChar or ModeBlock.
func (a *Archive) Device(path string, kind, perm, major, minor uint32) {
	a.Add(Entry{Path: path, Mode: kind | perm, Major: major, Minor: minor})
}

// Add adds an entry. WriteTo tells what is wrong with it.
func (a *Archive) Add(e Entry) {
	err := e.check()
	if _, twice := a.entries[e.Path]; twice && err == nil {
		err = errors.New("is there twice")
	}
	if err != nil {
		if a.err == nil {
			a.err = fmt.Errorf("cpio entry %q: %w", e.Path, err)
		}
		return
	}
	if a.entries == nil {
		a.entries = map[string]Entry{}
	}
	a.entries[e.Path] = e
}

func (e *Entry) check() error {
	for part := range strings.SplitSeq(e.Path, "/") {
		if part == "" || part == "." || part == ".." {
			return errors.New("the path is not clean")
		}
	}
	switch kind := e.Mode & modeType; {
	case strings.Contains(e.Path, "\x00") || len(e.Path) > maxName-1:
		return errors.New("the path is too long, or has a NUL in it")
	case e.Path == trailer:
		return errors.New("the name ends an archive")
	case int64(len(e.Data)) > maxData:
		return fmt.Errorf("%d bytes are more than the format holds", len(e.Data))
	case kind == ModeSymlink && len(e.Data) == 0:
		return errors.New("a symlink without a target")
	case (kind == ModeDir || kind == ModeChar || kind == ModeBlock) && len(e.Data) > 0:
		return errors.New("data where there can be none")
	case kind != ModeDir && kind != ModeChar && kind != ModeBlock && kind != ModeRegular && kind != ModeSymlink:
		return fmt.Errorf("mode %o is of no type known here", e.Mode)
	}
	return nil
}

// WriteTo writes the archive, with the directories that are missing. It may be called again and gives the same.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	if a.err != nil {
		return 0, a.err
	}
	all, err := a.withParents()
	if err != nil {
		return 0, err
	}
	out := &writer{w: w}
	for i, e := range all {
		out.entry(uint32(i+1), e)
	}
	out.entry(0, Entry{Path: trailer})
	out.pad(blockBytes)
	return out.n, out.err
}

// withParents returns the entries by path, parents first, none missing.
func (a *Archive) withParents() ([]Entry, error) {
	dirs := map[string]bool{}
	for path := range a.entries {
		for i, c := range path {
			if c != '/' {
				continue
			}
			parent := path[:i]
			if e, there := a.entries[parent]; there && e.Mode&modeType != ModeDir {
				return nil, fmt.Errorf("cpio entry %q lies below %q, which is no directory", path, parent)
			} else if !there {
				dirs[parent] = true
			}
		}
	}
	var all []Entry
	for _, e := range a.entries {
		all = append(all, e)
	}
	for path := range dirs {
		all = append(all, Entry{Path: path, Mode: parentMode})
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// A writer keeps the first error and the position.
type writer struct {
	w   io.Writer
	n   int64
	err error
}

func (w *writer) write(p []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(p)
		w.n += int64(n)
	}
}

// pad writes zeros up to a multiple of unit.
func (w *writer) pad(unit int64) { w.write(make([]byte, (unit-w.n%unit)%unit)) }

func (w *writer) entry(inode uint32, e Entry) {
	links := 1
	if e.Mode&modeType == ModeDir {
		links = 2
	}
	// Fields: inode, mode, uid, gid, links, mtime, size, major and minor of the device it lies on, of the one it is,
	// length of the name with its NUL, checksum (not of this form).
	w.write(fmt.Appendf(nil, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", magic,
		inode, e.Mode, 0, 0, links, 0, len(e.Data), 0, 0, e.Major, e.Minor, len(e.Path)+1, 0, e.Path))
	w.pad(4)
	w.write(e.Data)
	w.pad(4)
}
