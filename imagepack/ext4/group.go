package ext4

// A group is what is needed of a group descriptor. Numbers are of blocks.
type group struct {
	blockBitmap, inodeBitmap, inodeTable int64
	bitmapSum                            uint32 // of the block bitmap; 16 bits in short descriptors
	blockUninit                          bool   // the block bitmap was never written
}

// blockRange is n blocks from first on.
type blockRange struct{ first, n int64 }

// hasSuper tells whether a group begins with a copy of the superblock.
func (s *super) hasSuper(g int64) bool {
	switch {
	case g == 0:
		return true
	case s.compat&compatSparse2 != 0:
		return g == s.backups[0] || g == s.backups[1]
	case g == 1 || s.roCompat&roSparse == 0:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

func (s *super) superBlock() int64   { return superOff / s.blockSize }
func (s *super) descPerBlock() int64 { return s.blockSize / s.descSize }

// descBlocks returns how many blocks the descriptors of all groups take.
func (s *super) descBlocks() int64 {
	return (s.groupCount() + s.descPerBlock() - 1) / s.descPerBlock()
}

// descBlock returns where block i of the descriptors is. With meta_bg, those from firstMetaBG on are in the
// first group that they describe.
func (s *super) descBlock(i int64) int64 {
	if s.incompat&incompatMetaBG == 0 || i < s.firstMetaBG {
		return s.superBlock() + 1 + i
	}
	g := i * s.descPerBlock()
	at := s.groupFirst(g)
	if s.hasSuper(g) {
		at++
	}
	if s.blockSize == 1024 && i == 0 && s.firstData == 0 {
		at++ // bigalloc with blocks of 1 KiB: the superblock is block 1
	}
	return at
}

// head returns the copies of superblock and descriptors that a group begins with, and how many blocks reserved
// for descriptors follow them.
func (s *super) head(g int64) (h blockRange, reserved int64) {
	h.first = s.groupFirst(g)
	if s.hasSuper(g) {
		h.n = 1
	}
	if g == 0 {
		h.first, h.n = 0, s.superBlock()+1
	}
	per := s.descPerBlock()
	if s.incompat&incompatMetaBG == 0 || g/per < s.firstMetaBG {
		if s.hasSuper(g) {
			n := s.descBlocks()
			if s.incompat&incompatMetaBG != 0 {
				n = min(n, s.firstMetaBG)
			}
			h.n += n
			reserved = s.reservedGDT
		}
	} else if in := g % per; in == 0 || in == 1 || in == per-1 {
		h.n++
	}
	h.n = max(0, min(h.n, s.blocks-h.first))
	return h, min(reserved, s.blocks-h.first-h.n)
}

// readGroups reads the group descriptors.
func (r *Reader) readGroups() error {
	s := &r.s
	n := s.groupCount()
	r.groups = make([]group, 0, n)
	block := make([]byte, s.blockSize)
	for i := range s.descBlocks() {
		at := s.descBlock(i)
		if at >= s.blocks {
			return corrupt("group descriptors in block %d of %d", at, s.blocks)
		}
		if err := r.readFull(block, at*s.blockSize); err != nil {
			return err
		}
		for j := int64(0); j < s.descPerBlock() && int64(len(r.groups)) < n; j++ {
			g, err := r.parseGroup(block[j*s.descSize:(j+1)*s.descSize], len(r.groups))
			if err != nil {
				return err
			}
			r.groups = append(r.groups, g)
		}
	}
	return nil
}

func (r *Reader) parseGroup(d []byte, number int) (group, error) {
	s := &r.s
	wide := s.incompat&incompat64bit != 0
	block := func(off int) int64 {
		v := uint64(le.Uint32(d[off:]))
		if wide {
			v |= uint64(le.Uint32(d[off+0x20:])) << 32
		}
		return int64(v & (1<<62 - 1))
	}
	g := group{blockBitmap: block(0), inodeBitmap: block(4), inodeTable: block(8)}
	if s.metaCsum() && !r.info.NeedsRecovery && s.groupSum(d, uint32(number)) != le.Uint16(d[0x1e:]) {
		return g, corrupt("wrong checksum of the descriptor of group %d", number)
	}
	if g.bitmapSum = uint32(le.Uint16(d[0x18:])); wide {
		g.bitmapSum |= uint32(le.Uint16(d[0x38:])) << 16
	}
	// Without checksums of descriptors the flag means nothing.
	g.blockUninit = s.roCompat&(roGdtCsum|roMetaCsum) != 0 && le.Uint16(d[0x12:])&2 != 0
	for _, b := range []blockRange{{g.blockBitmap, 1}, {g.inodeBitmap, 1}, {g.inodeTable, s.tableBlocks()}} {
		if b.first == 0 || b.first > s.blocks-b.n {
			return g, corrupt("group %d has its bitmaps or inodes at block %d of %d", number, b.first, s.blocks)
		}
	}
	return g, nil
}
