package analyzer

import (
	"time"

	"bootprof/profiles"
)

// A Tier says how sure a boot is to touch a range.
type Tier uint8

const (
	TierSure Tier = iota // touched in every run
	TierTail             // touched in some runs
)

// String returns "sure" or "tail".
func (t Tier) String() string {
	if t == TierSure {
		return "sure"
	}
	return "tail"
}

// A PlannedRange is a run of pages that neighbour each other in the image and in the order of touching,
// with the same probability.
type PlannedRange struct {
	ImageOff    int64         // bytes, a multiple of profiles.PageSize
	Len         int64         // bytes, > 0
	At          time.Duration // median first touch of the first page, CPU time since the start of the boot
	Probability float64       // share of the runs that touched it, in (0, 1]
	Tier        Tier
}

// A Plan is what to send to a booting machine, in order. It is read-only once made and safe for
// concurrent use. Merge makes it; a plan put together by hand needs only the exported fields.
type Plan struct {
	ImageSize   int64    // bytes
	ImageSHA256 [32]byte // of the whole image
	Runs        int      // how many runs went into it
	Ranges      []PlannedRange

	steps []step // the same pages in the same order, with the median of each; nil in a plan made by hand
}

// A step is a piece of the image whose pages share moment and count.
type step struct {
	imageOff, lenBytes int64
	at                 time.Duration
	count              int32 // runs that touched it
}

// Pages returns the number of pages in the plan.
func (p *Plan) Pages() int64 {
	var n int64
	for _, r := range p.Ranges {
		n += pagesOf(r.Len)
	}
	return n
}

// Bytes returns the uncompressed size of the plan's pages.
func (p *Plan) Bytes() int64 {
	var n int64
	for _, r := range p.Ranges {
		n += r.Len
	}
	return n
}

// Order returns the image ranges in the order of the plan.
func (p *Plan) Order() []profiles.Range {
	out := make([]profiles.Range, len(p.Ranges))
	for i, r := range p.Ranges {
		out[i] = profiles.Range{ImageOff: r.ImageOff, Len: r.Len}
	}
	return out
}

// Touches returns the plan as touches by time. They are finer than Ranges where the pages of one range have
// different medians, which is what Bound and Simulate need. The second result is the probability of each.
func (p *Plan) Touches() ([]profiles.Touch, []float64) {
	if p.steps == nil {
		touches, prob := make([]profiles.Touch, len(p.Ranges)), make([]float64, len(p.Ranges))
		for i, r := range p.Ranges {
			touches[i] = profiles.Touch{At: r.At, ImageOff: r.ImageOff, Len: r.Len}
			prob[i] = r.Probability
		}
		return touches, prob
	}
	touches, prob := make([]profiles.Touch, len(p.steps)), make([]float64, len(p.steps))
	for i, s := range p.steps {
		touches[i] = profiles.Touch{At: s.at, ImageOff: s.imageOff, Len: s.lenBytes}
		prob[i] = float64(s.count) / float64(p.Runs)
	}
	return touches, prob
}

// ranges puts steps that follow each other in the image and have the same count into one range.
func ranges(steps []step, runs int) []PlannedRange {
	var out []PlannedRange
	var count int32 // of the last range
	for _, s := range steps {
		if n := len(out); n > 0 && count == s.count && out[n-1].ImageOff+out[n-1].Len == s.imageOff {
			out[n-1].Len += s.lenBytes
			continue
		}
		r := PlannedRange{ImageOff: s.imageOff, Len: s.lenBytes, At: s.at,
			Probability: float64(s.count) / float64(runs), Tier: TierTail}
		if int(s.count) == runs {
			r.Tier = TierSure
		}
		out = append(out, r)
		count = s.count
	}
	return out
}

// pagesOf returns how many pages n bytes are; the last page of an image may be short.
func pagesOf(n int64) int64 {
	pages := n / profiles.PageSize
	if n%profiles.PageSize != 0 {
		pages++
	}
	return pages
}
