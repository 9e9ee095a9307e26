package zopt

// stats counts the symbols of a stretch of sequences.
type stats struct {
	lit [256]uint32
	ll  [llSymbols]uint32
	ml  [mlSymbols]uint32
	of  [ofSymbols]uint32
}

// add counts all of o as well.
func (s *stats) add(o *stats) {
	addHist(s.lit[:], o.lit[:])
	addHist(s.ll[:], o.ll[:])
	addHist(s.ml[:], o.ml[:])
	addHist(s.of[:], o.of[:])
}

func addHist(dst, src []uint32) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] += src[i]
	}
}

// decay divides all counts.
func (s *stats) decay(div uint32) {
	for _, h := range [][]uint32{s.lit[:], s.ll[:], s.ml[:], s.of[:]} {
		for i := range h {
			h[i] /= div
		}
	}
}

// prices says what symbols cost in 1/256 bit, extra bits included.
type prices struct {
	lit [256]int32
	ll  [64]int32 // by literal length
	llc [llSymbols]int32
	ml  [256]int32 // by match length
	mlc [mlSymbols]int32
	of  [ofSymbols]int32 // by offset code
}

// Tuning of prices. What did not occur costs as much as what occurred once, and a penalty for what it
// adds to the description of the table. The limits keep a parse from shunning for good what the one
// before happened not to use: its real price, once it is in the table, is at most the longest code.
const (
	maxLitPrice  = maxHuffBits * bitCost
	newLitPrice  = 4 * bitCost
	maxCodePrice = llMaxLog*bitCost + bitCost/2
	newCodePrice = 1 * bitCost
	minTotal     = 32 // counts are priced as if there were at least this many
)

// set derives prices from counts.
func (p *prices) set(s *stats) {
	histPrices(p.lit[:], s.lit[:], maxLitPrice, newLitPrice)
	histPrices(p.llc[:], s.ll[:], maxCodePrice, newCodePrice)
	histPrices(p.mlc[:], s.ml[:], maxCodePrice, newCodePrice)
	histPrices(p.of[:], s.of[:], maxCodePrice, newCodePrice)
	for c, n := range llBits {
		p.llc[c] += int32(n) * bitCost
	}
	for c, n := range mlBits {
		p.mlc[c] += int32(n) * bitCost
	}
	for c := range p.of {
		p.of[c] += int32(c) * bitCost
	}
	for l := range p.ll {
		p.ll[l] = p.llc[llSmall[l]]
	}
	for l := minMatch; l < len(p.ml); l++ {
		p.ml[l] = p.mlc[mlCode(uint32(l))]
	}
}

func histPrices(price []int32, hist []uint32, longest, penalty int32) {
	all := log2(max(sum(hist), minTotal))
	for i, c := range hist {
		price[i] = min(all-log2(c), longest) // log2(0) is 0
		if c == 0 {
			price[i] += penalty
		}
	}
}

// litLen returns the price of a literal length.
func (p *prices) litLen(n uint32) int32 {
	if n < uint32(len(p.ll)) {
		return p.ll[n]
	}
	return p.llc[llCode(n)]
}

// matchLen returns the price of a match length.
func (p *prices) matchLen(n uint32) int32 {
	if n < uint32(len(p.ml)) {
		return p.ml[n]
	}
	return p.mlc[mlCode(n)]
}

// initialStats is the guess with which a frame's first block is parsed: literals as they are in the
// block, codes in a mild preference for what is usual.
func initialStats(block []byte) *stats {
	s := new(stats)
	for _, b := range block {
		s.lit[b]++
	}
	s.decay(4)
	for i := range s.ll {
		s.ll[i] = 4
	}
	s.ll[0], s.ll[1] = 16, 8
	for i := range s.ml {
		s.ml[i] = 4
	}
	for i := range s.of {
		s.of[i] = 4
	}
	s.of[0], s.of[1] = 24, 12
	return s
}
