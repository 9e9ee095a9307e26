package relayout

import (
	"sort"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
)

// A run is a range of the source that is moved as it is: the blocks of a file, or of several that share some, or a
// fragment block.
type run struct {
	off, len int64
	first    int   // touch
	touched  int64 // stored bytes of it that are touched
	newOff   int64
}

// touchedBlocks returns the blocks of a file of size bytes that a touch is in, as a half-open range. The tail counts
// as the last.
func touchedBlocks(t *Touch, size, blockSize int64) (begin, end int64) {
	off := max(0, t.FileOff)
	if t.Kind != imagemap.Data || t.Len <= 0 || off >= size {
		return 0, 0
	}
	length := min(t.Len, size-off)
	return off / blockSize, (off + length + blockSize - 1) / blockSize
}

// storedLen is the length of a file's blocks in the image.
func storedLen(n *squashfs.RawInode) int64 {
	sum := int64(0)
	for _, w := range n.Blocks {
		sum += squashfs.StoredLen(w)
	}
	return sum
}

// findRuns collects what is moved. Ranges that overlap are moved together, so that who shares them goes on to do
// so; together they are never longer than the source.
func (r *relayouter) findRuns() {
	var all []*run
	for _, n := range r.raw.Inodes {
		if n.Type != squashfs.RawFile {
			continue
		}
		if l := storedLen(n); l > 0 {
			all = append(all, &run{off: n.Start, len: l, first: never})
		}
	}
	for _, f := range r.frags {
		if f.moved() {
			u := &run{off: f.ImageOff, len: squashfs.StoredLen(f.Size), first: f.first()}
			if u.first < never {
				u.touched = u.len
			}
			all = append(all, u)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].off < all[j].off })
	for _, u := range all {
		if last := len(r.runs) - 1; last >= 0 && r.runs[last].off+r.runs[last].len > u.off {
			v := r.runs[last]
			v.len = max(v.len, u.off+u.len-v.off)
			v.first = min(v.first, u.first)
			v.touched += u.touched
			continue
		}
		r.runs = append(r.runs, u)
	}
}

// runAt returns the run that the stored byte at off of the source is in.
func (r *relayouter) runAt(off int64) *run {
	return r.runs[sort.Search(len(r.runs), func(i int) bool { return r.runs[i].off > off })-1]
}

// touchRuns notes which runs are touched, and how much of them.
func (r *relayouter) touchRuns() {
	type file struct {
		run  *run
		seen []bool // by block
	}
	files := map[*squashfs.RawInode]*file{}
	for i, t := range r.opts.Order {
		n := r.touched[i]
		if n == nil || n.Type != squashfs.RawFile {
			continue
		}
		begin, end := touchedBlocks(&t, n.Size, r.raw.BlockSize)
		end = min(end, int64(len(n.Blocks)))
		if begin >= end {
			continue
		}
		f := files[n]
		if f == nil {
			f = &file{seen: make([]bool, len(n.Blocks))}
			if storedLen(n) > 0 {
				f.run = r.runAt(n.Start)
			}
			files[n] = f
		}
		for b := begin; b < end; b++ {
			if l := squashfs.StoredLen(n.Blocks[b]); l > 0 && !f.seen[b] {
				f.seen[b] = true
				f.run.touched += l
				f.run.first = min(f.run.first, i)
			}
		}
	}
}
