package ext4

import (
	"bytes"
	"fmt"
	"math/bits"
	"strings"
)

// The format, from fs/ext4/ext4.h of Linux and its Documentation/filesystems/ext4.
const (
	superOff    = 1024 // bytes into the image
	superLen    = 1024
	superMagic  = 0xef53
	maxBlockLog = 6 // blocks of 1024 << 6 bytes
	rootIno     = 2

	compatJournal   = 0x4
	compatSparse2   = 0x200
	compatOrphan    = 0x1000
	incompatRecover = 0x4
	incompatJournal = 0x8 // the image is a journal
	incompatMetaBG  = 0x10
	incompat64bit   = 0x80
	incompatMMP     = 0x100
	incompatEAInode = 0x400
	incompatSeed    = 0x2000
	incompatLarge   = 0x4000
	roSparse        = 0x1
	roGdtCsum       = 0x10
	roBigalloc      = 0x200
	roMetaCsum      = 0x400
	roShared        = 0x4000 // files share blocks (Android)

	// filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, large_dir, inline_data,
	// encrypt, casefold
	incompatKnown = 0x2 | incompatRecover | incompatMetaBG | 0x40 | incompat64bit | incompatMMP | 0x200 |
		incompatEAInode | incompatSeed | incompatLarge | 0x8000 | 0x10000 | 0x20000
	// What an ext3 has at most: filetype, recover, meta_bg; sparse_super, large_file.
	incompatExt3 = 0x2 | incompatRecover | incompatMetaBG
	roExt3       = roSparse | 0x2
)

// super is the part of the superblock that is used after Open. Block numbers and counts are of blocks.
type super struct {
	blockSize                  int64
	blocks, firstData          int64
	blocksPerGroup             int64
	clusterBlocks              int64 // blocks that a bit of a block bitmap stands for; 1 without bigalloc
	inodesPerGroup, inodeSize  int64
	inodes, firstIno           uint32
	compat, incompat, roCompat uint32
	descSize                   int64
	reservedGDT, firstMetaBG   int64
	backups                    [2]int64 // groups with a copy of the superblock, with sparse_super2
	mmpBlock                   int64
	inner                      []uint32 // inodes that hold the file system's own files
	seed                       uint32   // of checksums
}

func (s *super) metaCsum() bool { return s.roCompat&roMetaCsum != 0 }

// tableBlocks returns how many blocks a group's inode table has.
func (s *super) tableBlocks() int64 {
	return (s.inodesPerGroup*s.inodeSize + s.blockSize - 1) / s.blockSize
}

func (s *super) groupFirst(g int64) int64 { return s.firstData + g*s.blocksPerGroup }

func (s *super) groupCount() int64 {
	return (s.blocks - s.firstData + s.blocksPerGroup - 1) / s.blocksPerGroup
}

func (r *Reader) parseSuper(b []byte, size int64) error {
	if le.Uint16(b[0x38:]) != superMagic {
		return corrupt("no ext4 magic at 1080")
	}
	u32 := func(off int) uint32 { return le.Uint32(b[off:]) }
	s := &r.s
	s.compat, s.incompat, s.roCompat = u32(0x5c), u32(0x60), u32(0x64)
	switch {
	case s.incompat&incompatJournal != 0:
		return &UnsupportedError{"that is the external journal of another", ""}
	case s.incompat&0x1 != 0:
		return &UnsupportedError{"with compression", ""}
	case s.incompat&^uint32(incompatKnown) != 0:
		return &UnsupportedError{fmt.Sprintf("with incompatible features %#x", s.incompat&^incompatKnown), ""}
	case s.metaCsum() && b[0x175] != 1:
		return &UnsupportedError{fmt.Sprintf("with checksums of type %d", b[0x175]), ""}
	case s.metaCsum() && crc(^uint32(0), b[:0x3fc]) != u32(0x3fc):
		return corrupt("wrong checksum of the superblock")
	case u32(0x18) > maxBlockLog:
		return corrupt("blocks of 2^%d bytes", 10+uint64(u32(0x18)))
	}
	s.blockSize = 1024 << u32(0x18)
	blocks := uint64(u32(0x4))
	s.firstIno, s.inodeSize, s.descSize = 11, 128, 32
	if u32(0x4c) > 0 { // else revision 0, where these fields are not in use
		s.firstIno, s.inodeSize = u32(0x54), int64(le.Uint16(b[0x58:]))
	}
	if s.incompat&incompat64bit != 0 {
		blocks |= uint64(u32(0x150)) << 32
		s.descSize = int64(le.Uint16(b[0xfe:]))
	}
	s.firstData, s.inodes = int64(u32(0x14)), u32(0x0)
	s.blocksPerGroup, s.inodesPerGroup = int64(u32(0x20)), int64(u32(0x28))
	s.clusterBlocks = 1
	if s.roCompat&roBigalloc != 0 {
		if log := u32(0x1c); log < u32(0x18) || log > 20 {
			return corrupt("clusters of 2^%d bytes, blocks of %d", 10+uint64(log), s.blockSize)
		}
		s.clusterBlocks = 1 << (u32(0x1c) - u32(0x18))
	}
	s.reservedGDT, s.firstMetaBG = int64(le.Uint16(b[0xce:])), int64(u32(0x104))
	s.backups = [2]int64{int64(u32(0x24c)), int64(u32(0x250))}
	bitmapBits := s.blockSize * 8
	switch {
	case blocks > uint64(size/s.blockSize):
		return corrupt("cut short: %d bytes of %d blocks of %d bytes", size, blocks, s.blockSize)
	case s.firstData >= int64(blocks):
		return corrupt("the first of %d blocks is %d", blocks, s.firstData)
	case s.inodeSize < 128 || s.inodeSize > s.blockSize || bits.OnesCount64(uint64(s.inodeSize)) != 1:
		return corrupt("inodes of %d bytes", s.inodeSize)
	case s.descSize < 32 || s.descSize > s.blockSize || bits.OnesCount64(uint64(s.descSize)) != 1 ||
		s.incompat&incompat64bit != 0 && s.descSize < 64:
		return corrupt("group descriptors of %d bytes", s.descSize)
	case s.blocksPerGroup < 8 || s.blocksPerGroup%s.clusterBlocks != 0 || s.blocksPerGroup/s.clusterBlocks > bitmapBits:
		return corrupt("groups of %d blocks", s.blocksPerGroup)
	case s.inodesPerGroup == 0 || s.inodesPerGroup > bitmapBits:
		return corrupt("groups of %d inodes", s.inodesPerGroup)
	}
	s.blocks = int64(blocks)
	if n := s.groupCount(); int64(s.inodes) != n*s.inodesPerGroup || n > s.blocks/s.tableBlocks() {
		return corrupt("%d inodes in %d groups of %d", s.inodes, n, s.inodesPerGroup)
	}
	if s.incompat&incompatMMP != 0 {
		s.mmpBlock = int64(le.Uint64(b[0x168:]))
	}
	if s.seed = crc(^uint32(0), b[0x68:0x78]); s.incompat&incompatSeed != 0 {
		s.seed = u32(0x270)
	}
	// 1: bad blocks, 3, 4: quotas, 5: boot loader, 6: undelete, 7: reserved descriptors, 8: journal
	s.inner = []uint32{1, 3, 4, 5, 6, 7, 8, 9, 10, u32(0x240), u32(0x244), u32(0x26c), u32(0xe0)}
	if s.compat&compatOrphan != 0 {
		s.inner = append(s.inner, u32(0x280))
	}
	r.info = Info{
		Version: s.version(), BlockSize: int(s.blockSize), BytesUsed: s.blocks * s.blockSize, Inodes: s.inodes,
		Label: cString(b[0x78:0x88]), UUID: [16]byte(b[0x68:0x78]), MkfsTime: int64(u32(0x108)),
		Checksums: s.metaCsum(), Clean: le.Uint16(b[0x3a:])&3 == 1, HasJournal: s.compat&compatJournal != 0,
		NeedsRecovery: s.incompat&incompatRecover != 0,
	}
	return nil
}

func (s *super) version() string {
	switch {
	case s.incompat&^uint32(incompatExt3) != 0 || s.roCompat&^uint32(roExt3) != 0:
		return "ext4"
	case s.compat&compatJournal != 0:
		return "ext3"
	}
	return "ext2"
}

func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b), "?")
}
