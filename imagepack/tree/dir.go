package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDepth is the deepest directory any input may have. It is what PATH_MAX allows a path to name, and
// keeps recursion and the cost of building paths bounded.
const maxDepth = 2048

// DirOptions says what of a directory becomes part of the tree. The zero value takes everything on the
// directory's own file system.
type DirOptions struct {
	Owner0      bool // every file belongs to 0:0, whoever owns it
	CrossMounts bool // descend into mounts below; else they are empty directories

	// Exclude are patterns, as of path.Match, of what to leave out with everything below it. One with a
	// slash is matched against the whole path in the tree ("/boot", "proc/*"), any other against the last
	// name ("*.o").
	Exclude []string

	memory int64 // bytes the tree may take, as NewBudget has it
}

// A ChangedError tells that a file of a live directory is no longer what it was when the tree was read.
type ChangedError struct {
	Path string
	What string // "size was 10, is 20"
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("reading %q: the file changed since the directory was read: %s", e.Path, e.What)
}

// FromDir reads the tree below path from the running system. Contents stay on disk: they are opened by path
// when asked for, and reading one that has another size or mtime than it had now is a ChangedError.
//
// A file that may not be read is an error here, not when its content is asked for. Paths may be longer than
// PATH_MAX; reaching those needs /proc. A file that disappears while the directory is read is left out. A
// directory on which another file system is mounted is there with the mounted root's attributes, empty; a
// btrfs subvolume that is not a mount of its own is not a border. Reading trusted.* attributes needs root.
func FromDir(ctx context.Context, path string, opts DirOptions) (*Inode, error) {
	ex, err := compileExcludes(opts.Exclude)
	if err != nil {
		return nil, err
	}
	w := &dirWalk{ctx: ctx, opts: opts, exclude: ex, linked: map[devIno]*Inode{}, list: make([]byte, 4096), memory: NewBudget(opts.memory)}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("reading directory %q: %w", path, err)
	}
	if st.Mode&ModeType != ModeDir {
		return nil, fmt.Errorf("reading directory %q: it is not a directory", path)
	}
	// The last component may be a symlink; all that follows uses the path with a slash, which follows it.
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return w.inode(path, "", &st, 0)
}

type devIno struct{ dev, ino uint64 }

type dirWalk struct {
	ctx     context.Context
	opts    DirOptions
	exclude excludes
	linked  map[devIno]*Inode // inodes with more than one link
	list    []byte            // buffer for attribute names
	memory  *Budget
}

// inode makes the inode of the file full, whose path in the tree is rel, and of everything below.
func (w *dirWalk) inode(full, rel string, st *unix.Stat_t, depth int) (*Inode, error) {
	id := devIno{uint64(st.Dev), st.Ino}
	if st.Nlink > 1 && st.Mode&ModeType != ModeDir {
		if n := w.linked[id]; n != nil {
			return n, nil
		}
	}
	n := &Inode{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		MtimeSec: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec),
	}
	if w.opts.Owner0 {
		n.UID, n.GID = 0, 0
	}
	var err error
	if n.Xattrs, err = w.xattrs(full); err != nil {
		return nil, err
	}
	switch n.Type() {
	case ModeDir:
		err = w.entries(n, full, rel, uint64(st.Dev), depth)
	case ModeRegular:
		if n.Size = st.Size; n.Size > 0 {
			n.Content = &diskFile{path: full, size: st.Size, mtime: st.Mtim}
			if err := readable(full); err != nil {
				return nil, fmt.Errorf("reading %q: %w", full, err)
			}
			if st.Blocks*512 < n.Size {
				n.Data, err = dataExtents(full, n.Size)
			}
		}
	case ModeSymlink:
		err = withPath(full, func(path string) error {
			n.LinkTarget, err = os.Readlink(path)
			return err
		})
	case ModeBlock, ModeChar:
		n.RdevMajor, n.RdevMinor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	if err == nil {
		err = w.take(n, len(full))
	}
	if err != nil {
		return nil, err
	}
	if st.Nlink > 1 && !n.IsDir() {
		w.linked[id] = n
	}
	return n, nil
}

// take counts the inode n and its attributes.
func (w *dirWalk) take(n *Inode, pathLen int) error {
	err := w.memory.Inode(n, pathLen)
	for _, x := range n.Xattrs {
		if err == nil {
			err = w.memory.Xattr(x)
		}
	}
	return err
}

// entries reads the directory full, on device dev, into n.
func (w *dirWalk) entries(n *Inode, full, rel string, dev uint64, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("reading directory %q: more than %d directories deep", full, maxDepth)
	}
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("reading directory %q: %w", full, err)
	}
	names, err := readNames(full)
	if err != nil {
		return fmt.Errorf("reading directory: %w", err)
	}
	sort.Strings(names)
	prefix, relPrefix := full, ""
	if !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	if rel != "" {
		relPrefix = rel + "/"
	}
	n.Entries = make([]Entry, 0, len(names))
	for _, name := range names {
		sub, subRel := prefix+name, relPrefix+name
		if w.exclude.match(subRel) {
			continue
		}
		if err := w.memory.Entry(name); err != nil {
			return err
		}
		var st unix.Stat_t
		err := lstat(sub, &st)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %q: %w", sub, err)
		}
		var child *Inode
		if st.Mode&ModeType == ModeDir && uint64(st.Dev) != dev && !w.opts.CrossMounts && isMountRoot(sub) {
			child, err = w.mountPoint(sub, &st)
		} else {
			child, err = w.inode(sub, subRel, &st, depth+1)
		}
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		n.Entries = append(n.Entries, Entry{name, child})
	}
	return nil
}

// mountPoint makes an empty directory of the mounted root full.
func (w *dirWalk) mountPoint(full string, st *unix.Stat_t) (*Inode, error) {
	x, err := w.xattrs(full)
	n := &Inode{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Xattrs: x,
		MtimeSec: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec)}
	if w.opts.Owner0 {
		n.UID, n.GID = 0, 0
	}
	return n, err
}

func readNames(dir string) (names []string, err error) {
	err = withPath(dir, func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		names, err = f.Readdirnames(-1)
		return err
	})
	return names, err
}

// isMountRoot tells a mounted root from the border of a btrfs subvolume, which also has a device number of
// its own. Kernels before 5.8 do not say: then every change of device is taken for a mount.
func isMountRoot(full string) bool {
	var stx unix.Statx_t
	err := withPath(full, func(path string) error {
		return unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &stx)
	})
	if err != nil || stx.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return true
	}
	return stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
