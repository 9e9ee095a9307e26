package zopt

// Kinds of literals (RFC 8878, 3.1.1.3.1.1).
const (
	litRaw = iota
	litRLE
	litCompressed
	litTreeless
)

// oneStreamMax is the most literals that can be, and here are, one stream instead of four.
const oneStreamMax = 1023

// appendLiterals appends the literals section and returns the Huffman table that a later treeless
// section may use. prev is the one this section may use, or nil.
func appendLiterals(dst, lits []byte, prev *huffTable) ([]byte, *huffTable) {
	var hist [256]uint32
	for _, b := range lits {
		hist[b]++
	}
	if len(lits) > 0 && int(hist[lits[0]]) == len(lits) {
		return append(appendPlainHeader(dst, litRLE, len(lits)), lits[0]), prev
	}
	raw := len(appendPlainHeader(nil, litRaw, len(lits))) + len(lits)
	kind, table := litRaw, (*huffTable)(nil)
	bestBits := 8 * raw
	if t := newHuffTable(&hist); t != nil {
		n, _ := t.bits(&hist)
		if n += 8 * (len(t.desc) + litOverhead(len(lits))); n < bestBits {
			kind, table, bestBits = litCompressed, t, n
		}
	}
	if prev != nil {
		if n, ok := prev.bits(&hist); ok {
			if n += 8 * litOverhead(len(lits)); n <= bestBits {
				kind, table, bestBits = litTreeless, prev, n
			}
		}
	}
	if kind == litRaw {
		return append(appendPlainHeader(dst, litRaw, len(lits)), lits...), prev
	}
	mark := len(dst)
	dst = appendHuffLiterals(dst, lits, kind, table)
	if len(dst)-mark >= raw {
		return append(appendPlainHeader(dst[:mark], litRaw, len(lits)), lits...), prev
	}
	return dst, table
}

// litOverhead estimates the bytes of header, jump table and stream ends.
func litOverhead(n int) int {
	switch {
	case n <= oneStreamMax:
		return 3 + 1
	case n < 1<<14:
		return 4 + 6 + 4
	}
	return 5 + 6 + 4
}

// appendPlainHeader appends the header of raw or RLE literals.
func appendPlainHeader(dst []byte, kind uint8, n int) []byte {
	switch {
	case n < 1<<5:
		return append(dst, kind|uint8(n)<<3)
	case n < 1<<12:
		return append(dst, kind|1<<2|uint8(n)<<4, uint8(n>>4))
	}
	return append(dst, kind|3<<2|uint8(n)<<4, uint8(n>>4), uint8(n>>12))
}

// appendHuffLiterals appends Huffman-coded literals, with the table's description if they are not
// treeless.
func appendHuffLiterals(dst, lits []byte, kind int, t *huffTable) []byte {
	n := len(lits)
	// The header's length follows from the number of literals: the coded size is not larger than that,
	// or else raw literals are taken.
	width, format := uint(10), uint64(0)
	switch {
	case n <= oneStreamMax:
	case n < 1<<14:
		width, format = 14, 2
	default:
		width, format = 18, 3
	}
	head := len(dst)
	dst = append(dst, make([]byte, (4+2*width+7)/8)...)
	body := len(dst)
	if kind == litCompressed {
		dst = append(dst, t.desc...)
	}
	if n <= oneStreamMax {
		dst = t.appendStream(dst, lits)
	} else {
		jump := len(dst)
		dst = append(dst, make([]byte, 6)...)
		seg := (n + 3) / 4
		for k := range 4 {
			from := len(dst)
			dst = t.appendStream(dst, lits[k*seg:min((k+1)*seg, n)])
			if k < 3 {
				size := len(dst) - from
				dst[jump+2*k], dst[jump+2*k+1] = uint8(size), uint8(size>>8)
			}
		}
	}
	h := uint64(kind) | format<<2 | uint64(n)<<4 | uint64(len(dst)-body)<<(4+width)
	for i := head; i < body; i++ {
		dst[i] = uint8(h)
		h >>= 8
	}
	return dst
}
