package erofs

import (
	"sort"
	"strings"

	"bootprof/imagepack/tree"
)

const (
	maxShared      = 255       // ids of shared xattrs of one inode
	maxXattrValue  = 1<<16 - 1 // bytes; Linux itself allows one more
	bigXattr       = 1024      // bytes; an entry longer than that is shared even if used once
	goodInlineSize = 2048      // bytes of inode and xattrs beyond which further xattrs are shared
)

// xattrPlan is the shared xattr area.
type xattrPlan struct {
	sharedEntries []string // encoded entries, in order of first use
	sharedOff     []int64  // where each lies in the area
	sharedLen     int64
}

// xattrPrefixes are the name spaces of EROFS. The ACL names are complete: nothing follows them.
var xattrPrefixes = []struct {
	prefix string
	index  byte
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

// encodeXattr returns the on-disk entry of x, padded to 4 bytes.
func encodeXattr(x tree.Xattr, path string) (string, error) {
	if len(x.Value) > maxXattrValue {
		return "", limit(path, "extended attribute %q has %d bytes, at most %d fit", x.Name, len(x.Value), maxXattrValue)
	}
	if len(x.Name) > 255 {
		return "", limit(path, "extended attribute name %.40q... has %d bytes, at most 255 fit", x.Name, len(x.Name))
	}
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(x.Name, p.prefix)
		if !ok || strings.HasSuffix(p.prefix, ".") == (rest == "") || strings.Contains(rest, "\x00") {
			continue
		}
		n := xattrEntrySize + len(rest) + len(x.Value)
		b := make([]byte, alignUp(int64(n), 4))
		b[0], b[1] = byte(len(rest)), p.index
		le.PutUint16(b[2:], uint16(len(x.Value)))
		copy(b[xattrEntrySize:], rest)
		copy(b[xattrEntrySize+len(rest):], x.Value)
		return string(b), nil
	}
	return "", limit(path, "extended attribute %q: only user., trusted., security. and POSIX ACLs are known", x.Name)
}

// planXattrs decides which xattrs are shared and fills in the inline areas.
func (p *xattrPlan) planXattrs(files []*file) error {
	entries := make(map[*file][]string)
	uses := make(map[string]int)
	for _, f := range files {
		for i, x := range f.node.Xattrs {
			if i > 0 && f.node.Xattrs[i-1].Name >= x.Name {
				return limit(f.path, "extended attributes are not sorted: %q", x.Name)
			}
			e, err := encodeXattr(x, f.path)
			if err != nil {
				return err
			}
			entries[f] = append(entries[f], e)
			uses[e]++
		}
	}
	ids := make(map[string]int)
	for _, f := range files {
		if len(entries[f]) == 0 {
			continue
		}
		shared, inline, size := splitXattrs(entries[f], uses)
		if inodeExtendedSize+size > blockSize {
			return limit(f.path, "its %d extended attributes do not fit: 255 shared ones and 3 KiB of others do",
				len(entries[f]))
		}
		b := make([]byte, xattrHeaderSize, size)
		b[4] = byte(len(shared))
		for _, e := range shared {
			id, ok := ids[e]
			if !ok {
				id = len(p.sharedEntries)
				ids[e] = id
				p.sharedEntries = append(p.sharedEntries, e)
				p.sharedOff = append(p.sharedOff, p.sharedLen)
				p.sharedLen += int64(len(e))
			}
			// The id is the entry's position from the start of the area, in units of 4 bytes.
			b = le.AppendUint32(b, uint32(p.sharedOff[id]/4))
		}
		for _, e := range inline {
			b = append(b, e...)
		}
		f.xattrs = b
	}
	return nil
}

// splitXattrs sorts the entries of one inode into shared and inline ones and returns the length of the
// inode's xattr area. The largest entries are shared first.
func splitXattrs(entries []string, uses map[string]int) (shared, inline []string, size int) {
	for _, e := range entries {
		if (uses[e] > 1 || len(e) > bigXattr) && len(shared) < maxShared {
			shared = append(shared, e)
		} else {
			inline = append(inline, e)
		}
	}
	sort.SliceStable(inline, func(i, j int) bool { return len(inline[i]) > len(inline[j]) })
	size = xattrHeaderSize + 4*len(shared)
	for _, e := range inline {
		size += len(e)
	}
	for len(inline) > 0 && inodeExtendedSize+size > goodInlineSize && len(shared) < maxShared {
		shared = append(shared, inline[0])
		size += 4 - len(inline[0])
		inline = inline[1:]
	}
	return shared, inline, size
}
