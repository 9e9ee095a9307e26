package erofs

import (
	"fmt"
	"slices"
	"strings"

	"bootprof/imagepack/tree"
)

// Options are the choices in an image that do not come from the tree. The zero value is fine.
type Options struct {
	BuildTimeSec  int64    // Unix seconds, for the superblock only; 0: the epoch
	BuildTimeNsec uint32   // 0 to 999,999,999
	UUID          [16]byte // zero: derived from the metadata
	Label         string   // volume label, at most 15 bytes without NUL

	// TailMax is the size in bytes up to which files have their last, partial block packed behind their
	// inode (FLAT_INLINE). 0, as any value under 4096: only files that fit there as a whole. With larger
	// values fewer pages are touched when whole files are read, but inodes spread over more pages, and
	// small inodes come to hold block addresses (see the package comment). Debian booted to
	// multi-user.target touches 3020 pages with 0, 3015 with 16 KiB and 3013 without a limit, and 3171 of
	// an image by mkfs.erofs.
	TailMax int64
}

// A LimitError says that a file cannot be expressed in EROFS.
type LimitError struct {
	Path   string // no leading slash, "" is the root
	Reason string
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("EROFS cannot hold %q: %s", "/"+e.Path, e.Reason)
}

func limit(path, format string, args ...any) error {
	return &LimitError{path, fmt.Sprintf(format, args...)}
}

// A run is a part of a file's content that lies in one piece in the image.
type run struct{ fileOff, imageOff, length int64 }

// A file is an inode of the tree with its place in the image. Offsets are relative to their region until
// all regions are laid out.
type file struct {
	node   *tree.Inode
	path   string // of its first name
	parent *file  // directories: where ".." points, the root's own for the root
	nlink  uint32

	size      int64  // i_size: content, symlink target or directory entries
	layout    byte   // layoutPlain, layoutInline or layoutChunked
	chunkBits byte   // layoutChunked: binary logarithm of the chunk size
	small     bool   // the inode lies in the small region
	xattrs    []byte // inline xattr area: header, ids of shared ones, entries

	off  int64 // of the inode
	tail int64 // bytes of content behind the inode and its xattrs
	runs []run // content in blocks; one for plain and inline layouts, none if it is all in the tail
	cuts []int // directories: index of the first entry of each block
}

// headLen returns the length of the inode with its xattrs and chunk map.
func (f *file) headLen() int64 {
	n := int64(inodeExtendedSize + len(f.xattrs))
	if f.layout == layoutChunked {
		n += f.chunks() * 4
	}
	return n
}

// chunks returns the number of entries of the chunk map.
func (f *file) chunks() int64 { return (f.size + 1<<f.chunkBits - 1) >> f.chunkBits }

// A plan is the state that the phases of Plan share.
type plan struct {
	files []*file // each directory followed by the files first found in it
	index map[*tree.Inode]*file
	xattrPlan
}

// Plan lays out the image of root. It reads no file contents. The tree must not change while the image is
// in use. A file that EROFS cannot express is a *LimitError.
func Plan(root *tree.Inode, opts Options) (*Image, error) {
	if len(opts.Label) > 15 || strings.Contains(opts.Label, "\x00") {
		return nil, fmt.Errorf("volume label %q: it may have at most 15 bytes, none of them NUL", opts.Label)
	}
	if opts.BuildTimeNsec > maxNsec {
		return nil, fmt.Errorf("the build time has %d nanoseconds, at most %d are possible", opts.BuildTimeNsec, maxNsec)
	}
	if root == nil || !root.IsDir() {
		return nil, fmt.Errorf("the root of an image must be a directory")
	}
	p := &plan{index: make(map[*tree.Inode]*file)}
	if err := p.collect(root); err != nil {
		return nil, err
	}
	if err := p.planXattrs(p.files); err != nil {
		return nil, err
	}
	regions, err := p.layout(opts)
	if err != nil {
		return nil, err
	}
	return p.emit(regions, opts)
}

// collect enters all inodes: each directory, then its files, then its subdirectories with all below them.
func (p *plan) collect(root *tree.Inode) error {
	r, err := p.enter(root, "", nil)
	if err != nil {
		return err
	}
	r.parent = r
	for stack := []*file{r}; len(stack) > 0; {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		p.files = append(p.files, d)
		d.nlink = 2
		below := len(stack)
		prev := ""
		for _, e := range d.node.Entries {
			path := e.Name
			if d.path != "" {
				path = d.path + "/" + e.Name
			}
			if err := checkName(e.Name, prev, path); err != nil {
				return err
			}
			prev = e.Name
			f, known := p.index[e.Inode]
			if !known {
				if f, err = p.enter(e.Inode, path, d); err != nil {
					return err
				}
			}
			switch {
			case known && f.node.IsDir():
				return limit(path, "the directory is also %q; directories have one name", "/"+f.path)
			case known:
				f.nlink++
				// A map knows a hard-linked file by its first path in the order of tree.Walk, which
				// is not the order of this loop.
				if walkLess(path, f.path) {
					f.path = path
				}
			case f.node.IsDir():
				d.nlink++
				stack = append(stack, f)
			default:
				p.files = append(p.files, f)
			}
		}
		slices.Reverse(stack[below:])
	}
	return nil
}

// enter checks an inode met for the first time and gives it a file.
func (p *plan) enter(n *tree.Inode, path string, parent *file) (*file, error) {
	if n == nil {
		return nil, limit(path, "the entry has no inode")
	}
	if err := checkInode(n, path); err != nil {
		return nil, err
	}
	f := &file{node: n, path: path, nlink: 1}
	if n.IsDir() {
		f.parent = parent
	}
	p.index[n] = f
	return f, nil
}

// walkLess tells whether tree.Walk comes to path a before b: it compares name by name.
func walkLess(a, b string) bool {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := a[i], b[i]; x != y {
			if x == '/' || y == '/' {
				return x == '/'
			}
			return x < y
		}
	}
	return len(a) < len(b)
}
