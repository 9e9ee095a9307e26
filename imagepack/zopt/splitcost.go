package zopt

// symbolCosts are the costs of symbols under the tables a decoder holds, in 1/256 bit; noCode where the
// table has no code or there is no table.
type symbolCosts struct {
	lit [256]uint16
	ll  [llSymbols]uint16
	ml  [mlSymbols]uint16
	of  [ofSymbols]uint16
}

const noCode = 1<<16 - 1

// fresh says which tables of a part are its own, rather than those of the part before.
type fresh struct{ lit, ll, ml, of bool }

// load takes over the tables of an encoder's state.
func (c *symbolCosts) load(e *entropyState) {
	for i := range c.lit {
		c.lit[i] = noCode
		if e.huff != nil && e.huff.len[i] > 0 {
			c.lit[i] = uint16(e.huff.len[i]) * bitCost
		}
	}
	loadFSE(c.ll[:], e.ll)
	loadFSE(c.ml[:], e.ml)
	loadFSE(c.of[:], e.of)
}

func loadFSE(cost []uint16, t *fseTable) {
	for i := range cost {
		cost[i] = noCode
		if t != nil && i < len(t.norm) && t.norm[i] != 0 {
			cost[i] = uint16(int32(t.log)*bitCost - log2(uint32(states(t.norm[i]))))
		}
	}
}

// price estimates the size of a part after these tables, in 1/256 bit.
func (c *symbolCosts) price(seg *cell) (cost int64, f fresh) {
	cost = blockFixedCost + seg.extra
	if seg.nLits > oneStreamMax {
		cost += jumpTableCost
	}
	lits := int64(seg.nLits) * 8 * bitCost
	own, kept := c.priceLits(&seg.stats.lit, seg.nLits)
	if own < lits {
		lits, f.lit = own, true
	}
	if kept >= 0 && kept <= lits {
		lits, f.lit = kept, false
	}
	cost += lits
	if seg.nSeqs > 0 {
		for _, k := range []struct {
			hist   []uint32
			held   []uint16
			preset *fseTable
			fresh  *bool
		}{
			{seg.stats.ll[:], c.ll[:], llAlphabet.predefined, &f.ll},
			{seg.stats.ml[:], c.ml[:], mlAlphabet.predefined, &f.ml},
			{seg.stats.of[:], c.of[:], ofAlphabet.predefined, &f.of},
		} {
			best := entropy(k.hist, llMaxLog*bitCost) + normCostEstimate(k.hist, seg.nSeqs)
			*k.fresh = true
			if p, ok := k.preset.cost(k.hist); ok && p < best {
				best = p
			}
			if kept := crossCost(k.held, k.hist); kept >= 0 && kept <= best {
				best, *k.fresh = kept, false
			}
			cost += best
		}
	}
	return min(cost, int64(seg.nBytes)*8*bitCost+blockHeaderLen*8*bitCost), f
}

// update replaces the fresh tables by those that fit the counts.
func (c *symbolCosts) update(st *stats, f fresh) {
	if f.lit {
		ownCosts(c.lit[:], st.lit[:], maxHuffBits*bitCost)
	}
	if f.ll {
		ownCosts(c.ll[:], st.ll[:], llMaxLog*bitCost)
	}
	if f.ml {
		ownCosts(c.ml[:], st.ml[:], mlMaxLog*bitCost)
	}
	if f.of {
		ownCosts(c.of[:], st.of[:], ofMaxLog*bitCost)
	}
}

// ownCosts sets the costs under the table made for the counts.
func ownCosts(cost []uint16, hist []uint32, longest int32) {
	all := log2(sum(hist))
	for i, n := range hist {
		cost[i] = noCode
		if n > 0 {
			cost[i] = uint16(min(all-log2(n), longest))
		}
	}
}

func sum(hist []uint32) (total uint32) {
	for _, n := range hist {
		total += n
	}
	return total
}

// entropy is the size of symbols under a table of their own, no code longer than longest.
func entropy(hist []uint32, longest int32) int64 {
	all := log2(sum(hist))
	var cost int64
	for _, n := range hist {
		if n > 0 {
			cost += int64(n) * int64(min(all-log2(n), longest))
		}
	}
	return cost
}

// crossCost is the size of symbols under given costs, or -1 if one of them has no code.
func crossCost(cost []uint16, hist []uint32) int64 {
	var total int64
	for i, n := range hist {
		if n > 0 {
			if cost[i] == noCode {
				return -1
			}
			total += int64(n) * int64(cost[i])
		}
	}
	return total
}

// priceLits estimates the size of literals with a table of their own, its description included, and with
// the table held, or -1 if that has no code for one of them. The description is estimated as the entropy
// of the code lengths and a few bytes for their table.
func (c *symbolCosts) priceLits(hist *[256]uint32, total int) (own, kept int64) {
	var lens [maxHuffBits + 1]uint32
	all := log2(uint32(total))
	codeless, zeros := false, uint32(0)
	for i, n := range hist {
		if n == 0 {
			zeros++
			continue
		}
		bits := min(all-log2(n), maxHuffBits*bitCost)
		own += int64(n) * int64(bits)
		kept += int64(n) * int64(c.lit[i])
		codeless = codeless || c.lit[i] == noCode
		lens[max(1, (bits+bitCost/2)/bitCost)]++
		lens[0] += zeros
		zeros = 0
	}
	own += entropy(lens[:], 6*bitCost) + 6*8*bitCost
	if codeless {
		kept = -1
	}
	return own, kept
}

// normCostEstimate estimates the description of a distribution: a symbol takes about as many bits as are
// needed to say its share of what is left.
func normCostEstimate(hist []uint32, total int) int64 {
	left := uint32(total)
	cost := int64(4 + 4)
	zeros := false
	for _, n := range hist {
		if left == 0 {
			break
		}
		if n == 0 {
			if !zeros {
				cost += 4
			} else {
				cost++
			}
			zeros = true
			continue
		}
		zeros = false
		cost += int64(min(bitLen(int(left)), 7))
		left -= n
	}
	return cost * bitCost
}
