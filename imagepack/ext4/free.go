package ext4

// A Range is the part [ImageOff, ImageOff+Len) of an image, in bytes.
type Range struct{ ImageOff, Len int64 }

// Free returns the ranges of the blocks that no file uses, in order. What is in them, remains of deleted files
// most likely, is never read. They are not known, an UnsupportedError, if the file system was not unmounted or has
// errors: its bitmaps may say that a file's blocks are free.
func (r *Reader) Free() ([]Range, error) {
	if r.info.NeedsRecovery || !r.info.Clean {
		return nil, &UnsupportedError{"that was not unmounted cleanly", "run e2fsck on it"}
	}
	s := &r.s
	used := newBitmap(s.blocks) // of groups whose bitmap was never written
	for g, gr := range r.groups {
		head, reserved := s.head(int64(g))
		used.take(head.first, head.n+reserved)
		used.take(gr.blockBitmap, 1)
		used.take(gr.inodeBitmap, 1)
		used.take(gr.inodeTable, s.tableBlocks())
	}
	free := newBitmap(s.blocks)
	bits := make([]byte, s.blockSize)
	for g, gr := range r.groups {
		if !gr.blockUninit {
			if err := r.readFull(bits, gr.blockBitmap*s.blockSize); err != nil {
				return nil, err
			}
			if s.metaCsum() && !s.bitmapSumOK(gr, bits) {
				return nil, corrupt("wrong checksum of the block bitmap of group %d", g)
			}
		}
		end := min(s.groupFirst(int64(g)+1), s.blocks)
		for i, at := 0, s.groupFirst(int64(g)); at < end; i, at = i+1, at+s.clusterBlocks {
			n := min(s.clusterBlocks, end-at)
			inUse := bits[i/8]>>(i%8)&1 != 0
			if gr.blockUninit {
				inUse = false
				for k := range n {
					inUse = inUse || used.has(at+k)
				}
			}
			if !inUse {
				free.take(at, n)
			}
		}
	}
	var out []Range
	free.ranges(s.blocks, func(first, n int64) {
		out = append(out, Range{first * s.blockSize, n * s.blockSize})
	})
	return out, nil
}
