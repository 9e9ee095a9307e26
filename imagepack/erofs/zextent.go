package erofs

import (
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

// Where the bytes of an extent are. The first four are the algorithm numbers of the format.
const (
	algLZ4 = iota
	algLZMA
	algDeflate
	algZstd
	algMax = 15

	algShifted    = 16 // plainly, from the pcluster's start on
	algInterlaced = 17 // plainly, rotated: what is at the end of a block lies at the end of the pcluster
	algFragment   = 18 // in the packed inode
	algHole       = 19 // nowhere: zeros
)

// Limits of the format.
const (
	maxPcluster = 1 << 20  // bytes
	maxUnpacked = 12 << 20 // bytes of what one pcluster unpacks to
)

// A zextent is a part of a compressed file that unpacks from one pcluster, or is a hole or fragment.
type zextent struct {
	off, length int64 // in the file
	alg         byte
	partial     bool  // the pcluster may unpack to more than the extent
	imageOff    int64 // pcluster; fragment: offset in the packed inode
	imageLen    int64
}

func (e *zextent) end() int64 { return e.off + e.length }

// extent returns the extent that holds the byte at pos, which is less than size.
//
// Indexes tell their distance to the HEAD before and after. These are not used: a step is at most one pack, and
// what is not followed cannot lead in circles.
func (x *zindex) extent(pos int64) (zextent, error) {
	if x.whole {
		e := zextent{length: x.size, alg: algFragment, imageOff: x.fragOff}
		return e, x.check(&e)
	}
	lcn := pos >> x.bits
	l, err := x.at(lcn)
	if err != nil {
		return zextent{}, err
	}
	for l.typ == lcNonHead || lcn<<x.bits+l.start > pos {
		if lcn--; lcn < 0 {
			return zextent{}, corrupt(x.index, "compressed data of byte %d begins before the file", pos)
		}
		if l, err = x.at(lcn); err != nil {
			return zextent{}, err
		}
	}
	head := *l
	e := zextent{off: lcn<<x.bits + head.start, partial: head.partial}
	blocks, err := x.blocks(lcn, &head)
	if err != nil {
		return e, err
	}
	end := x.size
	for next := lcn + 1; next < x.count; next++ {
		if l, err = x.at(next); err != nil {
			return e, err
		}
		if l.typ != lcNonHead {
			end = min(end, next<<x.bits+l.start)
			break
		}
	}
	e.length = end - e.off
	e.imageOff, e.imageLen = int64(head.block)<<x.bits, blocks<<x.bits
	switch {
	case head.typ == lcPlain && x.advise&adviseInterlaced != 0:
		e.alg = algInterlaced
	case head.typ == lcPlain:
		e.alg = algShifted
	case head.typ == lcHead2:
		e.alg = x.algs[1]
	default:
		e.alg = x.algs[0]
	}
	switch last := end == x.size; {
	case last && x.inlineLen > 0:
		e.imageOff, e.imageLen = x.headEnd, x.inlineLen
	case last && x.advise&adviseFragment != 0:
		e.alg, e.imageOff = algFragment, x.fragOff
		if x.full {
			e.imageOff |= int64(head.block) << 32
		}
	case blocks == 0 || head.hole:
		e.alg = algHole
	}
	return e, x.check(&e)
}

// blocks returns the length in blocks of the pcluster that begins in lcluster lcn.
func (x *zindex) blocks(lcn int64, head *lcluster) (int64, error) {
	bit := uint16(adviseBig2)
	if head.typ == lcHead1 {
		bit = adviseBig1
	}
	if x.advise&bit == 0 || lcn+1 >= x.count {
		return 1, nil
	}
	next, err := x.at(lcn + 1)
	switch {
	case err != nil:
		return 0, err
	case next.typ != lcNonHead:
		return 1, nil
	case next.blocks < 0:
		return 0, corrupt(x.index, "compressed cluster %d does not tell the length of its pcluster", lcn+1)
	}
	return int64(next.blocks), nil
}

// check says why an extent cannot be read.
func (x *zindex) check(e *zextent) error {
	switch e.alg {
	case algHole:
		// Many files look for their fragments in one packed inode: no step there may be long.
		if x.packedInode && e.length > maxUnpacked {
			return corrupt(x.index, "a hole of %d bytes in the packed inode", e.length)
		}
		return nil
	case algFragment:
		if x.im.packed == nil {
			return corrupt(x.index, "a fragment, and no packed inode")
		}
		if size := x.im.packed.size; e.imageOff < 0 || e.imageOff > size || e.length > size-e.imageOff {
			return corrupt(x.index, "a fragment [%d +%d) of a packed inode of %d bytes", e.imageOff, e.length, size)
		}
		return nil
	}
	size := x.im.size
	switch {
	case e.length > maxUnpacked || e.imageLen > maxPcluster:
		return corrupt(e.imageOff, "a pcluster of %d bytes that unpacks to %d", e.imageLen, e.length)
	case e.imageOff > size || e.imageLen > size-e.imageOff:
		return corrupt(e.imageOff, "a pcluster [%d +%d) lies outside the image of %d bytes", e.imageOff, e.imageLen, size)
	case e.alg > algMax && e.length > e.imageLen, e.alg == algLZ4 && e.length > e.imageLen*256:
		return corrupt(e.imageOff, "a pcluster of %d bytes cannot hold %d", e.imageLen, e.length)
	}
	return nil
}

// checkCompressed reads all indexes and returns the parts that are not holes, nil if there are no holes. With more
// parts than an image of this size would have, holes are not told: they read as zeros all the same.
func (w *walker) checkCompressed(z *zfile) ([]tree.Extent, error) {
	x := &zindex{zfile: z, im: w.image, r: w.meta}
	data, holes := []tree.Extent{}, false
	for pos := int64(0); pos < z.size; {
		e, err := x.extent(pos)
		if err != nil {
			return nil, err
		}
		if w.tree && e.alg > algZstd && e.alg <= algMax {
			return nil, &UnsupportedError{"compression algorithm " + hex(uint64(e.alg))}
		}
		pos = e.end()
		switch k := len(data) - 1; {
		case e.alg == algHole:
			holes = true
		case k >= 0 && data[k].Off+data[k].Len == e.off:
			data[k].Len += e.length
		case w.pieces > 0:
			w.pieces--
			data = append(data, tree.Extent{Off: e.off, Len: e.length})
		}
	}
	if !holes || w.pieces == 0 {
		return nil, nil
	}
	return data, nil
}

// mapCompressed returns the content segments of a compressed file, without path and kind. What is over the budget of pieces is left out.
func (w *walker) mapCompressed(z *zfile) ([]imagemap.Segment, error) {
	x := &zindex{zfile: z, im: w.image, r: w.meta}
	var out []imagemap.Segment
	for pos := int64(0); pos < z.size; {
		e, err := x.extent(pos)
		if err != nil {
			return nil, err
		}
		pos = e.end()
		if e.alg != algFragment {
			out, err = w.mapExtent(out, &e, e.off, e.end(), e.off)
		} else {
			out, err = w.mapFragment(out, &e)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mapExtent appends the segments of the part [lo, hi) of an extent, which is at fileOff in the file to map.
func (w *walker) mapExtent(out []imagemap.Segment, e *zextent, lo, hi, fileOff int64) ([]imagemap.Segment, error) {
	if w.pieces <= 0 || e.alg == algHole {
		return out, nil
	}
	w.pieces--
	if e.alg < algShifted {
		return append(out, imagemap.Segment{ImageOff: e.imageOff, ImageLen: e.imageLen,
			FileOff: fileOff, FileLen: hi - lo}), nil
	}
	parts, err := w.plainParts(e)
	for _, p := range parts {
		from, to := max(p.fileOff, lo), min(p.fileOff+p.length, hi)
		if from < to {
			out = append(out, imagemap.Segment{ImageOff: p.imageOff + from - p.fileOff, ImageLen: to - from,
				FileOff: fileOff + from - lo, FileLen: to - from})
		}
	}
	return out, err
}

// mapFragment appends the segments of a fragment: those that its part of the packed inode has.
func (w *walker) mapFragment(out []imagemap.Segment, f *zextent) ([]imagemap.Segment, error) {
	lo, hi := f.imageOff, f.imageOff+f.length
	if w.packed.z == nil {
		for _, r := range w.packed.runs {
			from, to := max(r.fileOff, lo), min(r.fileOff+r.length, hi)
			if from < to && w.pieces > 0 {
				w.pieces--
				out = append(out, imagemap.Segment{ImageOff: r.imageOff + from - r.fileOff, ImageLen: to - from,
					FileOff: f.off + from - lo, FileLen: to - from})
			}
		}
		return out, nil
	}
	if w.packedIndex == nil {
		w.packedIndex = &zindex{zfile: w.packed.z, im: w.image, r: w.meta}
	}
	for pos := lo; pos < hi && w.pieces > 0; pos = w.packedLast.end() {
		e, err := &w.packedLast, error(nil)
		if pos < e.off || pos >= e.end() {
			if *e, err = w.packedIndex.extent(pos); err != nil {
				return out, err
			}
		}
		if out, err = w.mapExtent(out, e, pos, min(hi, e.end()), f.off+pos-lo); err != nil {
			return out, err
		}
	}
	return out, nil
}

// plainParts returns where the bytes of a plainly stored extent are.
func (im *image) plainParts(e *zextent) ([]run, error) {
	if e.alg == algShifted {
		return []run{{e.off, e.imageOff, e.length}}, nil
	}
	block := int64(1) << im.blkBits
	in := e.off & (block - 1)
	first := min(block-in, e.length) // up to the end of the block of the file
	at := e.imageLen - (block - in)
	if e.imageLen < block { // inline: only the start of a block is there
		at = in
	}
	if at < 0 || first > e.imageLen-at || e.length-first > at {
		return nil, corrupt(e.imageOff, "a pcluster of %d bytes cannot hold %d from byte %d of a block on", e.imageLen, e.length, in)
	}
	parts := []run{{e.off, e.imageOff + at, first}}
	if first < e.length {
		parts = append(parts, run{e.off + first, e.imageOff, e.length - first})
	}
	return parts, nil
}
