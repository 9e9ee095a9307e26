package profiles

import "math/bits"

// A PageSet is a set of image pages, for telling first touches. The zero value is empty and ready; it takes
// one bit per page up to the highest one. It is not safe for concurrent use.
type PageSet struct{ words []uint64 }

// Add adds the pages that the range [imageOff, imageOff+length) overlaps and returns those that are new, in
// image order, as ranges of whole pages. A range with a negative offset or no length adds nothing.
func (s *PageSet) Add(imageOff, length int64) []Range {
	if imageOff < 0 || length <= 0 {
		return nil
	}
	var out []Range
	last := (imageOff + length - 1) / PageSize
	if need := last/64 + 1; need > int64(len(s.words)) {
		s.words = append(s.words, make([]uint64, need-int64(len(s.words)))...)
	}
	for p := imageOff / PageSize; p <= last; p++ {
		w, bit := &s.words[p/64], uint64(1)<<(p%64)
		if *w&bit != 0 {
			continue
		}
		*w |= bit
		if n := len(out); n > 0 && out[n-1].ImageOff+out[n-1].Len == p*PageSize {
			out[n-1].Len += PageSize
		} else {
			out = append(out, Range{p * PageSize, PageSize})
		}
	}
	return out
}

// Pages returns how many pages are in the set.
func (s *PageSet) Pages() int64 {
	var n int
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}
