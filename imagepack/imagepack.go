// Package imagepack builds packs: it opens an input (a directory, a tar, a squashfs, a raw image), makes the
// read-only image that the pack holds, and writes boot zone, body and indexes.
//
// Flow, one way:
//
//	input ──> tree ──> virtual image ──┬─> boot zone (pages of the plan, in boot order)
//	raw image ─────────────────────────┴─> body (everything else, in image order) ──> indexes, header
//
// The image is virtual: imagepack/erofs lays it out in memory and produces any byte range on demand, so
// that building a pack reads every file once and writes nothing but the pack. The same input gives the
// same bytes: no clock, no random numbers, no order of goroutines ends up in a pack.
//
// Sub-packages: tree (model and inputs), squashfs and erofs (readers; the erofs writer), imagemap (which
// file an image range belongs to), bpk (the format and its reader), zopt (the boot zone's compressor).
package imagepack

import (
	"io"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/profiles"
)

// An Image is the read-only file-system image that goes into a pack. ReadAt is safe for concurrent use.
type Image interface {
	io.ReaderAt
	Size() int64                  // bytes, a multiple of bpk.PageSize
	Segments() []imagemap.Segment // by image offset; empty if the file system is not known
	Filesystem() string           // "erofs", "squashfs", ...; "" if not known
	Close() error
}

// pageRanges turns byte ranges of an image, in boot order, into ranges of whole pages that hold no page
// twice and none outside the image.
func pageRanges(imageSize int64, ranges []profiles.Range) []bpk.Range {
	seen := make([]uint64, (imageSize/bpk.PageSize+63)/64)
	var out []bpk.Range
	for _, r := range ranges {
		if r.Len <= 0 {
			continue
		}
		end := min(imageSize, r.ImageOff+r.Len)
		for p := max(0, r.ImageOff) / bpk.PageSize; p*bpk.PageSize < end; p++ {
			if seen[p/64]&(1<<(p%64)) != 0 {
				continue
			}
			seen[p/64] |= 1 << (p % 64)
			if n := len(out); n > 0 && out[n-1].Page+out[n-1].Pages == p {
				out[n-1].Pages++
			} else {
				out = append(out, bpk.Range{Page: p, Pages: 1})
			}
		}
	}
	return out
}
