package ext4

const (
	extentMagic   = 0xf30a
	extentLen     = 12 // bytes of an extent, of an index entry and of the header before them
	maxExtentTree = 5  // levels below the root
	unwrittenBit  = 1 << 15
	maxFileBlocks = 1 << 32
	noRunYet      = -1
)

// A run is n blocks of a file that lie one after the other in the image.
type run struct {
	fileBlk, n int64
	blk        int64
	unwritten  bool // reads as zeros
}

// A runner finds the runs of one file. node is called for every block of the file's extent or indirect
// trees before it is read, found for every run, by increasing fileBlk. Runs may lie behind the file's end.
type runner struct {
	r     *Reader
	src   source
	n     *inode
	node  func(blk int64) error
	found func(run) error

	end     int64 // file block after the last run
	pending run   // of indirect blocks: it may grow
}

func (r *Reader) runs(src source, n *inode, node func(int64) error, found func(run) error) error {
	w := &runner{r: r, src: src, n: n, node: node, found: found}
	if n.has(flagExtents) {
		return w.extents(n.blockField(), noRunYet)
	}
	return w.indirect()
}

func (w *runner) check(blk, n int64) error {
	if blk <= 0 || n > w.r.s.blocks || blk > w.r.s.blocks-n {
		return corrupt("inode %d has the blocks [%d +%d) of %d", w.n.ino, blk, n, w.r.s.blocks)
	}
	return nil
}

// block reads a block of one of the trees.
func (w *runner) block(blk int64) ([]byte, error) {
	if err := w.check(blk, 1); err != nil {
		return nil, err
	}
	if err := w.node(blk); err != nil {
		return nil, err
	}
	b := make([]byte, w.r.s.blockSize)
	return b, w.src(b, blk*w.r.s.blockSize)
}

// extents walks one node of the extent tree. depth is the level it must have above the leaves, or noRunYet for
// the root.
func (w *runner) extents(b []byte, depth int) error {
	entries, limit, level := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	switch {
	case le.Uint16(b) != extentMagic:
		return corrupt("inode %d: a node of its extents has the magic %#x", w.n.ino, le.Uint16(b))
	case depth == noRunYet && level > maxExtentTree || depth != noRunYet && level != depth:
		return corrupt("inode %d: its extents are %d levels deep", w.n.ino, level)
	case entries > limit || extentLen*(1+limit) > len(b):
		return corrupt("inode %d: %d of %d extents in a node of %d bytes", w.n.ino, entries, limit, len(b))
	case depth != noRunYet && w.r.s.metaCsum() && !extentSumOK(w.n.seed, b):
		return corrupt("inode %d: wrong checksum of its extents", w.n.ino)
	}
	for i := range entries {
		e := b[extentLen*(1+i):]
		first := int64(le.Uint32(e))
		if first < w.end {
			return corrupt("inode %d: its extents overlap at block %d of the file", w.n.ino, first)
		}
		if level > 0 {
			below, err := w.block(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
			if err != nil {
				return err
			}
			if err := w.extents(below, level-1); err != nil {
				return err
			}
			continue
		}
		r := run{fileBlk: first, n: int64(le.Uint16(e[4:])), blk: int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32}
		if r.n > unwrittenBit {
			r.n, r.unwritten = r.n-unwrittenBit, true
		}
		if err := w.check(r.blk, r.n); err != nil {
			return err
		}
		if w.end = first + r.n; r.n == 0 || w.end > maxFileBlocks {
			return corrupt("inode %d: an extent of %d blocks at block %d of the file", w.n.ino, r.n, first)
		}
		if err := w.found(r); err != nil {
			return err
		}
	}
	return nil
}

// indirect walks the twelve direct blocks and the three trees of indirect blocks.
func (w *runner) indirect() error {
	if err := w.pointers(w.n.blockField()[:48], 0); err != nil {
		return err
	}
	for level := 1; level <= 3; level++ {
		if err := w.pointers(w.n.blockField()[44+4*level:][:4], level); err != nil {
			return err
		}
	}
	return w.flush()
}

// pointers walks block numbers below which there are level levels of indirect blocks.
func (w *runner) pointers(b []byte, level int) error {
	span := int64(1)
	for range level {
		span *= w.r.s.blockSize / 4
	}
	for ; len(b) > 0; b = b[4:] {
		blk := int64(le.Uint32(b))
		if blk == 0 || w.end >= maxFileBlocks {
			w.end += span
			continue
		}
		if level > 0 {
			below, err := w.block(blk)
			if err != nil {
				return err
			}
			if err := w.pointers(below, level-1); err != nil {
				return err
			}
			continue
		}
		if err := w.check(blk, 1); err != nil {
			return err
		}
		if p := &w.pending; p.n > 0 && p.fileBlk+p.n == w.end && p.blk+p.n == blk {
			p.n++
		} else {
			if err := w.flush(); err != nil {
				return err
			}
			w.pending = run{fileBlk: w.end, n: 1, blk: blk}
		}
		w.end++
	}
	return nil
}

func (w *runner) flush() error {
	r := w.pending
	if w.pending.n = 0; r.n == 0 {
		return nil
	}
	return w.found(r)
}
