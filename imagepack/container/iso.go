package container

import (
	"bytes"
	"encoding/binary"

	"bootprof/imagepack/tree"
)

// Layout of ISO 9660 (ECMA-119, 4th edition). Numbers are stored in both byte orders; the little one is read.
const (
	isoSector    = 2048 // unit of the system area, the descriptors and of directory records
	isoSystem    = 16   // sectors left to boot loaders and partition tables
	isoMagic     = "CD001"
	descBoot     = 0
	descPrimary  = 1
	descSupplem  = 2
	descEnd      = 255
	maxDescs     = 64 // the usual number is 2 to 5
	torito       = "EL TORITO SPECIFICATION"
	rootRecordAt = 156 // in a primary or supplementary descriptor
)

// An isoImage is an opened ISO 9660 file system.
type isoImage struct {
	source
	descs     int64        // number of volume descriptors
	primary   isoVolume    // names of 8.3 to 31 characters, or Rock Ridge's
	joliet    *isoVolume   // nil if there is none
	rockRidge bool         // primary has Rock Ridge names
	skip      int          // bytes at the start of each record's system use area that are not Rock Ridge's
	catalog   *tree.Extent // of El Torito, nil if there is none

	onContinuation func(off, length int64) // called for each Rock Ridge continuation area; may be nil
}

// An isoVolume is one of the directory trees of an ISO; their files are the same.
type isoVolume struct {
	joliet     bool
	block      int64 // bytes: 512, 1024 or 2048
	root       isoRecord
	pathTables []tree.Extent
}

// openISO reads the volume descriptors and looks whether there is Rock Ridge.
func openISO(s source) (*isoImage, error) {
	im := &isoImage{source: s}
	d := make([]byte, isoSector)
	havePrimary := false
	for ; ; im.descs++ {
		if im.descs == maxDescs {
			return nil, s.corrupt("no end of the volume descriptors in %d sectors", maxDescs)
		}
		if err := s.read(d, (isoSystem+im.descs)*isoSector, "a volume descriptor"); err != nil {
			return nil, err
		}
		if string(d[1:6]) != isoMagic {
			return nil, s.corrupt("sector %d is not a volume descriptor", isoSystem+im.descs)
		}
		switch {
		case d[0] == descPrimary && !havePrimary:
			v, err := im.readVolume(d, false)
			if err != nil {
				return nil, err
			}
			im.primary, havePrimary = v, true
		case d[0] == descSupplem && isJoliet(d) && im.joliet == nil:
			v, err := im.readVolume(d, true)
			if err != nil {
				return nil, err
			}
			im.joliet = &v
		case d[0] == descBoot && bytes.HasPrefix(d[7:], []byte(torito)):
			off := int64(binary.LittleEndian.Uint32(d[71:])) * isoSector
			if off > 0 && off <= s.size-isoSector {
				im.catalog = &tree.Extent{Off: off, Len: isoSector}
			}
		}
		if d[0] == descEnd {
			im.descs++
			break
		}
	}
	if !havePrimary {
		return nil, s.corrupt("no primary volume descriptor")
	}
	return im, im.findRockRidge()
}

// isJoliet tells whether a supplementary descriptor is one of Joliet's three levels.
func isJoliet(d []byte) bool {
	return d[88] == '%' && d[89] == '/' && (d[90] == '@' || d[90] == 'C' || d[90] == 'E')
}

func (im *isoImage) readVolume(d []byte, joliet bool) (isoVolume, error) {
	le, be := binary.LittleEndian, binary.BigEndian
	v := isoVolume{joliet: joliet, block: int64(le.Uint16(d[128:]))}
	if v.block != 512 && v.block != 1024 && v.block != 2048 {
		return v, im.corrupt("blocks of %d bytes", v.block)
	}
	var err error
	if v.root, err = im.parseRecord(d[rootRecordAt:rootRecordAt+34], v.block); err != nil {
		return v, err
	}
	if !v.root.isDir() {
		return v, im.corrupt("the root is not a directory")
	}
	size := int64(le.Uint32(d[132:]))
	for _, lba := range []uint32{le.Uint32(d[140:]), le.Uint32(d[144:]), be.Uint32(d[148:]), be.Uint32(d[152:])} {
		e := tree.Extent{Off: int64(lba) * v.block, Len: size}
		if lba != 0 && size > 0 && im.within(e.Off, e.Len, "") == nil { // not needed for reading: damage is no error
			v.pathTables = append(v.pathTables, e)
		}
	}
	return v, nil
}

// volume is the tree to read names from, the same one as Linux takes: Rock Ridge, else Joliet, else plain names.
func (im *isoImage) volume() isoVolume {
	if !im.rockRidge && im.joliet != nil {
		return *im.joliet
	}
	return im.primary
}

// An isoRecord is a decoded directory record.
type isoRecord struct {
	id     []byte // file identifier as stored; {0} and {1} are "." and ".."
	off    int64  // bytes in the image
	size   int64  // bytes in this extent
	flags  byte
	gaps   bool   // interleaved: not contiguous
	system []byte // system use area
}

func (r *isoRecord) isDir() bool      { return r.flags&2 != 0 }
func (r *isoRecord) hasMore() bool    { return r.flags&0x80 != 0 }
func (r *isoRecord) isDotEntry() bool { return len(r.id) == 1 && r.id[0] <= 1 }

// parseRecord decodes the record at the start of b, which has at least one byte.
func (im *isoImage) parseRecord(b []byte, block int64) (isoRecord, error) {
	n := int(b[0])
	if n < 34 || n > len(b) {
		return isoRecord{}, im.corrupt("directory record of %d bytes", n)
	}
	idEnd := 33 + int(b[32])
	if b[32] == 0 || idEnd > n {
		return isoRecord{}, im.corrupt("name of %d bytes in a directory record of %d", b[32], n)
	}
	le := binary.LittleEndian
	return isoRecord{
		id:     b[33:idEnd],
		off:    (int64(le.Uint32(b[2:])) + int64(b[1])) * block, // b[1]: blocks of attributes before the content
		size:   int64(le.Uint32(b[10:])),
		flags:  b[25],
		gaps:   b[26] != 0 || b[27] != 0,
		system: b[min(idEnd+(idEnd&1), n):n],
	}, nil
}
