package erofs

// The format of compressed files, as in fs/erofs/erofs_fs.h and zmap.c of Linux.
const (
	adviseCompact2B  = 0x01 // compact indexes of 2 bytes between those of 4
	adviseBig1       = 0x02 // pclusters of HEAD1 may have several blocks
	adviseBig2       = 0x04 // those of HEAD2 and PLAIN too
	adviseInline     = 0x08 // the last pcluster lies behind the indexes
	adviseInterlaced = 0x10 // plain data keeps its place in the block
	adviseFragment   = 0x20 // the last extent lies in the packed inode

	wholeFragment = 1 << 63 // in the header: the file lies in the packed inode as a whole

	lcPlain   = 0 // lcluster types
	lcHead1   = 1
	lcNonHead = 2
	lcHead2   = 3

	blockCountBit = 1 << 11 // in the distance of a NONHEAD: it is the pcluster's number of blocks
	lcPartial     = 1 << 15 // in a full index: the pcluster unpacks to more than the extent
	lcHole        = 1 << 14

	zHeaderSize   = 8
	fullIndexSize = 8
	packMax       = 16 // lclusters in a pack of compact indexes
)

// A zfile is a compressed file. Its content is cut into lclusters of a block each. An extent begins in an
// lcluster of a HEAD or PLAIN type, at any byte of it, and goes on through NONHEAD lclusters until the next one. It
// unpacks from one pcluster: one or more blocks of the image.
//
// Indexes are not kept in memory: see zindex.
type zfile struct {
	size    int64
	bits    uint // binary logarithm of the length of an lcluster
	full    bool // indexes of 8 bytes
	advise  uint16
	algs    [2]byte // of HEAD1 and HEAD2
	index   int64   // where in the image the first index lies
	headEnd int64   // and the last ends
	count   int64   // lclusters
	first4  int64   // compact indexes of 4 bytes at the start, before those of 2
	count2  int64   // compact indexes of 2 bytes

	inlineLen   int64 // bytes of the inline pcluster at headEnd; 0: none
	fragOff     int64 // in the packed inode
	whole       bool  // the file is one fragment and has no indexes
	packedInode bool  // this is the packed inode
}

// openCompressed reads the header of a compressed inode.
func (w *walker) openCompressed(n *inode) (*zfile, error) {
	z := &zfile{size: n.size, bits: w.blkBits, full: n.layout == layoutCompressedFull, headEnd: n.off + n.headLen}
	if n.size == 0 {
		return z, nil
	}
	start := z.headEnd
	off := alignUp(start, 8)
	var b [zHeaderSize]byte
	if err := w.meta.read(b[:], off); err != nil {
		return nil, err
	}
	z.headEnd = off + zHeaderSize
	z.index = z.headEnd
	if v := le.Uint64(b[:]); v&wholeFragment != 0 {
		z.whole, z.advise, z.fragOff = true, adviseFragment, int64(v&^wholeFragment)
		return z, w.spend(start, z.headEnd-start)
	}
	z.advise = le.Uint16(b[4:])
	z.algs = [2]byte{b[6] & 15, b[6] >> 4}
	if bits := b[7] & 15; bits != 0 {
		return nil, &UnsupportedError{"compressed clusters of 2^" + hex(uint64(bits)) + " blocks"}
	}
	switch {
	case z.advise&adviseFragment != 0:
		z.fragOff = int64(le.Uint32(b[0:]))
	case z.advise&adviseInline != 0:
		z.inlineLen = int64(le.Uint16(b[2:]))
	}
	if n.size > w.size<<16 { // an index of 2 bytes stands for 64 KiB at most
		return nil, corrupt(n.off, "a compressed file of %d bytes in an image of %d", n.size, w.size)
	}
	z.count = alignUp(n.size, 1<<z.bits) >> z.bits
	if z.full {
		z.index += 8 // unused
		z.headEnd = z.index + z.count*fullIndexSize
	} else if err := z.placeCompact(n); err != nil {
		return nil, err
	}
	if err := w.spend(start, z.headEnd-start); err != nil {
		return nil, err
	}
	if z.inlineLen > 0 {
		if z.headEnd&(1<<z.bits-1)+z.inlineLen > 1<<z.bits {
			return nil, corrupt(n.off, "inline data of %d bytes goes beyond its block", z.inlineLen)
		}
		return z, w.spend(z.headEnd, z.inlineLen)
	}
	return z, nil
}

// placeCompact finds which compact indexes have 4 bytes and which 2: packs of 16 of the latter lie on 32-byte
// borders.
func (z *zfile) placeCompact(n *inode) error {
	if big1, big2 := z.advise&adviseBig1 != 0, z.advise&adviseBig2 != 0; big1 != big2 {
		return corrupt(n.off, "inode %d has compact indexes and large pclusters of one type only", n.nid)
	}
	if z.bits > 14 || z.advise&adviseCompact2B != 0 && z.bits > 12 {
		return &UnsupportedError{"compact indexes of blocks of 2^" + hex(uint64(z.bits)) + " bytes"}
	}
	z.first4 = (32 - z.index%32) / 4 & 7
	if z.advise&adviseCompact2B != 0 && z.first4 < z.count {
		z.count2 = (z.count - z.first4) / 16 * 16
	}
	off, length, _ := z.pack(z.count - 1)
	z.headEnd = off + length
	return nil
}

// pack returns where the pack of indexes lies that lcn is in, and the lcluster it begins with.
func (z *zfile) pack(lcn int64) (imageOff, length, first int64) {
	if z.full {
		first = lcn / packMax * packMax
		return z.index + first*fullIndexSize, min(packMax, z.count-first) * fullIndexSize, first
	}
	off, unit, shift := z.index, int64(8), uint(2)
	at := lcn
	if lcn >= z.first4 {
		off += z.first4 * 4
		at -= z.first4
		if at < z.count2 {
			unit, shift = 32, 1
		} else {
			off += z.count2 * 2
			at -= z.count2
		}
	}
	off += at << shift
	in := off & (unit - 1)
	return off - in, unit, lcn - in>>shift
}

// An lcluster is an index.
type lcluster struct {
	typ     byte
	start   int64  // HEAD, PLAIN: where in the lcluster the extent begins
	block   uint32 // HEAD, PLAIN: address of the pcluster
	blocks  int32  // NONHEAD: length of the pcluster if it is told here, else -1
	partial bool
	hole    bool
}

// A zindex reads the indexes of a file, pack by pack. It is used by one goroutine.
type zindex struct {
	*zfile
	im    *image
	r     metaReader
	first int64 // lcluster of got[0]
	n     int64 // of got
	got   [packMax]lcluster
	raw   [packMax * fullIndexSize]byte
}

// at returns the index of lcluster lcn, which is less than count.
func (x *zindex) at(lcn int64) (*lcluster, error) {
	if lcn < x.first || lcn >= x.first+x.n {
		off, length, first := x.pack(lcn)
		b := x.raw[:length]
		x.n = 0
		if err := x.r.read(b, off); err != nil {
			return nil, err
		}
		if x.full {
			x.decodeFull(b)
		} else {
			x.decodeCompact(b)
		}
		x.first = first
	}
	l := &x.got[lcn-x.first]
	switch {
	case l.typ != lcNonHead && l.start >= 1<<x.bits:
		return nil, corrupt(x.index, "compressed cluster %d begins at byte %d of its block", lcn, l.start)
	case l.typ == lcNonHead && l.blocks >= 0 && x.advise&(adviseBig1|adviseBig2) == 0:
		return nil, corrupt(x.index, "compressed cluster %d has a length in a file without large pclusters", lcn)
	}
	return l, nil
}

func (x *zindex) decodeFull(b []byte) {
	for ; len(b) > 0; b = b[fullIndexSize:] {
		advise := le.Uint16(b)
		l := lcluster{typ: byte(advise & 3), blocks: -1}
		if l.typ == lcNonHead {
			if d := le.Uint16(b[4:]); d&blockCountBit != 0 {
				l.blocks = int32(d &^ blockCountBit)
			}
		} else {
			l.start, l.block = int64(le.Uint16(b[2:])), le.Uint32(b[4:])
			l.partial, l.hole = advise&lcPartial != 0, advise&lcHole != 0
		}
		x.got[x.n] = l
		x.n++
	}
}

// decodeCompact decodes a pack of bit fields, each a type above a start or distance, with one address in the last
// 4 bytes: that of the first pcluster that begins in the pack, which the others follow.
func (x *zindex) decodeCompact(b []byte) {
	items := 2
	if len(b) == 32 {
		items = packMax
	}
	low := max(x.bits, 12)
	width := (len(b)*8 - 32) / items
	big := x.advise&adviseBig1 != 0
	block := le.Uint32(b[len(b)-4:])
	if !big {
		block++ // then the address told is one less
	}
	for i := range items {
		bit := i * width
		v := le.Uint32(b[bit/8:]) >> (bit & 7)
		l := lcluster{typ: byte(v >> low & 3), blocks: -1}
		v &= 1<<low - 1
		switch {
		case l.typ != lcNonHead:
			l.start, l.block = int64(v), block
			block++
		case v&blockCountBit != 0:
			l.blocks = int32(v &^ blockCountBit)
			if i > 0 && x.got[i-1].typ != lcNonHead {
				block-- // counted as one block
			}
			block += uint32(l.blocks)
		}
		x.got[i] = l
	}
	x.n = int64(items)
}
