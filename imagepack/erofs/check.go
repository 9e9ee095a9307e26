package erofs

import (
	"strings"

	"bootprof/imagepack/tree"
)

const maxNsec = 999_999_999

// maxFileSize limits files that are mostly holes: their chunk map is part of the metadata.
const maxFileSize = 1 << 50

// checkName says why an entry cannot be written, prev being the name before it.
func checkName(name, prev, path string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return limit(path, "%q is no name for a file", name)
	case len(name) > maxName:
		return limit(path, "its name has %d bytes, at most %d fit", len(name), maxName)
	case strings.ContainsAny(name, "/\x00"):
		return limit(path, "its name has a slash or NUL in it")
	case prev >= name && prev != "":
		return limit(path, "directory entries are not sorted: %q comes after %q", name, prev)
	}
	return nil
}

// checkInode says why an inode cannot be written. Xattrs are checked when they are encoded.
func checkInode(n *tree.Inode, path string) error {
	if n.MtimeNsec > maxNsec {
		return limit(path, "its time has %d nanoseconds", n.MtimeNsec)
	}
	switch n.Type() {
	case tree.ModeDir, tree.ModeFIFO, tree.ModeSocket:
	case tree.ModeRegular:
		return checkContent(n, path)
	case tree.ModeSymlink:
		if len(n.LinkTarget) == 0 || len(n.LinkTarget) > maxLink {
			return limit(path, "its target has %d bytes, 1 to %d are possible", len(n.LinkTarget), maxLink)
		}
	case tree.ModeBlock, tree.ModeChar:
		if n.RdevMajor >= 1<<12 || n.RdevMinor >= 1<<20 {
			return limit(path, "device number %d:%d is over 4095:1048575", n.RdevMajor, n.RdevMinor)
		}
	default:
		return limit(path, "unknown file type in mode %#o", n.Mode)
	}
	return nil
}

func checkContent(n *tree.Inode, path string) error {
	if n.Size < 0 || n.Size > maxFileSize {
		return limit(path, "its size is %d bytes, at most %d are possible", n.Size, int64(maxFileSize))
	}
	end := int64(0)
	for _, e := range n.Data {
		if e.Off < end || e.Len <= 0 || e.Off > n.Size || e.Len > n.Size-e.Off {
			return limit(path, "data extent [%d +%d) is out of order or beyond the size %d", e.Off, e.Len, n.Size)
		}
		end = e.Off + e.Len
	}
	return nil
}
