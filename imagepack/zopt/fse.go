package zopt

import "math/bits"

// An fseTable encodes symbols of one alphabet by finite state entropy coding (RFC 8878, 4.1).
type fseTable struct {
	log   uint8   // accuracy log: the table has 1<<log states
	norm  []int16 // probability of each symbol in states; -1 is "less than one", 0 cannot be encoded
	next  []uint16
	trans []fseTransition
}

// An fseTransition says how a symbol changes the state.
type fseTransition struct {
	deltaBits  uint32 // (state + deltaBits)>>16 is the number of bits to write
	deltaState int32  // (state >> bits) + deltaState is the index into next
}

// newFSETable builds the encoding table of a normalised distribution that sums to 1<<log.
func newFSETable(norm []int16, log uint8) *fseTable {
	size := 1 << log
	t := &fseTable{log: log, norm: norm, next: make([]uint16, size), trans: make([]fseTransition, len(norm))}

	// Spread the symbols over the states; "less than one" ones take the last states.
	spread := make([]uint8, size)
	high := size - 1
	for s, n := range norm {
		if n == -1 {
			spread[high] = uint8(s)
			high--
		}
	}
	pos, step := 0, size>>1+size>>3+3
	for s, n := range norm {
		for range max(n, 0) {
			spread[pos] = uint8(s)
			pos = (pos + step) & (size - 1)
			for pos > high {
				pos = (pos + step) & (size - 1)
			}
		}
	}

	// The states of a symbol, in order, follow those of the symbols before it.
	start := make([]int, len(norm)+1)
	for s, n := range norm {
		start[s+1] = start[s] + states(n)
	}
	at := append([]int(nil), start...)
	for u, s := range spread {
		t.next[at[s]] = uint16(size + u)
		at[s]++
	}
	for s, n := range norm {
		switch k := states(n); k {
		case 0:
		case 1:
			t.trans[s] = fseTransition{uint32(log)<<16 - 1<<log, int32(start[s]) - 1}
		default:
			maxBits := uint32(log) - uint32(bits.Len32(uint32(k-1))-1)
			t.trans[s] = fseTransition{maxBits<<16 - uint32(k)<<maxBits, int32(start[s] - k)}
		}
	}
	return t
}

// states returns how many states a probability stands for.
func states(n int16) int {
	if n == -1 {
		return 1
	}
	return int(n)
}

// start returns the state from which a decoder reads symbol s first, without writing a bit.
func (t *fseTable) start(s uint8) uint32 {
	tr := t.trans[s]
	n := (tr.deltaBits + 1<<15) >> 16
	v := n<<16 - tr.deltaBits
	return uint32(t.next[int32(v>>n)+tr.deltaState])
}

// encode writes what takes the decoder from symbol s to the given state, and returns the state of s.
func (t *fseTable) encode(w *bitWriter, state uint32, s uint8) uint32 {
	tr := t.trans[s]
	n := (state + tr.deltaBits) >> 16
	w.add(state&(1<<n-1), uint(n))
	return uint32(t.next[int32(state>>n)+tr.deltaState])
}

// finish writes the state with which the decoder starts.
func (t *fseTable) finish(w *bitWriter, state uint32) {
	w.add(state&(1<<t.log-1), uint(t.log))
}

// appendPaired appends at least two symbols as one backward bit stream with two states, which take turns;
// the first symbol is of the state that is read first.
func (t *fseTable) appendPaired(dst, symbols []uint8) []byte {
	w := bitWriter{out: dst}
	var state [2]uint32
	n := len(symbols)
	state[(n-1)&1] = t.start(symbols[n-1])
	state[(n-2)&1] = t.start(symbols[n-2])
	for i := n - 3; i >= 0; i-- {
		state[i&1] = t.encode(&w, state[i&1], symbols[i])
		w.flush()
	}
	t.finish(&w, state[1])
	t.finish(&w, state[0])
	return w.close()
}

// cost returns the bits, in 1/256, that symbols with these counts take, or ok == false if one of them
// cannot be encoded.
func (t *fseTable) cost(hist []uint32) (cost int64, ok bool) {
	return normCost(t.norm, t.log, hist)
}

func normCost(norm []int16, log uint8, hist []uint32) (cost int64, ok bool) {
	for s, c := range hist {
		if c == 0 {
			continue
		}
		if s >= len(norm) || norm[s] == 0 {
			return 0, false
		}
		cost += int64(c) * int64(int32(log)*bitCost-log2(uint32(states(norm[s]))))
	}
	return cost, true
}

// normalise scales counts to a distribution that sums to 1<<log: shares are rounded down, at least
// one each, and the rest goes one by one to the symbol that gains the most. It returns nil if there
// are more symbols than states or fewer than two symbols. The result ends with the last symbol used.
func normalise(hist []uint32, log uint8) []int16 {
	size := 1 << log
	total, used, last := uint64(0), 0, 0
	for s, c := range hist {
		if c > 0 {
			total += uint64(c)
			used++
			last = s
		}
	}
	if used < 2 || used > size {
		return nil
	}
	norm := make([]int16, last+1)
	rest := size
	for s, c := range hist[:last+1] {
		if c > 0 {
			norm[s] = int16(max(1, uint64(c)<<log/total))
			rest -= int(norm[s])
		}
	}
	for ; rest > 0; rest-- {
		best, bestGain := -1, int64(-1)
		for s, n := range norm {
			if n > 0 {
				if g := int64(hist[s]) * int64(log2(uint32(n)+1)-log2(uint32(n))); g > bestGain {
					best, bestGain = s, g
				}
			}
		}
		norm[best]++
	}
	for ; rest < 0; rest++ {
		best, bestLoss := -1, int64(0)
		for s, n := range norm {
			if n > 1 {
				if l := int64(hist[s]) * int64(log2(uint32(n))-log2(uint32(n)-1)); best < 0 || l < bestLoss {
					best, bestLoss = s, l
				}
			}
		}
		norm[best]--
	}
	return norm
}

// appendNorm appends the description of a distribution (RFC 8878, 4.1.1).
func appendNorm(dst []byte, norm []int16, log uint8) []byte {
	w := bitWriter{out: dst}
	w.add(uint32(log-5), 4)
	remaining := 1 << log
	for s := 0; s < len(norm) && remaining > 0; s++ {
		v := uint32(norm[s] + 1)
		// Values 0 to remaining+1 are possible; the lowest ones take one bit less.
		width := uint(bits.Len(uint(remaining + 1)))
		short := uint32(1<<width - 1 - (remaining + 1))
		switch {
		case v < short:
			w.add(v, width-1)
		case v < 1<<(width-1):
			w.add(v, width)
		default:
			w.add(v+short, width)
		}
		remaining -= states(norm[s])
		w.flush()
		if norm[s] != 0 {
			continue
		}
		// A zero is followed by the number of further zeros, in 2-bit digits; 3 means more follow.
		for {
			run := uint32(0)
			for run < 3 && s+1 < len(norm) && norm[s+1] == 0 {
				run++
				s++
			}
			w.add(run, 2)
			w.flush()
			if run < 3 {
				break
			}
		}
	}
	return w.pad()
}

// normBits returns the length in bits of what appendNorm writes, rounded up to bytes.
func normBits(norm []int16, log uint8) int {
	var buf [160]byte
	return 8 * len(appendNorm(buf[:0], norm, log))
}
