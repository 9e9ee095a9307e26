package analyzer

import (
	"cmp"
	"math"
	"slices"

	"bootprof/profiles"
)

// Tuning constants, from the simulations the sizing rules come from.
const (
	// DefaultParallel is n, the range requests a client keeps in flight.
	DefaultParallel = 8
	// DefaultSegment is S, the bytes of one range request.
	DefaultSegment = 1 << 20
	// headerBytes is h, what a range request costs in bytes whatever its length: request and response
	// headers of a static web server, 300 to 600 bytes.
	headerBytes = 512
)

// Threshold returns the probability from which a page is worth sending unasked: p > lambda*s/(s + B(R+t_s)).
// lambda is the price of a byte sent in vain in bytes waited for: 1 where the link decides the boot time,
// towards 0 where the CPU does. The result suits MergeOptions.MinProbability and lies in [0, 1].
func Threshold(link Link, lambda float64) float64 {
	return ThresholdFor(link, lambda, profiles.PageSize)
}

// ThresholdFor is Threshold for a range of sizeBytes on the wire instead of an uncompressed page.
func ThresholdFor(link Link, lambda float64, sizeBytes int64) float64 {
	s := float64(max(sizeBytes, 0))
	p := lambda * s / (s + link.bytesPerSecond()*link.firstByte())
	if !(p > 0) { // 0/0 on a link without delay, or a negative lambda
		return 0
	}
	return min(p, 1)
}

// GapFor returns the longest hole, in bytes, that costs less to fetch along than a request of its own:
// h + B(R+t_s)/n with n requests in flight. n below 1 counts as 1.
func GapFor(link Link, n int) int64 {
	gap := headerBytes + link.bytesPerSecond()*link.firstByte()/float64(max(n, 1))
	return saturate(gap)
}

// SegmentFor returns S, the bytes of one range request with which n requests in flight keep the link full:
// the smallest S with n*S >= 2BR + S in whole pages, at least DefaultSegment. One request in flight can
// never fill a link with delay: n below 2 counts as 2.
func SegmentFor(link Link, n int) int64 {
	s := 2 * link.bytesPerSecond() * link.RTT.Seconds() / float64(max(n, 2)-1)
	pages := math.Ceil(s / profiles.PageSize)
	return max(DefaultSegment, saturate(pages*profiles.PageSize))
}

// Coalesce joins ranges of an image between which at most gap bytes lie: fewer requests, some bytes nobody
// asked for. Overlapping ranges are joined as well. The result stands in the order of the earliest range
// that went into each, so that time order stays time order; empty ranges are left out. A negative gap
// joins overlapping ranges only.
func Coalesce(ranges []profiles.Range, gap int64) []profiles.Range {
	byOff := make([]int, 0, len(ranges))
	for i, r := range ranges {
		if r.Len > 0 {
			byOff = append(byOff, i)
		}
	}
	slices.SortFunc(byOff, func(a, b int) int {
		return cmp.Or(cmp.Compare(ranges[a].ImageOff, ranges[b].ImageOff), cmp.Compare(a, b))
	})
	type joined struct {
		profiles.Range
		first int // index of the earliest member
	}
	var out []joined
	for _, i := range byOff {
		r := ranges[i]
		if n := len(out); n > 0 {
			last := &out[n-1]
			// Differences, not sums: offsets near the largest int64 must not wrap.
			if r.ImageOff-last.ImageOff-last.Len <= gap {
				last.Len = max(last.Len, r.ImageOff-last.ImageOff+r.Len)
				last.first = min(last.first, i)
				continue
			}
		}
		out = append(out, joined{r, i})
	}
	slices.SortFunc(out, func(a, b joined) int { return cmp.Compare(a.first, b.first) })
	res := make([]profiles.Range, len(out))
	for i, j := range out {
		res[i] = j.Range
	}
	return res
}

// saturate rounds v to an int64 that never wraps.
func saturate(v float64) int64 {
	if v >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(math.Round(v))
}
