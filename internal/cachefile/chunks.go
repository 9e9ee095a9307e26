package cachefile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"

	"bootprof/imagepack/bpk"
)

// ChunkRecordSize is the length of a chunk record.
const ChunkRecordSize = 96

// A ChunkRecord tells in HEX.chunks which body chunk of the pack was decoded into pages of HEX.image. The next version of an
// image has most chunks in common with it, at other places: a client of that finds their pages here by the digest that both
// packs have of the chunk. Stored are the two digests, page and pages (8 bytes each, little-endian), the codec, 11 zero bytes,
// and a CRC-32 (IEEE) of the 92 bytes before.
//
// Sum covers the pages, so a record may be written before them, and whoever uses them hashes them first.
type ChunkRecord struct {
	Stored    [32]byte // SHA-256 of the chunk as the pack has it
	Sum       [32]byte // SHA-256 of the pages that it holds: those of Range that are not in the boot zone
	bpk.Range          // image pages that the chunk covers
	Codec     byte     // of the chunk
}

// ChunksName returns the path of the file with the chunk records of a pack in dir.
func ChunksName(dir string, digest [32]byte) string {
	return filepath.Join(dir, fmt.Sprintf("%x.chunks", digest))
}

// Append appends the stored form of r to b.
func (r ChunkRecord) Append(b []byte) []byte {
	var rec [ChunkRecordSize]byte
	copy(rec[:], r.Stored[:])
	copy(rec[32:], r.Sum[:])
	binary.LittleEndian.PutUint64(rec[64:], uint64(r.Page))
	binary.LittleEndian.PutUint64(rec[72:], uint64(r.Pages))
	rec[80] = r.Codec
	binary.LittleEndian.PutUint32(rec[92:], crc32.ChecksumIEEE(rec[:92]))
	return append(b, rec[:]...)
}

// DecodeChunk reads a chunk record of an image of that many pages. It tells whether the record is whole and lies in the
// image.
func DecodeChunk(b []byte, imagePages int64) (r ChunkRecord, ok bool) {
	if len(b) < ChunkRecordSize || crc32.ChecksumIEEE(b[:92]) != binary.LittleEndian.Uint32(b[92:]) {
		return r, false
	}
	copy(r.Stored[:], b)
	copy(r.Sum[:], b[32:])
	r.Page, r.Pages = int64(binary.LittleEndian.Uint64(b[64:])), int64(binary.LittleEndian.Uint64(b[72:]))
	r.Codec = b[80]
	return r, r.Page >= 0 && r.Pages >= 1 && r.Pages <= bpk.MaxChunkPages && r.Page <= imagePages-r.Pages
}
