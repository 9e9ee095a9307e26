package ext4

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc continues the sum as the kernel's crc32c does: unlike Go's, it inverts neither at the start nor at the
// end.
func crc(sum uint32, b []byte) uint32 { return ^crc32.Update(^sum, castagnoli, b) }

func crc32bit(sum, v uint32) uint32 { return crc(sum, le.AppendUint32(nil, v)) }

var zeros [4]byte

// groupSum is the checksum of the descriptor d, whose own field for it counts as zeros.
func (s *super) groupSum(d []byte, number uint32) uint16 {
	sum := crc(crc32bit(s.seed, number), d[:0x1e])
	sum = crc(sum, zeros[:2])
	if len(d) > 0x20 {
		sum = crc(sum, d[0x20:])
	}
	return uint16(sum)
}

// bitmapSumOK checks the checksum of a group's block bitmap b.
func (s *super) bitmapSumOK(g group, b []byte) bool {
	sum := crc(s.seed, b[:s.blocksPerGroup/s.clusterBlocks/8])
	if s.descSize < 64 {
		sum &= 0xffff
	}
	return sum == g.bitmapSum
}

// inodeSeed is what the checksums of an inode and of its own blocks start from.
func (s *super) inodeSeed(ino uint32, raw []byte) uint32 {
	return crc32bit(crc32bit(s.seed, ino), le.Uint32(raw[0x64:]))
}

// inodeSumOK checks the checksum of an inode, whose low half is in the first 128 bytes and whose high half is in
// the extra fields, if these go so far.
func inodeSumOK(seed uint32, raw []byte) bool {
	sum := crc(seed, raw[:0x7c])
	sum = crc(sum, zeros[:2])
	sum = crc(sum, raw[0x7e:0x80])
	want, mask := uint32(le.Uint16(raw[0x7c:])), uint32(0xffff)
	if len(raw) > 128 {
		rest := 0x82
		sum = crc(sum, raw[0x80:rest])
		if le.Uint16(raw[0x80:]) >= 4 {
			sum = crc(sum, zeros[:2])
			want |= uint32(le.Uint16(raw[rest:])) << 16
			mask = ^uint32(0)
			rest += 2
		}
		sum = crc(sum, raw[rest:])
	}
	return sum&mask == want
}

// extentSumOK checks the checksum that stands behind the room for extents in the block b.
func extentSumOK(seed uint32, b []byte) bool {
	end := extentLen * (1 + int(le.Uint16(b[4:])))
	return end+4 > len(b) || crc(seed, b[:end]) == le.Uint32(b[end:])
}

// dirSumOK checks the checksum in the last entry of a directory block. Blocks of the index, which end with an
// entry up to the end of the block, have theirs in the same place but of other bytes; no name is read from them.
func dirSumOK(seed uint32, b []byte) bool {
	tail := b[len(b)-12:]
	first := int(le.Uint16(b[4:]))
	if first == len(b) || first == 12 && int(le.Uint16(b[12+4:])) == len(b)-12 {
		return true
	}
	if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != 12 || tail[6] != 0 || tail[7] != 0xde {
		return true
	}
	return crc(seed, b[:len(b)-12]) == le.Uint32(tail[8:])
}

// xattrSumOK checks the checksum of the attribute block b, which is block number at.
func (s *super) xattrSumOK(at int64, b []byte) bool {
	sum := crc(s.seed, le.AppendUint64(nil, uint64(at)))
	sum = crc(sum, b[:0x10])
	sum = crc(sum, zeros[:4])
	return crc(sum, b[0x14:]) == le.Uint32(b[0x10:])
}
