package erofs

import (
	"fmt"
	"hash/fnv"
	"sort"

	"bootprof/imagepack/tree"
)

// Tuning of clusters, in bytes. A region's cluster ends at the first chosen directory after it has the
// least length, and is filled up to a multiple of the unit: growth by n bytes moves what comes after the
// cluster in n of unit cases.
const (
	denseUnit, denseCluster = 16 << 10, 128 << 10
	dirsUnit, dirsCluster   = 16 << 10, 128 << 10
	smallUnit, smallCluster = 64 << 10, 1 << 20
	dataUnit, dataCluster   = 512 << 10, 8 << 20

	clusterMask = 3 // every fourth directory is chosen, by the hash of its path
)

// A region is a part of the image that is filled from front to back.
type region struct {
	unit, least int64 // length of a cluster: a multiple of unit, at least least
	cur         int64 // where the next file goes
	start       int64 // of the current cluster
	base        int64 // of the region in the image, known at the end
}

// cut ends the current cluster if it is long enough, leaving room for it to grow.
func (r *region) cut() {
	if r.cur-r.start >= r.least {
		r.cur = alignUp(r.cur, r.unit)
		r.start = r.cur
	}
}

// inode finds room for an inode of head bytes and a tail behind it. Both lie in one block, unless the
// head alone is longer than that.
func (r *region) inode(head, tail int64) int64 {
	off := alignUp(r.cur, nidUnit)
	if n := head + tail; n <= blockSize && off>>blockBits != (off+n-1)>>blockBits {
		off = alignUp(off, blockSize)
	}
	r.cur = off + head + tail
	return off
}

// blocks finds room for n bytes that start on a block.
func (r *region) blocks(n int64) int64 {
	off := r.cur
	r.cur += alignUp(n, blockSize)
	return off
}

// regions are the parts of an image, in image order.
type regions struct {
	dense, shared, dirs, small, data region

	tailMax int64 // Options.TailMax, or its default
}

func (r *regions) all() []*region {
	return []*region{&r.dense, &r.shared, &r.dirs, &r.small, &r.data}
}

// layout gives every file its place in its region, then the regions theirs in the image.
func (p *plan) layout(opts Options) (*regions, error) {
	r := &regions{
		dense:   region{unit: denseUnit, least: denseCluster, cur: superOff + superSize},
		shared:  region{unit: blockSize, cur: p.sharedLen},
		dirs:    region{unit: dirsUnit, least: dirsCluster},
		small:   region{unit: smallUnit, least: smallCluster},
		data:    region{unit: dataUnit, least: dataCluster},
		tailMax: max(opts.TailMax, blockSize),
	}
	for _, f := range p.files {
		switch f.node.Type() {
		case tree.ModeDir:
			r.placeDir(f)
		case tree.ModeRegular:
			r.placeRegular(f)
		case tree.ModeSymlink:
			r.placeBytes(f, int64(len(f.node.LinkTarget)))
		default:
			f.off = r.dense.inode(f.headLen(), 0)
		}
		if r.data.cur > maxBlocks<<blockBits {
			return nil, fmt.Errorf("the image is over 16 TiB at %q, more than EROFS can address", "/"+f.path)
		}
	}
	end := int64(0)
	for _, g := range r.all() {
		g.cut()
		g.base = end
		end += alignUp(g.cur, blockSize)
	}
	if end > maxBlocks<<blockBits {
		return nil, fmt.Errorf("the image would have %d bytes, EROFS ends at 16 TiB", end)
	}
	for _, f := range p.files {
		inodes, blocks := &r.dense, &r.dirs
		if f.small {
			inodes = &r.small
		}
		if f.node.Type() == tree.ModeRegular {
			blocks = &r.data
		}
		f.off += inodes.base
		for i := range f.runs {
			f.runs[i].imageOff += blocks.base
		}
	}
	return r, nil
}

// placeDir starts a directory: a new cluster may begin with it.
func (r *regions) placeDir(f *file) {
	h := fnv.New32a()
	h.Write([]byte(f.path))
	if h.Sum32()&clusterMask == 0 {
		for _, g := range r.all() {
			g.cut()
		}
	}
	used := 0
	for i, e := range dirEntries(f) {
		need := direntSize + len(e.Name)
		if len(f.cuts) == 0 || used+need > blockSize {
			f.cuts = append(f.cuts, i)
			used = 0
		}
		used += need
	}
	r.placeBytes(f, int64(len(f.cuts)-1)<<blockBits+int64(used))
}

// placeBytes places a directory or symlink with n bytes: the last block behind the inode if it fits, the
// blocks before it in the dirs region.
func (r *regions) placeBytes(f *file, n int64) {
	f.size = n
	f.tail = n % blockSize
	f.layout = layoutInline
	// Linux takes no symlink with both a block and a tail; there is none, as 4095 bytes are the limit.
	if f.tail == 0 || f.headLen()+f.tail > blockSize {
		f.layout, f.tail = layoutPlain, 0
	}
	if whole := n - f.tail; whole > 0 {
		f.runs = []run{{0, r.dirs.blocks(whole), whole}}
	}
	f.off = r.dense.inode(f.headLen(), f.tail)
}

// placeRegular places a regular file.
func (r *regions) placeRegular(f *file) {
	f.size = f.node.Size
	if f.size == 0 {
		f.off = r.dense.inode(f.headLen(), 0)
		return
	}
	if bits, runs := chunkLayout(f.node); runs != nil {
		f.layout, f.chunkBits, f.runs = layoutChunked, bits, runs
		for i := range f.runs {
			f.runs[i].imageOff = r.data.blocks(f.runs[i].length)
		}
		f.off = r.dense.inode(f.headLen(), 0)
		return
	}
	f.tail = f.size % blockSize
	f.layout = layoutInline
	if f.tail == 0 || f.size > r.tailMax || f.headLen()+f.tail > blockSize {
		f.layout, f.tail = layoutPlain, 0
	}
	if whole := f.size - f.tail; whole > 0 {
		f.runs = []run{{0, r.data.blocks(whole), whole}}
	}
	f.small = f.tail > 0
	if f.small {
		f.off = r.small.inode(f.headLen(), f.tail)
	} else {
		f.off = r.dense.inode(f.headLen(), 0)
	}
}

// dirEntries returns the entries of a directory as they are stored: with "." and "..", sorted by bytes.
// The two have no Inode.
func dirEntries(f *file) []tree.Entry {
	in := f.node.Entries
	out := make([]tree.Entry, 0, len(in)+2)
	for _, dot := range []string{".", ".."} {
		i := sort.Search(len(in), func(i int) bool { return in[i].Name > dot })
		out = append(append(out, in[:i]...), tree.Entry{Name: dot})
		in = in[i:]
	}
	return append(out, in...)
}
