package ext4

import (
	"fmt"
	"sort"

	"bootprof/imagepack/imagemap"
)

// mapInode adds the segment of an inode and returns its path.
func (b *builder) mapInode(in *inode, at *place) (string, error) {
	path := at.path()
	if b.paths -= int64(len(path)); b.paths < 0 {
		// A sound image of this kind may exist: names of 255 bytes, 2048 directories deep.
		return "", &UnsupportedError{fmt.Sprintf("whose files' paths are longer than half of its %d bytes", b.r.info.BytesUsed), ""}
	}
	b.segs = append(b.segs, imagemap.Segment{ImageOff: in.imageOff, ImageLen: b.r.s.inodeSize, Path: path, Kind: imagemap.Inode})
	return path, nil
}

// mapRun adds the segment of a run of the file at path. Blocks behind the file's end are Meta.
func (b *builder) mapRun(in *inode, r run, path string, kind imagemap.Kind) {
	if !b.mapping {
		return
	}
	if kind == imagemap.Meta {
		b.addMeta(blockRange{r.blk, r.n})
		return
	}
	if r.unwritten {
		return
	}
	bs := b.r.s.blockSize
	off := r.fileBlk * bs
	length := max(0, min(r.n*bs, in.size-off))
	if used := (length + bs - 1) / bs; used < r.n {
		b.addMeta(blockRange{r.blk + used, r.n - used})
	}
	b.addSegment(imagemap.Segment{ImageOff: r.blk * bs, ImageLen: length, Path: path, FileOff: off, FileLen: length, Kind: kind})
}

// mapInline adds the segments of inline data.
func (b *builder) mapInline(in *inode, p [2]piece, path string, kind imagemap.Kind) {
	off := int64(0)
	for _, p := range p {
		length := min(int64(p.n), in.size-off)
		b.addSegment(imagemap.Segment{ImageOff: in.imageOff + int64(p.off), ImageLen: length, Path: path,
			FileOff: off, FileLen: length, Kind: kind})
		off += length
	}
}

// addSegment adds a segment, or lets the one before it grow if it goes on where that ends.
func (b *builder) addSegment(s imagemap.Segment) {
	if !b.mapping || s.ImageLen <= 0 {
		return
	}
	if s.Kind == imagemap.Inode {
		s.FileOff, s.FileLen = 0, 0
	} else if k := len(b.segs) - 1; k >= 0 {
		last := &b.segs[k]
		if last.Kind == s.Kind && last.Path == s.Path && last.ImageOff+last.ImageLen == s.ImageOff &&
			last.FileOff+last.FileLen == s.FileOff {
			last.ImageLen += s.ImageLen
			last.FileLen += s.FileLen
			return
		}
	}
	b.segs = append(b.segs, s)
}

// mapInner finds the blocks of the file system's own files: journal, quotas, bad blocks, what is reserved for
// group descriptors, orphans.
func (b *builder) mapInner() error {
	s := &b.r.s
	if s.mmpBlock > 0 && s.mmpBlock < s.blocks {
		b.addMeta(blockRange{s.mmpBlock, 1})
	}
	nodes := newBitmap(s.blocks)
	for _, ino := range s.inner {
		if ino == 0 || ino > s.inodes || b.visited.take(int64(ino), 1) >= 0 {
			continue
		}
		in, err := b.r.readInner(b.read, ino)
		if err != nil {
			return err
		}
		if in.mode == 0 && ino != 1 || in.has(flagInline) {
			continue
		}
		// The inode of the descriptors names blocks that are claimed as such: only trees are checked.
		err = b.r.runs(b.read, in, func(blk int64) error {
			b.addMeta(blockRange{blk, 1})
			if nodes.take(blk, 1) >= 0 {
				return corrupt("inode %d: block %d is in it twice", ino, blk)
			}
			return nil
		}, func(r run) error {
			b.addMeta(blockRange{r.blk, r.n})
			return nil
		})
		if err != nil && !b.lenient {
			return err
		}
	}
	return nil
}

// metaSegments returns the segments of blocks that are no file's, without the inodes in them that are a file's.
func (b *builder) metaSegments() []imagemap.Segment {
	var inodes []int64
	for _, s := range b.segs {
		if s.Kind == imagemap.Inode && s.ImageLen == b.r.s.inodeSize {
			inodes = append(inodes, s.ImageOff)
		}
	}
	sort.Slice(inodes, func(i, j int) bool { return inodes[i] < inodes[j] })
	bs := b.r.s.blockSize
	var out []imagemap.Segment
	add := func(off, end int64) {
		if off < end {
			out = append(out, imagemap.Segment{ImageOff: off, ImageLen: end - off, Kind: imagemap.Meta})
		}
	}
	b.meta.ranges(b.r.s.blocks, func(first, n int64) {
		off, end := first*bs, (first+n)*bs
		for len(inodes) > 0 && inodes[0] < end {
			if inodes[0] >= off {
				add(off, inodes[0])
				off = inodes[0] + b.r.s.inodeSize
			}
			inodes = inodes[1:]
		}
		add(off, end)
	})
	return out
}
