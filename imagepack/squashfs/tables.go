package squashfs

import (
	"bufio"
	"encoding/binary"
	"io"
	"sort"

	"bootprof/imagepack/imagemap"
)

// A fragment is an entry of the fragment table.
type fragment struct {
	imageOff int64
	size     uint32 // size word
}

// tables says where the tables end, and the attribute table's layout.
type tables struct {
	dirEnd     int64
	starts     []int64 // of the tables behind the directories, ascending
	xattrStart int64   // of the attributes
	xattrEnd   int64
	xattrIDs   []int64 // metadata blocks of the attribute ids
	xattrCount uint32
}

// readTables reads the owners and fragments and finds out where tables begin and end. The order of the
// tables is the one all writers use and the kernel insists on: inodes, directories, fragments, export,
// owners, attributes.
func (r *Reader) readTables() error {
	s := &r.super
	used := uint64(r.size)
	if s.inodeTable < superLen || s.inodeTable >= s.dirTable || s.dirTable >= used {
		return corrupt("inode table at %d, directory table at %d", s.inodeTable, s.dirTable)
	}
	e := &r.ends
	if s.fragments > 0 {
		blocks, err := r.pointers(s.fragTable, (int64(s.fragments)+511)/512)
		if err != nil {
			return err
		}
		if err := r.readFragments(blocks); err != nil {
			return err
		}
		e.starts = append(e.starts, blocks[0])
	}
	if s.exportTable != noTable && s.inodes > 0 {
		// Not used, and only its start is of interest.
		if blocks, err := r.pointers(s.exportTable, 1); err == nil {
			e.starts = append(e.starts, blocks[0])
		}
	}
	blocks, err := r.pointers(s.idTable, (int64(s.idCount)+2047)/2048)
	if err != nil {
		return err
	}
	e.starts = append(e.starts, blocks[0])
	for left := int(s.idCount); left > 0; left -= metaLen / 4 {
		b, err := r.tableBlock(blocks, min(left, metaLen/4)*4)
		if err != nil {
			return err
		}
		blocks = blocks[1:]
		for ; len(b) > 0; b = b[4:] {
			r.ids = append(r.ids, binary.LittleEndian.Uint32(b))
		}
	}
	if s.xattrTable != noTable {
		if err := r.readXattrHeader(); err != nil {
			return err
		}
	}
	sort.Slice(e.starts, func(i, j int) bool { return e.starts[i] < e.starts[j] })
	e.dirEnd = e.starts[0]
	if e.dirEnd < int64(s.dirTable) { // equal: an empty directory and nothing else
		return corrupt("directory table [%d .. %d)", s.dirTable, e.dirEnd)
	}
	return nil
}

// pointers reads n positions of metadata blocks at off. They must ascend: so a table takes no more memory
// than the image can have blocks for.
func (r *Reader) pointers(off uint64, n int64) ([]int64, error) {
	if off < superLen || off > uint64(r.size) || n < 1 || n > (r.size-int64(off))/8 {
		return nil, corrupt("table of %d blocks at %d", n, off)
	}
	b := make([]byte, 8*n)
	if err := r.readFull(b, int64(off)); err != nil {
		return nil, err
	}
	out := make([]int64, n)
	for i := range out {
		p := binary.LittleEndian.Uint64(b[8*i:])
		if p < superLen || p >= off || i > 0 && int64(p) <= out[i-1] {
			return nil, corrupt("block %d of the table at %d is said to be at %d", i, off, p)
		}
		out[i] = int64(p)
	}
	return out, nil
}

// tableBlock reads the first of the blocks, which must unpack to n bytes at least.
func (r *Reader) tableBlock(blocks []int64, n int) ([]byte, error) {
	b, _, err := r.metaBlock(blocks[0], r.size, nil)
	if err != nil {
		return nil, err
	}
	if len(b) < n {
		return nil, corrupt("table block at %d has %d bytes, not %d", blocks[0], len(b), n)
	}
	return b[:n], nil
}

func (r *Reader) readFragments(blocks []int64) error {
	for left := int(r.super.fragments); left > 0; left -= metaLen / 16 {
		b, err := r.tableBlock(blocks, min(left, metaLen/16)*16)
		if err != nil {
			return err
		}
		blocks = blocks[1:]
		for ; len(b) > 0; b = b[16:] {
			f := fragment{int64(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint32(b[8:])}
			if stored := int64(f.size &^ plainDataBit); f.imageOff < superLen || f.imageOff > r.size ||
				stored > r.size-f.imageOff || stored == 0 || stored > r.super.blockSize {
				return corrupt("fragment block [%d +%d)", f.imageOff, stored)
			}
			r.frags = append(r.frags, f)
		}
	}
	return nil
}

// readXattrHeader reads where the attributes are. The table is at its end, as the others' pointers are.
func (r *Reader) readXattrHeader() error {
	b := make([]byte, 16)
	off := int64(r.super.xattrTable)
	if err := r.readFull(b, off); err != nil {
		return err
	}
	e := &r.ends
	e.xattrStart = int64(binary.LittleEndian.Uint64(b))
	if e.xattrCount = binary.LittleEndian.Uint32(b[8:]); e.xattrCount == 0 {
		return nil
	}
	var err error
	if e.xattrIDs, err = r.pointers(uint64(off)+16, (int64(e.xattrCount)+511)/512); err != nil {
		return err
	}
	if e.xattrEnd = e.xattrIDs[0]; e.xattrStart < superLen || e.xattrStart >= e.xattrEnd {
		return corrupt("attribute table [%d .. %d)", e.xattrStart, e.xattrEnd)
	}
	e.starts = append(e.starts, e.xattrStart)
	return nil
}

// unpackedMax returns an upper bound of what the metadata blocks in [start, end) unpack to, by walking
// through their headers.
func (r *Reader) unpackedMax(start, end int64) (int64, error) {
	br := bufio.NewReaderSize(io.NewSectionReader(r.r, start, end-start), 256<<10)
	var n int64
	for off := start; off < end; n++ {
		var h [2]byte
		if _, err := io.ReadFull(br, h[:]); err != nil {
			return 0, corrupt("the table [%d .. %d) ends in a block header", start, end)
		}
		stored := int(binary.LittleEndian.Uint16(h[:]) &^ plainMetaBit)
		if stored == 0 || stored > metaLen {
			return 0, corrupt("metadata block at %d is %d bytes long", off, stored)
		}
		if _, err := br.Discard(stored); err != nil && off+2+int64(stored) < end {
			return 0, corrupt("the table [%d .. %d) ends in a block", start, end)
		}
		off += 2 + int64(stored)
	}
	return n * metaLen, nil
}

// tableSegments are the parts of the image that belong to no file.
func (r *Reader) tableSegments() []imagemap.Segment {
	head := int64(superLen)
	var h [2]byte
	if r.super.flags&flagCompOpts != 0 && r.readFull(h[:], superLen) == nil {
		head += 2 + int64(binary.LittleEndian.Uint16(h[:])&^plainMetaBit)
	}
	segs := []imagemap.Segment{{ImageOff: 0, ImageLen: min(head, r.size), Kind: imagemap.Meta}}
	ends := append(r.ends.starts[1:len(r.ends.starts):len(r.ends.starts)], r.size)
	for i, start := range r.ends.starts {
		if ends[i] > start {
			segs = append(segs, imagemap.Segment{ImageOff: start, ImageLen: ends[i] - start, Kind: imagemap.Meta})
		}
	}
	return segs
}
