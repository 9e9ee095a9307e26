package zopt

// How a code's FSE table is given (RFC 8878, 3.1.1.3.2.1).
const (
	modePredefined = iota
	modeRLE
	modeCompressed
	modeRepeat
)

// An alphabet is one of the three codes of a sequence.
type alphabet struct {
	maxLog     uint8
	predefined *fseTable
}

// The alphabets, in the order in which their tables are written. They never change.
var (
	llAlphabet = alphabet{llMaxLog, newFSETable(llDefault, 6)}
	ofAlphabet = alphabet{ofMaxLog, newFSETable(ofDefault, 5)}
	mlAlphabet = alphabet{mlMaxLog, newFSETable(mlDefault, 6)}
)

// entropyState is what a decoder keeps from block to block, the history aside.
type entropyState struct {
	huff       *huffTable // nil before the first compressed literals
	ll, of, ml *fseTable  // nil before the first compressed table and after a table of another mode
	reps       reps
}

// A codedSeq is a sequence as its three codes and their extra bits.
type codedSeq struct {
	ll, of, ml                uint8
	llExtra, ofExtra, mlExtra uint32
}

// code turns sequences into codes and moves the repeated offsets on.
func (e *entropyState) code(out []codedSeq, seqs []sequence) []codedSeq {
	for _, s := range seqs {
		v := e.reps.value(s.off, s.ll > 0)
		e.reps.push(s.off, v, s.ll > 0)
		c := codedSeq{ll: llCode(s.ll), of: ofCode(v), ml: mlCode(s.ml)}
		c.llExtra = s.ll - llBase[c.ll]
		c.mlExtra = s.ml - mlBase[c.ml]
		c.ofExtra = v - 1<<c.of
		out = append(out, c)
	}
	return out
}

// appendSequences appends the sequences section and updates the tables for the next block.
func (e *entropyState) appendSequences(dst []byte, seqs []codedSeq) []byte {
	n := len(seqs)
	switch {
	case n < 128:
		dst = append(dst, uint8(n))
	case n < 0x7f00:
		dst = append(dst, uint8(n>>8)+128, uint8(n))
	default:
		dst = append(dst, 255, uint8(n-0x7f00), uint8((n-0x7f00)>>8))
	}
	if n == 0 {
		return dst
	}
	var st stats
	for _, s := range seqs {
		st.ll[s.ll]++
		st.of[s.of]++
		st.ml[s.ml]++
	}
	last := seqs[n-1]
	modes := len(dst)
	dst = append(dst, 0)
	var llMode, ofMode, mlMode uint8
	var ll, of, ml *fseTable
	dst, ll, llMode = chooseTable(dst, &llAlphabet, e.ll, st.ll[:], last.ll)
	dst, of, ofMode = chooseTable(dst, &ofAlphabet, e.of, st.of[:], last.of)
	dst, ml, mlMode = chooseTable(dst, &mlAlphabet, e.ml, st.ml[:], last.ml)
	dst[modes] = llMode<<6 | ofMode<<4 | mlMode<<2
	e.ll, e.of, e.ml = repeatable(ll, llMode), repeatable(of, ofMode), repeatable(ml, mlMode)

	// The decoder reads backward: the first sequence is written last, each one's offset is read first.
	w := bitWriter{out: dst}
	var llState, ofState, mlState uint32
	for i := n - 1; i >= 0; i-- {
		s := &seqs[i]
		if i == n-1 {
			llState, ofState, mlState = ll.start(s.ll), of.start(s.of), ml.start(s.ml)
		} else {
			ofState = of.encode(&w, ofState, s.of)
			mlState = ml.encode(&w, mlState, s.ml)
			llState = ll.encode(&w, llState, s.ll)
			w.flush()
		}
		w.add(s.llExtra, uint(llBits[s.ll]))
		w.add(s.mlExtra, uint(mlBits[s.ml]))
		w.flush()
		w.add(s.ofExtra, uint(s.of))
		w.flush()
	}
	ml.finish(&w, mlState)
	of.finish(&w, ofState)
	ll.finish(&w, llState)
	w.flush()
	return w.close()
}

// repeatable returns the table if a later block may repeat it.
func repeatable(t *fseTable, mode uint8) *fseTable {
	if mode == modeCompressed || mode == modeRepeat {
		return t
	}
	return nil
}

// chooseTable picks the cheapest way to give the table of a code, appends its description and returns
// it. The last symbol is held by the start state and costs no bits in a sequence of its own.
func chooseTable(dst []byte, a *alphabet, prev *fseTable, hist []uint32, last uint8) ([]byte, *fseTable, uint8) {
	used := 0
	for _, c := range hist {
		if c > 0 {
			used++
		}
	}
	if used == 1 {
		// A predefined or repeated table costs bits for each symbol; one byte is cheaper from a few on.
		t := rleTable(last)
		if c, ok := a.predefined.cost(hist); !ok || c > 8*bitCost {
			if prev != nil {
				if c, ok := prev.cost(hist); ok && c <= 8*bitCost {
					return dst, prev, modeRepeat
				}
			}
			return append(dst, last), t, modeRLE
		}
	}
	mode, table := uint8(modePredefined), a.predefined
	best, ok := a.predefined.cost(hist)
	best += int64(a.predefined.log) * bitCost
	if prev != nil {
		if c, can := prev.cost(hist); can {
			if c += int64(prev.log) * bitCost; !ok || c <= best {
				mode, table, best, ok = modeRepeat, prev, c, true
			}
		}
	}
	var norm []int16
	var log uint8
	hist[last]-- // the start state says it
	if hist[last] == 0 {
		hist[last] = 1
	}
	for l := uint8(5); l <= a.maxLog; l++ {
		n := normalise(hist, l)
		if n == nil {
			continue
		}
		c, _ := normCost(n, l, hist)
		c += int64(normBits(n, l)+int(l)) * bitCost
		if !ok || c < best {
			mode, norm, log, best, ok = modeCompressed, n, l, c, true
		}
	}
	if mode == modeCompressed {
		return appendNorm(dst, norm, log), newFSETable(norm, log), mode
	}
	return dst, table, mode
}

// rleTable is the table of a single symbol: no bits at all.
func rleTable(s uint8) *fseTable {
	return &fseTable{next: []uint16{0}, trans: make([]fseTransition, int(s)+1)}
}
