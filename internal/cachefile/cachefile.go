// Package cachefile is the format in which a client keeps pages of an image on disk: files in a directory, named
// by the digest of the image's pack.
//
//	HEX.image    sparse, as long as the image: the pages at their place
//	HEX.journal  records of 64 bytes: which pages are in the image file, and their SHA-256
//	HEX.chunks   records of 96 bytes: which chunk of the pack they were, for the next version of the image; may be missing
//
// A record is written after the pages it names; both are synced later. After a crash, or a kill at any moment, pages
// without a record are simply not there, and the pages of a record are hashed before their first use in
// every run, so that a damaged file, or a record that got to the disk without its pages, costs a fetch and never a wrong byte.
//
// A record whose SHA-256 is all zeros says that the pages of earlier records of the same range were taken out again, or
// that these records did not hold.
//
// A journal that is mostly of such records is replaced by a new one, HEX.journal.new, which is locked, synced and renamed.
//
// Whoever writes to the files holds a flock(2) on image file and journal. When the image file is whole, a loop device may be put on it; the
// lock belongs to the open file, which the loop device then holds.
//
// The client appends to both files as pages come; Write makes them at once, for a disk that is handed out with the
// boot pages on it.
package cachefile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"

	"bootprof/imagepack/bpk"
)

// Constants of the format.
const (
	RecordSize  = 64 // bytes
	RecordPages = 64 // a record covers at most so many pages: what one damaged byte costs
)

// A Record names pages that are in the image file. Stored are page and pages (8 bytes each, little-endian), the
// SHA-256, 12 zero bytes, and a CRC-32 (IEEE) of the 60 bytes before.
type Record struct {
	bpk.Range          // 1 to RecordPages pages
	SHA256    [32]byte // of their bytes; zeros: they are not there any more
}

// Gone tells that the pages were taken out.
func (r Record) Gone() bool { return r.SHA256 == [32]byte{} }

// Names returns the paths of image file and journal of a pack in dir.
func Names(dir string, digest [32]byte) (image, journal string) {
	base := filepath.Join(dir, fmt.Sprintf("%x", digest))
	return base + ".image", base + ".journal"
}

// Append appends the stored form of r to b.
func (r Record) Append(b []byte) []byte {
	var rec [RecordSize]byte
	binary.LittleEndian.PutUint64(rec[:], uint64(r.Page))
	binary.LittleEndian.PutUint64(rec[8:], uint64(r.Pages))
	copy(rec[16:48], r.SHA256[:])
	binary.LittleEndian.PutUint32(rec[60:], crc32.ChecksumIEEE(rec[:60]))
	return append(b, rec[:]...)
}

// Decode reads a record of a cache of an image of that many pages. It tells whether the record is whole and lies in
// the image.
func Decode(b []byte, imagePages int64) (r Record, ok bool) {
	if len(b) < RecordSize || crc32.ChecksumIEEE(b[:60]) != binary.LittleEndian.Uint32(b[60:]) {
		return r, false
	}
	r.Page, r.Pages = int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))
	copy(r.SHA256[:], b[16:48])
	return r, r.Page >= 0 && r.Pages >= 1 && r.Pages <= RecordPages && r.Page <= imagePages-r.Pages
}
