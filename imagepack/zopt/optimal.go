package zopt

import (
	"encoding/binary"
	"math"
)

// A sequence is a run of literals followed by a match.
type sequence struct{ ll, ml, off uint32 }

// A region is a stretch of a block that shares its prices. It ends before the block's byte end.
type region struct {
	end    int
	prices *prices
}

// An arrival is the cheapest known way to reach a position with the end of a match.
type arrival struct {
	price int32  // of everything from the block's start to here, without the next literal length
	off   uint32 // of the match
	ml    uint32 // length of the match; 0 at the block's start
	ll    uint32 // literals before the match
}

// A literalRun is the cheapest known way to reach a position with a literal.
type literalRun struct {
	price int32 // the price of the run's length, ll, included
	ll    uint32
	reps  reps // after the arrival at this position, not of the run
}

// unreachable is above every price: a block of the dearest literals costs half of it.
const unreachable = math.MaxInt32 / 2

// A parser finds the cheapest sequences for a block, given its matches and prices, by dynamic
// programming over its positions. Each position keeps two ways to be reached, after a match and
// after literals, because they differ in what follows: the price of the next literal length and the
// meaning of the repeated offsets.
type parser struct {
	slack    int32 // how much dearer, in 1/256 bit, a way may be and still get its repeated offsets tried
	arrivals []arrival
	runs     []literalRun
	seqs     []sequence
}

func newParser(maxBlock int, slack int32) *parser {
	return &parser{slack: slack, arrivals: make([]arrival, maxBlock+1), runs: make([]literalRun, maxBlock+1)}
}

// parse returns the sequences for the block f.buf[start:], valid until the next call; literals after the
// last one are implied. The regions cover the block; rep is the state before it.
func (p *parser) parse(f *matchFinder, start int, rep reps, regions []region) []sequence {
	buf := f.buf
	n := len(buf) - start
	arr, runs := p.arrivals[:n+1], p.runs[:n+1]
	for i := range arr {
		arr[i].price = unreachable
		runs[i].price = unreachable
	}
	arr[0] = arrival{}
	runs[0].reps = rep
	pr := regions[0].prices
	for i := 0; i < n; {
		for i >= regions[0].end {
			regions = regions[1:]
			pr = regions[0].prices
		}
		a, r := &arr[i], &runs[i]
		if a.ml > 0 && a.price < unreachable {
			p.settle(i)
		}

		// One more literal.
		lit := pr.lit[buf[start+i]]
		next := &runs[i+1]
		afterMatch := a.price + pr.ll[0]
		if afterMatch < unreachable {
			next.price, next.ll = a.price+lit+pr.ll[1], 1
		}
		if r.price < unreachable {
			if c := r.price + lit + pr.litLen(r.ll+1) - pr.litLen(r.ll); c < next.price {
				next.price, next.ll = c, r.ll+1
			}
		}
		cheapest := min(afterMatch, r.price)
		if i+4 > n { // four bytes are compared at once
			i++
			continue
		}

		longest := match{}
		if afterMatch <= cheapest+p.slack {
			longest = p.tryReps(f, start, i, n, pr, afterMatch, 0, &r.reps)
		}
		if r.price <= cheapest+p.slack {
			if m := p.tryReps(f, start, i, n, pr, r.price, r.ll, &runs[i-int(r.ll)].reps); m.len > longest.len {
				longest = m
			}
		}
		ll := uint32(0)
		if r.price < afterMatch {
			ll = r.ll
		}
		from := uint32(minMatch)
		for _, m := range f.matches[f.first[i]:f.first[i+1]] {
			base := cheapest + pr.of[ofCode(m.off+repValues)]
			to := min(m.len, uint32(n-i))
			p.reach(i, from, to, base, pr, m.off, ll)
			from = max(from, to+1)
			if to > longest.len {
				longest = match{to, m.off}
			}
		}
		if longest.len >= f.long {
			i += int(longest.len) // what lies inside a long match is not worth a look
		} else {
			i++
		}
	}
	return p.trace(n, pr)
}

// settle sets the repeated offsets that hold after the final arrival at i.
func (p *parser) settle(i int) {
	a := &p.arrivals[i]
	rep := p.runs[i-int(a.ml)-int(a.ll)].reps
	rep.push(a.off, rep.value(a.off, a.ll > 0), a.ll > 0)
	p.runs[i].reps = rep
}

// tryReps offers the matches at the repeated offsets and returns the longest.
func (p *parser) tryReps(f *matchFinder, start, i, n int, pr *prices, price int32, ll uint32, rep *reps) match {
	buf := f.buf
	at := start + i
	longest := match{}
	offs := *rep
	if ll == 0 {
		offs = reps{rep[1], rep[2], rep[0] - 1}
	}
	here := binary.LittleEndian.Uint32(buf[at:]) << 8
	for k, off := range offs {
		if off-1 >= f.window || int(off) > at {
			continue
		}
		if binary.LittleEndian.Uint32(buf[at-int(off):])<<8 != here {
			continue
		}
		ml := uint32(minMatch + matchLen(buf, at+minMatch, at+minMatch-int(off)))
		code := min(k, 1) // offset values 1, 2 and 3 have the codes 0, 1 and 1
		p.reach(i, minMatch, ml, price+pr.of[code], pr, off, ll)
		if ml > longest.len {
			longest = match{ml, off}
		}
	}
	return longest
}

// reach offers matches of from to to bytes at i.
func (p *parser) reach(i int, from, to uint32, base int32, pr *prices, off, ll uint32) {
	if from > to {
		return
	}
	dst := p.arrivals[i+int(from) : i+int(to)+1]
	for k := range dst {
		ml := from + uint32(k)
		if c := base + pr.matchLen(ml); c < dst[k].price {
			dst[k] = arrival{c, off, ml, ll}
		}
	}
}

// trace follows the cheapest way back from the end of the block.
func (p *parser) trace(n int, pr *prices) []sequence {
	i := n
	if r := &p.runs[n]; r.price < unreachable && r.price-pr.litLen(r.ll) < p.arrivals[n].price {
		i -= int(r.ll)
	}
	p.seqs = p.seqs[:0]
	for i > 0 {
		a := &p.arrivals[i]
		p.seqs = append(p.seqs, sequence{a.ll, a.ml, a.off})
		i -= int(a.ml + a.ll)
	}
	for a, b := 0, len(p.seqs)-1; a < b; a, b = a+1, b-1 {
		p.seqs[a], p.seqs[b] = p.seqs[b], p.seqs[a]
	}
	return p.seqs
}
