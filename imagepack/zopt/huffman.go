package zopt

import (
	"math/bits"
	"slices"
)

// maxHuffBits is the longest literal code the format allows.
const maxHuffBits = 11

// A huffTable is a Huffman code for literals together with its description.
type huffTable struct {
	code [256]uint16
	len  [256]uint8 // 0: the symbol has no code
	desc []byte     // Huffman_Tree_Description
}

// bits returns the length of literals with this histogram, or ok == false if one of them has no code.
func (t *huffTable) bits(hist *[256]uint32) (n int, ok bool) {
	for s, c := range hist {
		if c > 0 {
			if t.len[s] == 0 {
				return 0, false
			}
			n += int(c) * int(t.len[s])
		}
	}
	return n, true
}

// newHuffTable returns the code for which description and literals together are shortest, or nil if
// there are fewer than two symbols or the code cannot be described.
func newHuffTable(hist *[256]uint32) *huffTable {
	codes, found := limitedLengths(hist)
	var best *huffTable
	bestBits := 0
	for _, l := range codes[:found] {
		t := &huffTable{len: l}
		n, _ := t.bits(hist)
		if best != nil && n >= bestBits {
			continue
		}
		t.desc = describeWeights(&l)
		if t.desc == nil {
			continue
		}
		if n += 8 * len(t.desc); best == nil || n < bestBits {
			best, bestBits = t, n
		}
	}
	if best != nil {
		best.assign()
	}
	return best
}

// assign gives the symbols canonical codes: longest codes first, by symbol among equals.
func (t *huffTable) assign() {
	var perLen [maxHuffBits + 2]uint16
	longest := uint8(0)
	for _, n := range t.len {
		if n > 0 {
			perLen[n]++
			longest = max(longest, n)
		}
	}
	var next [maxHuffBits + 2]uint16
	code := uint16(0)
	for n := longest; n > 0; n-- {
		next[n] = code
		code = (code + perLen[n]) >> 1
	}
	for s, n := range t.len {
		if n > 0 {
			t.code[s] = next[n]
			next[n]++
		}
	}
}

// limitedLengths returns optimal code lengths under each useful limit on the longest code, by
// package-merge. The list level k of the algorithm does not depend on the limit, so one run serves all.
func limitedLengths(hist *[256]uint32) (codes [maxHuffBits][256]uint8, found int) {
	type leaf struct {
		count uint32
		sym   uint8
	}
	var room [256]leaf
	leaves := room[:0]
	for s, c := range hist {
		if c > 0 {
			leaves = append(leaves, leaf{c, uint8(s)})
		}
	}
	n := len(leaves)
	if n < 2 {
		return codes, 0
	}
	slices.SortFunc(leaves, func(a, b leaf) int {
		if a.count != b.count {
			return int(int64(a.count) - int64(b.count))
		}
		return int(a.sym) - int(b.sym)
	})

	// isLeaf[k] tells for each item of list level k, in order of weight, whether it is a leaf.
	var isLeaf [maxHuffBits][2 * 256]bool
	var weights [2][2 * 256]uint64 // of this level and the one before, in turns
	nPrev := 0
	for k := range maxHuffBits {
		prev, cur := weights[k&1][:nPrev], &weights[1-k&1]
		nCur := 0
		for i, j := 0, 0; i < n || j+1 < nPrev; nCur++ {
			if j+1 >= nPrev || i < n && uint64(leaves[i].count) <= prev[j]+prev[j+1] {
				cur[nCur] = uint64(leaves[i].count)
				isLeaf[k][nCur] = true
				i++
			} else {
				cur[nCur] = prev[j] + prev[j+1]
				j += 2
			}
		}
		nPrev = nCur
		if n > 1<<(k+1) {
			continue // codes of k+1 bits are too short for n symbols
		}
		// The first 2n-2 items are taken; a leaf taken makes its symbol's code longer by one.
		l := &codes[found]
		found++
		take := 2*n - 2
		for level := k; level >= 0 && take > 0; level-- {
			taken := 0
			for _, leaf := range isLeaf[level][:take] {
				if leaf {
					l[leaves[taken].sym]++
					taken++
				}
			}
			take = 2 * (take - taken)
		}
	}
	return codes, found
}

// describeWeights returns the shorter of the two descriptions of a code (RFC 8878, 4.2.1), or nil if it
// has none. The weight of the last symbol is not written: it follows from the others.
func describeWeights(lens *[256]uint8) []byte {
	longest, last := uint8(0), 0
	for s, n := range lens {
		if n > 0 {
			longest = max(longest, n)
			last = s
		}
	}
	var buf [255]uint8
	weights := buf[:last]
	for s := range weights {
		if lens[s] > 0 {
			weights[s] = longest + 1 - lens[s]
		}
	}
	desc := fseWeights(weights)
	if direct := 1 + (last+1)/2; last <= 128 && last > 0 && (desc == nil || direct < len(desc)) {
		desc = make([]byte, direct)
		desc[0] = uint8(127 + last)
		for i, w := range weights {
			desc[1+i/2] |= w << (4 * (1 - i%2))
		}
	}
	return desc
}

// fseWeights compresses weights with two interleaved FSE states, or returns nil if that is not possible.
func fseWeights(weights []uint8) []byte {
	if len(weights) < 2 {
		return nil
	}
	var hist [maxHuffBits + 1]uint32
	for _, w := range weights {
		hist[w]++
	}
	var best []byte
	for log := uint8(5); log <= 6; log++ {
		norm := normalise(hist[:], log)
		if norm == nil {
			return nil
		}
		d := newFSETable(norm, log).appendPaired(appendNorm(make([]byte, 1, 160), norm, log), weights)
		if len(d)-1 < 128 && (best == nil || len(d) < len(best)) {
			d[0] = uint8(len(d) - 1)
			best = d
		}
	}
	return best
}

// appendStream appends lits as one backward bit stream.
func (t *huffTable) appendStream(dst, lits []byte) []byte {
	w := bitWriter{out: dst}
	i := len(lits)
	for ; i >= 4; i -= 4 {
		for _, s := range [4]byte{lits[i-1], lits[i-2], lits[i-3], lits[i-4]} {
			w.add(uint32(t.code[s]), uint(t.len[s]))
		}
		w.flush()
	}
	for i--; i >= 0; i-- {
		w.add(uint32(t.code[lits[i]]), uint(t.len[lits[i]]))
		w.flush()
	}
	return w.close()
}

// bitLen is bits.Len for the sizes in section headers.
func bitLen(n int) int { return bits.Len(uint(n)) }
