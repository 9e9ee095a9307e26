package imagepack

import (
	"hash/fnv"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
)

// Tuning of the body's chunks, in pages. A chunk is what a demand miss fetches: large enough that the
// round trip is not wasted, small enough that it does not delay the reader.
const (
	chunkPages   = 32  // 128 KiB: cut of large files
	ownFilePages = 16  // a file of 64 KiB or more starts a chunk of its own
	borderOdds   = 24  // small files that start a group are this far apart on average, whatever their sizes
	groupPages   = 128 // 512 KiB: the most that a group of small files holds before it is divided, which is rare

	maxGroupFiles = 1024 // bounds the work on a map that is made up
)

// planBody cuts the image into the ranges of the body's chunks, in image order and without gaps, such that a chunk of
// files that did not change is cut in the next build as it was in this one:
//
//   - A file of ownFilePages or more begins a chunk and is cut at multiples of chunkPages from its start.
//   - Smaller files share chunks. Whether one begins a group depends on its own path and length alone. The few groups that
//     are too long are divided before the file whose path has the smallest hash, and so on: how long the files before it are
//     does not move that cut.
//   - What belongs to no file, such as room between clusters, is never in one chunk with files.
//
// A range without a cold page is joined to the one before it if there is room.
func planBody(imageSize int64, segs []imagemap.Segment, boot *bpk.BootIndex) []bpk.Range {
	w := bodyPlanner{boot: boot, pages: imageSize / bpk.PageSize}
	for _, s := range segs {
		first := s.ImageOff / bpk.PageSize
		end := min(w.pages, (s.ImageOff+s.ImageLen+bpk.PageSize-1)/bpk.PageSize)
		if s.ImageOff < 0 || first >= w.pages || end <= first {
			continue // a map of a damaged image
		}
		if first > w.known {
			w.group()
			w.gap(first)
		}
		switch large := s.Kind == imagemap.Data && s.ImageLen >= ownFilePages*bpk.PageSize; {
		case first < w.next:
			// In pages that are planned already, with the file before.
		case large:
			w.known = first // what came before shares no page with it, or has it as its last one
			w.group()
			w.cut(first, end)
		case len(w.files) == 0 || first > w.files[len(w.files)-1].first:
			w.files = append(w.files, smallFile{first, end - first, pathHash(s.Path)})
		}
		w.known = max(w.known, end)
	}
	w.group()
	w.gap(w.pages)
	return w.out
}

type bodyPlanner struct {
	boot  *bpk.BootIndex
	pages int64 // of the image
	out   []bpk.Range
	next  int64       // first page that is not planned
	known int64       // end of the segments so far
	files []smallFile // of the group that begins at next
}

// A smallFile begins on page first, on which no earlier one of its group begins.
type smallFile struct {
	first, pages int64
	hash         uint32 // of its path
}

// begins tells whether a file begins a group: the longer it is, the more likely.
func (f smallFile) begins() bool { return int64(f.hash%borderOdds) < f.pages }

// group plans the small files that are waiting, up to the page known.
func (w *bodyPlanner) group() {
	files := w.files
	w.files = nil
	if len(files) == 0 {
		w.cut(w.next, w.known) // the rest of a file that begins in planned pages
	} else {
		w.cut(w.next, files[0].first)
	}
	for len(files) > 0 {
		n := 1
		for n < len(files) && n < maxGroupFiles && !files[n].begins() {
			n++
		}
		end := w.known
		if n < len(files) {
			end = files[n].first
		}
		w.divide(files[:n], end)
		files = files[n:]
	}
}

// divide plans the files of one group, which ends at page end.
func (w *bodyPlanner) divide(files []smallFile, end int64) {
	if end-files[0].first <= groupPages || len(files) == 1 {
		w.cutAt(files[0].first, end, groupPages)
		return
	}
	least := 1
	for i := range files {
		if i > 0 && files[i].hash < files[least].hash {
			least = i
		}
	}
	w.divide(files[:least], files[least].first)
	w.divide(files[least:], end)
}

// gap plans the pages up to end, which no file has.
func (w *bodyPlanner) gap(end int64) { w.cut(w.next, end) }

// cut plans the pages [first, end) in chunks of chunkPages from first on.
func (w *bodyPlanner) cut(first, end int64) { w.cutAt(first, end, chunkPages) }

func (w *bodyPlanner) cutAt(first, end, pages int64) {
	for p := first; p < end; p += pages {
		w.add(p, min(pages, end-p))
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

func pathHash(path string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(path))
	return h.Sum32()
}
