package tree

import (
	"fmt"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrKept tells whether an attribute belongs to the file rather than to the file system it lies on:
// system.nfs4_acl, btrfs.compression and their like do not go into an image.
func xattrKept(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") ||
		strings.HasPrefix(name, "security.") ||
		name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// xattrs reads the extended attributes of full. Most files have none: that costs one system call.
func (w *dirWalk) xattrs(full string) (out []Xattr, err error) {
	err = withPath(full, func(path string) error {
		out, err = w.xattrsAt(path, full)
		return err
	})
	return out, err
}

// xattrsAt reads those of the file that the kernel finds at path, and that is called full.
func (w *dirWalk) xattrsAt(path, full string) ([]Xattr, error) {
	var n int
	for {
		var err error
		n, err = unix.Llistxattr(path, w.list)
		if err == unix.ERANGE {
			w.list = make([]byte, 2*len(w.list))
			continue
		}
		if err == unix.ENOTSUP || err == nil && n == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing the extended attributes of %q: %w", full, err)
		}
		break
	}
	var out []Xattr
	for _, name := range strings.Split(strings.TrimSuffix(string(w.list[:n]), "\x00"), "\x00") {
		if !xattrKept(name) {
			continue
		}
		v, err := xattrValue(path, name)
		if err == unix.ENODATA {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("reading the extended attribute %q of %q: %w", name, full, err)
		}
		out = append(out, Xattr{name, v})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func xattrValue(full, name string) ([]byte, error) {
	v := make([]byte, 256)
	for {
		n, err := unix.Lgetxattr(full, name, v)
		if err == unix.ERANGE {
			v = make([]byte, 16*len(v)) // values have at most 64 KiB
			continue
		}
		if err != nil {
			return nil, err
		}
		return v[:n:n], nil
	}
}

// dataExtents asks the file system where the file full of size bytes has data. A file system that keeps
// no account of holes answers with one extent.
func dataExtents(full string, size int64) ([]Extent, error) {
	f, err := openFile(full)
	if err != nil {
		return nil, fmt.Errorf("looking for holes: %w", err)
	}
	defer f.Close()
	fd := int(f.Fd())
	ext := []Extent{} // a file that is one hole has extents, none
	for off := int64(0); off < size; {
		start, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err == unix.EINVAL {
			return nil, nil // not supported here: no known holes
		}
		var end int64
		if err == nil {
			end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, fmt.Errorf("looking for holes in %q at %d: %w", full, off, err)
		}
		if end = min(end, size); start >= size || end <= start {
			break
		}
		ext = append(ext, Extent{start, end - start})
		off = end
	}
	if len(ext) == 1 && ext[0] == (Extent{0, size}) {
		return nil, nil
	}
	return ext, nil
}
