package erofs

import (
	"encoding/binary"
	"hash/crc32"

	"bootprof/imagepack/tree"
)

// The on-disk format, as in fs/erofs/erofs_fs.h of Linux.
const (
	superOff  = 1024
	superSize = 128
	magic     = 0xE0F5E1E2

	compatChecksum = 0x1
	compatMtime    = 0x2

	compatPlainPrefixes = 0x10 // long xattr prefixes are not in the packed inode

	incompatZeroPadding = 0x1
	incompatChunked     = 0x4
	incompatDevices     = 0x8
	incompatFragments   = 0x20
	incompatPrefixes    = 0x40
	incompatSupported   = 0x7f // up to long xattr prefixes; later ones change inodes and addresses

	inodeCompactSize  = 32
	inodeExtendedSize = 64
	nidUnit           = 32 // bytes per node number

	layoutPlain          = 0
	layoutCompressedFull = 1
	layoutInline         = 2
	layoutCompressed     = 3
	layoutChunked        = 4

	chunkBitsMask = 0x1f
	chunkIndexes  = 0x20
	nullBlock     = 0xffffffff

	direntSize = 12
	maxName    = 255
	maxLink    = 4095 // PATH_MAX without the NUL

	xattrHeaderSize = 12
	xattrEntrySize  = 4
)

// The geometry of images made here.
const (
	blockBits = 12
	blockSize = 1 << blockBits
	maxBlocks = 1<<32 - 1 // 32-bit block addresses, the last of which means a hole
)

var le = binary.LittleEndian

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func alignUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// checksum returns the CRC-32C of the superblock's block from the superblock on, with the checksum field
// taken as zero. Linux leaves out the final inversion.
func checksum(b []byte) uint32 {
	var zero [4]byte
	c := crc32.Update(0, castagnoli, b[:4])
	c = crc32.Update(c, castagnoli, zero[:])
	return ^crc32.Update(c, castagnoli, b[8:])
}

// fileType returns the dirent type (FT_*) of a mode.
func fileType(mode uint32) byte {
	switch mode & tree.ModeType {
	case tree.ModeRegular:
		return 1
	case tree.ModeDir:
		return 2
	case tree.ModeChar:
		return 3
	case tree.ModeBlock:
		return 4
	case tree.ModeFIFO:
		return 5
	case tree.ModeSocket:
		return 6
	case tree.ModeSymlink:
		return 7
	}
	return 0
}

// encodeDev packs a device number as Linux's new_encode_dev does: 12 bits of major, 20 of minor.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// putInode writes the 64-byte inode of f. The inode number field (used by no kernel) stays zero so that
// an inode does not change when another file is added.
func putInode(b []byte, f *file) {
	n := f.node
	le.PutUint16(b[0:], 1|uint16(f.layout)<<1)
	if len(f.xattrs) > 0 {
		le.PutUint16(b[2:], uint16((len(f.xattrs)-xattrHeaderSize)/4+1))
	}
	le.PutUint16(b[4:], uint16(n.Mode))
	le.PutUint64(b[8:], uint64(f.size))
	le.PutUint32(b[16:], f.inodeUnion())
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.MtimeSec))
	le.PutUint32(b[40:], n.MtimeNsec)
	le.PutUint32(b[44:], f.nlink)
	copy(b[inodeExtendedSize:], f.xattrs)
}

// inodeUnion returns the field whose meaning depends on the type and layout of the file.
func (f *file) inodeUnion() uint32 {
	switch f.node.Type() {
	case tree.ModeBlock, tree.ModeChar:
		return encodeDev(f.node.RdevMajor, f.node.RdevMinor)
	case tree.ModeFIFO, tree.ModeSocket:
		return 0
	}
	if f.layout == layoutChunked {
		return uint32(f.chunkBits - blockBits)
	}
	if len(f.runs) > 0 {
		return uint32(f.runs[0].imageOff >> blockBits)
	}
	return 0
}
