package analyzer

import (
	"math"
	"slices"
	"time"

	"gonum.org/v1/gonum/stat"

	"bootprof/profiles"
)

// A cursor walks one run's touches in image order.
type cursor struct {
	touches []profiles.Touch
	byOff   []int32
	next    int // index into byOff of the first touch that does not end before the sweep
}

// An overlap counts how far the runs agree, in pages, before anything is left out.
type overlap struct {
	union int64   // touched in any run
	every int64   // touched in every run
	run   []int64 // touched in this run
	only  []int64 // touched in this run and in no other
}

// sweep goes through all runs at once in image order. Between two borders of touches the same runs touched
// every page, so work and memory go with the touches, not with the pages: a run of a hostile length costs
// nothing. It returns the pieces that keep accepts, in image order.
func sweep(runs []cursor, keep func(count int) bool) ([]step, *overlap) {
	over := &overlap{run: make([]int64, len(runs)), only: make([]int64, len(runs))}
	var steps []step
	times := make([]float64, 0, len(runs)) // of the runs that touched the piece
	var pos int64
	for {
		border, more := int64(math.MaxInt64), false
		times = times[:0]
		last := -1 // a run that touched the piece
		for i := range runs {
			c := &runs[i]
			t, ok := c.at(pos)
			if !ok {
				continue
			}
			more = true
			if t.ImageOff > pos {
				border = min(border, t.ImageOff)
				continue
			}
			border = min(border, t.ImageOff+t.Len)
			times = append(times, float64(t.At))
			last = i
		}
		if !more {
			return steps, over
		}
		if len(times) > 0 {
			pages := pagesOf(border - pos)
			over.add(runs, pos, pages, len(times), last)
			if keep(len(times)) {
				steps = appendStep(steps, step{pos, border - pos, median(times), int32(len(times))})
			}
		}
		pos = border
	}
}

// at returns the first touch that does not end before pos.
func (c *cursor) at(pos int64) (profiles.Touch, bool) {
	for ; c.next < len(c.byOff); c.next++ {
		if t := c.touches[c.byOff[c.next]]; t.ImageOff+t.Len > pos {
			return t, true
		}
	}
	return profiles.Touch{}, false
}

func (o *overlap) add(runs []cursor, pos, pages int64, count, last int) {
	o.union += pages
	if count == len(runs) {
		o.every += pages
	}
	if count == 1 {
		o.only[last] += pages
	}
	for i := range runs {
		if t, ok := runs[i].at(pos); ok && t.ImageOff <= pos {
			o.run[i] += pages
		}
	}
}

// appendStep adds s, joined to the piece before it where both are one in all but a border.
func appendStep(steps []step, s step) []step {
	if n := len(steps); n > 0 {
		if p := &steps[n-1]; p.imageOff+p.lenBytes == s.imageOff && p.at == s.at && p.count == s.count {
			p.lenBytes += s.lenBytes
			return steps
		}
	}
	return append(steps, s)
}

// median returns the lower median of times in nanoseconds, which it sorts. stat.Empirical is what gives a
// moment that was observed; stat.LinInterp takes (x[0]+x[1])/2 as the median of three.
func median(times []float64) time.Duration {
	slices.Sort(times)
	return time.Duration(stat.Quantile(0.5, stat.Empirical, times, nil))
}
