package imagepack

import (
	"hash/fnv"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
)

// Tuning of the body's chunks, in pages. A chunk is what a demand miss fetches: large enough that the
// round trip is not wasted, small enough that it does not delay the reader.
const (
	chunkPages    = 32 // 128 KiB: cut of large files, and the most that a group of small ones holds
	ownFilePages  = 16 // a file of 64 KiB or more starts a chunk of its own
	minGroupPages = 8  // a group of small files is at least 32 KiB before a border may fall in it
	borderOdds    = 8  // one file in so many, chosen by its path, starts a new group
)

// planBody cuts the image into the ranges of the body's chunks, in image order and without gaps. Borders
// follow files: a file of ownFilePages or more begins a chunk and is cut at multiples of chunkPages from
// its start; smaller files share chunks whose borders depend on paths, so that a changed or new file moves
// the borders near it only. A range without a cold page is joined to the one before it if there is room.
func planBody(imageSize int64, segs []imagemap.Segment, boot *bpk.BootIndex) []bpk.Range {
	w := bodyPlanner{boot: boot}
	pages := imageSize / bpk.PageSize
	for _, s := range segs {
		first := s.ImageOff / bpk.PageSize
		if first >= pages {
			break // a map of a damaged image
		}
		if first < w.next {
			continue // in a page that is planned already
		}
		if s.Kind == imagemap.Data && s.ImageLen >= ownFilePages*bpk.PageSize {
			w.group(first)
			w.large(first, min(pages, (s.ImageOff+s.ImageLen+bpk.PageSize-1)/bpk.PageSize))
			continue
		}
		if border(s.Path) && first-w.next >= minGroupPages {
			w.group(first)
		}
	}
	w.group(pages)
	return w.out
}

type bodyPlanner struct {
	boot *bpk.BootIndex
	out  []bpk.Range
	next int64 // first page that is not planned
}

// large plans the pages [first, end) of one file.
func (w *bodyPlanner) large(first, end int64) {
	for p := first; p < end; p += chunkPages {
		w.add(p, min(chunkPages, end-p))
	}
}

// group plans the pages up to end as one group, cut where it is too long.
func (w *bodyPlanner) group(end int64) {
	for w.next < end {
		w.add(w.next, min(chunkPages, end-w.next))
	}
}

func (w *bodyPlanner) add(page, pages int64) {
	w.next = page + pages
	if n := len(w.out); n > 0 && w.out[n-1].Pages+pages <= bpk.MaxChunkPages && len(w.boot.ColdRanges(page, pages)) == 0 {
		w.out[n-1].Pages += pages
		return
	}
	w.out = append(w.out, bpk.Range{Page: page, Pages: pages})
}

func border(path string) bool {
	h := fnv.New32a()
	h.Write([]byte(path))
	return h.Sum32()%borderOdds == 0
}
