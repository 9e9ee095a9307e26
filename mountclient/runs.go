package mountclient

import (
	"slices"
	"sort"
)

// What one request for two pieces of an image may cost more than two requests. At 100 Mbit/s and 20 ms, with requests
// that overlap, a request costs about as much as 50 KB. But servers count requests, too: bytes that are only early
// may be some more, if that makes few runs of many.
const (
	joinGap  = 64 << 10  // bytes of a gap, which nobody asked for
	minEarly = 64 << 10  // bytes of a run that come before their turn
	maxEarly = 512 << 10 // the same if there would be more than fewRuns
	fewRuns  = 10
	manyRuns = 16 // with those of the opening
)

// Requests to begin with, where the first bytes of a file are not blindly asked for as those of a pack are. The
// sizes follow openingSegments; fewer, because those of manifest and image add up.
var (
	manifestOpening = []int64{14000, 28000, 84000}
	besideOpening   = []int64{128000} // of a manifest after the image's opening, on a connection that is warm
	imageOpening    = []int64{14000, 14000, 28000, 28000, 42000, 98000}
)

// inRow returns spans of the given lengths from byte 0 on.
func inRow(lens []int64) (out []span) {
	off := int64(0)
	for _, n := range lens {
		out = append(out, span{off, off + n})
		off += n
	}
	return out
}

// cutOpening cuts the first spans so that no piece is longer than the length at its place in imageOpening, and
// returns these pieces and what is left. Of many spans few are cut: they are requests enough.
func cutOpening(spans []span) (opening, rest []span) {
	cuts := min(max(2, manyRuns-len(spans)), len(imageOpening))
	for _, n := range imageOpening[:cuts] {
		if len(spans) == 0 {
			break
		}
		s := spans[0]
		cut := min(s.end, s.off+n)
		opening = append(opening, span{s.off, cut})
		if spans = spans[1:]; cut < s.end {
			spans = append([]span{{cut, s.end}}, spans...)
		}
	}
	return opening, spans
}

// planRuns returns disjoint runs that cover the pieces of a file, which are disjoint and in order of need.
func planRuns(pieces []span) []span {
	for early := int64(minEarly); ; early *= 2 {
		if runs := joinRuns(pieces, early); len(runs) <= fewRuns || early >= maxEarly {
			return runs
		}
	}
}

// joinRuns joins pieces to runs. A piece that follows the one before it, with a gap of at most joinGap, goes on with
// its run. One that lies beside an earlier run may join that, before or behind it, as long as no more than maxEarly
// bytes of the run come before their turn.
func joinRuns(pieces []span, maxEarly int64) []span {
	type run struct {
		span
		early int64 // bytes before their turn
	}
	var runs, sorted []*run // in order of need; by offset
	var last *run           // with which the piece before went on in its turn
	for _, p := range pieces {
		i := sort.Search(len(sorted), func(i int) bool { return sorted[i].end > p.off })
		if i < len(sorted) && sorted[i].off <= p.off {
			continue // in a gap that is fetched anyway
		}
		n := p.end - p.off
		if i > 0 {
			r := sorted[i-1]
			if gap := p.off - r.end; gap <= joinGap && r == last {
				r.end = p.end
				continue
			} else if gap <= joinGap && r.early+gap+n <= maxEarly {
				r.end, r.early = p.end, r.early+gap+n
				continue
			}
		}
		if i < len(sorted) {
			r := sorted[i]
			if gap := r.off - p.end; gap <= joinGap && r.early+gap+n <= maxEarly {
				r.off, r.early = p.off, r.early+gap+n
				continue
			}
		}
		last = &run{span: p}
		runs = append(runs, last)
		sorted = slices.Insert(sorted, i, last)
	}
	var out []span
	for _, r := range runs {
		if n := len(out); n > 0 && out[n-1].end == r.off { // they have grown together
			out[n-1].end = r.end
		} else {
			out = append(out, r.span)
		}
	}
	return out
}
