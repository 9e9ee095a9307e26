package relayout

import (
	"encoding/binary"
	"math/bits"

	"bootprof/imagepack/squashfs"
)

// An image is what is written when the content is in its place: the tables and the superblock.
type image struct {
	root       *squashfs.RawInode
	inodes     []*squashfs.RawInode // in the order of the inode table
	count      uint32               // largest inode number
	owners     []uint32
	fragments  []squashfs.RawFragment
	compressor uint16
	blockSize  int64
	flags      uint16
	mkfsTime   uint32
	options    []byte // block of compressor options, with its header, or nil
	exportable bool

	// xattrs writes the attribute tables and returns what the superblock tells of them.
	xattrs func(out *seqWriter) (uint64, error)
}

// contentOff is where content may begin.
func (m *image) contentOff() int64 { return superLen + int64(len(m.options)) }

// writeTables writes the tables at out's position, pads the image, and writes the superblock. It returns the length
// of the file system and of the image.
func (m *image) writeTables(dst File, out *seqWriter, enc encoder) (used, size int64, err error) {
	le := binary.LittleEndian
	plainInodes := m.flags&flagPlainInodes != 0
	s := superblock{fragTable: squashfs.NoTable, exportTable: squashfs.NoTable, xattrTable: squashfs.NoTable}

	s.inodeTable = uint64(out.off)
	var w inodeWriter
	w.inodes = metaWriter{out: out, enc: enc, plain: plainInodes}
	w.dirs = metaWriter{enc: enc, plain: plainInodes}
	if err := w.write(m.inodes); err != nil {
		return 0, 0, err
	}
	s.dirTable = uint64(out.off)
	if _, err := out.Write(w.dirBuf.Bytes()); err != nil {
		return 0, 0, err
	}

	var b []byte
	for _, f := range m.fragments {
		b = le.AppendUint64(b, uint64(f.ImageOff))
		b = le.AppendUint64(b, uint64(f.Size))
	}
	// Without fragments the table is empty, and still tells where the listings end.
	if s.fragTable, err = writeTable(out, enc, m.flags&flagPlainFragments != 0, b); err != nil {
		return 0, 0, err
	}

	if m.exportable {
		b = make([]byte, 8*int64(m.count))
		for i := range m.count {
			le.PutUint64(b[8*i:], squashfs.NoTable) // a number that no inode has
		}
		for _, n := range m.inodes {
			if n.Number > 0 && n.Number <= m.count {
				le.PutUint64(b[8*(n.Number-1):], n.Ref)
			}
		}
		if s.exportTable, err = writeTable(out, enc, plainInodes, b); err != nil {
			return 0, 0, err
		}
	}

	b = nil
	for _, id := range m.owners {
		b = le.AppendUint32(b, id)
	}
	if s.idTable, err = writeTable(out, enc, m.flags&(flagPlainInodes|flagPlainIDs) != 0, b); err != nil {
		return 0, 0, err
	}
	if m.xattrs != nil {
		if s.xattrTable, err = m.xattrs(out); err != nil {
			return 0, 0, err
		}
	}

	used = out.off
	if err := out.align(pad); err != nil {
		return 0, 0, err
	}
	if err := out.flush(); err != nil {
		return 0, 0, err
	}
	_, err = dst.WriteAt(append(s.encode(m, used), m.options...), 0)
	return used, out.off, err
}

// superblock has the places of the tables.
type superblock struct {
	inodeTable, dirTable, fragTable, exportTable, idTable, xattrTable uint64
}

func (s *superblock) encode(m *image, used int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, superLen)
	for _, v := range []uint32{magic, m.count, m.mkfsTime, uint32(m.blockSize), uint32(len(m.fragments))} {
		b = le.AppendUint32(b, v)
	}
	log := uint16(bits.TrailingZeros64(uint64(m.blockSize)))
	for _, v := range []uint16{m.compressor, log, m.flags, uint16(len(m.owners)), 4, 0} {
		b = le.AppendUint16(b, v)
	}
	for _, v := range []uint64{m.root.Ref, uint64(used), s.idTable, s.xattrTable, s.inodeTable, s.dirTable, s.fragTable, s.exportTable} {
		b = le.AppendUint64(b, v)
	}
	return b
}
