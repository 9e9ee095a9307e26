package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/crc64"

	"github.com/ulikunitz/xz/lzma"
)

// Numbers of the .xz file format, sections 2.1.1, 3.1, 5.3.
const (
	xzStreamHeader = 12 // bytes
	xzARM64        = 0x0a
	xzLZMA2        = 0x21
	xzCRC32        = 1
	xzCRC64        = 4
)

var (
	errXZHeader = errors.New("no valid xz block header")
	errXZCheck  = errors.New("another checksum than the block has")
	crc64Table  = crc64.MakeTable(crc64.ECMA)
)

// unpackARM64 unpacks a stream whose one block has gone through the ARM64 filter, which the xz decoder does not
// know: what was packed after the filter comes from the decoder of LZMA2 alone. ok is false if the block has other
// filters. The headers' checksums and the stream's index are not looked at: the first is done, the
// second tells nothing about one block.
func unpackARM64(dst, src []byte) (n int, ok bool, err error) {
	if len(src) < xzStreamHeader+12 {
		return 0, false, errXZHeader
	}
	check := src[7]
	h := src[xzStreamHeader:]
	size := (int(h[0]) + 1) * 4
	if h[0] == 0 || size > len(h) {
		return 0, false, errXZHeader
	}
	packed := h[size:]
	flags, h := h[1], h[2:size-4]
	for _, bit := range []byte{0x40, 0x80} { // stored sizes
		if flags&bit != 0 {
			_, m := binary.Uvarint(h)
			if m <= 0 {
				return 0, false, errXZHeader
			}
			h = h[m:]
		}
	}
	start := uint32(0)
	switch {
	case flags&3 != 1 || len(h) < 5 || h[0] != xzARM64:
		return 0, false, nil
	case h[1] == 0:
		h = h[2:]
	case h[1] == 4 && len(h) >= 9:
		start = binary.LittleEndian.Uint32(h[2:])
		h = h[6:]
	default:
		return 0, false, errXZHeader
	}
	if h[0] != xzLZMA2 || start%4 != 0 || check != 0 && check != xzCRC32 && check != xzCRC64 {
		return 0, false, nil
	}
	// No match reaches back further than the block is long, whatever dictionary the header asks for.
	in := bytes.NewReader(packed)
	z, err := lzma.Reader2Config{DictCap: max(lzma.MinDictCap, len(dst))}.NewReader2(in)
	if err != nil {
		return 0, true, err
	}
	if n, err = readAllInto(dst, z); err != nil {
		return n, true, err
	}
	filterARM64(dst[:n], start)
	sum := packed[min((len(packed)-in.Len()+3)&^3, len(packed)):]
	switch {
	case check == xzCRC32 && (len(sum) < 4 || binary.LittleEndian.Uint32(sum) != crc32.ChecksumIEEE(dst[:n])),
		check == xzCRC64 && (len(sum) < 8 || binary.LittleEndian.Uint64(sum) != crc64.Checksum(dst[:n], crc64Table)):
		return n, true, errXZCheck
	}
	return n, true, nil
}

// filterARM64 makes the absolute targets in code relative again: those of calls (BL, 26 bits of words) and of page
// addresses (ADRP, 21 bits of pages, of which only those that are near have been changed). pos is the
// code's address.
func filterARM64(code []byte, pos uint32) {
	for ; len(code) >= 4; code, pos = code[4:], pos+4 {
		word := binary.LittleEndian.Uint32(code)
		switch {
		case word>>26 == 0b100101: // BL
			word = 0b100101<<26 | (word-pos>>2)&(1<<26-1)
		case word>>31 == 1 && word>>24&0x1f == 0b10000: // ADRP
			page := word>>29&3 | word>>5&(1<<19-1)<<2
			if near := page + 1<<17; near&(1<<21-1)>>18 != 0 { // bits 18 to 20 are not all like bit 17
				continue
			}
			page = page - pos>>12
			page &= 1<<18 - 1
			if page&(1<<17) != 0 {
				page |= 0b111 << 18
			}
			word = word&0x9000001f | page&3<<29 | page>>2<<5
		default:
			continue
		}
		binary.LittleEndian.PutUint32(code, word)
	}
}
