package zopt

import "math/bits"

// Symbol alphabets of the sequences section (RFC 8878, 3.1.1.3.2.1).
const (
	llSymbols = 36
	mlSymbols = 53
	ofSymbols = 32

	llMaxLog = 9 // largest accuracy log the format allows
	mlMaxLog = 9
	ofMaxLog = 8

	minMatch = 3 // shortest match the format can say
)

// Extra bits that follow a literal-length or match-length code.
var (
	llBits = [llSymbols]uint8{16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	mlBits = [mlSymbols]uint8{32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
)

// Predefined distributions (RFC 8878, 3.1.1.3.2.2); -1 is "less than one".
var (
	llDefault = []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1}
	mlDefault = []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1}
	ofDefault = []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}
)

// First value of each code, and the code of each small value. The tables are filled once and never
// change.
var (
	llBase, llSmall = codeTables[[llSymbols]uint32, [64]uint8](llBits[:], 0)
	mlBase, mlSmall = codeTables[[mlSymbols]uint32, [128]uint8](mlBits[:], minMatch)
)

// codeTables derives the base values of codes from their numbers of extra bits, and the codes of the
// values first, first+1, ...
func codeTables[B [llSymbols]uint32 | [mlSymbols]uint32, S [64]uint8 | [128]uint8](extra []uint8, first uint32) (base B, small S) {
	v := uint32(0)
	for c, n := range extra {
		base[c] = first + v
		for k := v; k < v+1<<n && int(k) < len(small); k++ {
			small[k] = uint8(c)
		}
		v += 1 << n
	}
	return base, small
}

// llCode returns the code of a literal length. A block full of literals, which no sequence can follow,
// counts as the longest one.
func llCode(ll uint32) uint8 {
	if ll < 64 {
		return llSmall[ll]
	}
	return uint8(min(bits.Len32(ll)+18, llSymbols-1))
}

// mlCode returns the code of a match length of at least minMatch.
func mlCode(ml uint32) uint8 {
	if ml-minMatch < 128 {
		return mlSmall[ml-minMatch]
	}
	return uint8(bits.Len32(ml-minMatch) + 35)
}

// ofCode returns the code of an offset value (1 to 3: repeated offsets; else the offset plus 3), which
// is also its number of extra bits.
func ofCode(value uint32) uint8 { return uint8(bits.Len32(value) - 1) }

// Offset values that name a repeated offset.
const repValues = 3

// reps holds the three most recent offsets as the decoder will know them.
type reps [repValues]uint32

// firstReps is the state at the start of a frame.
var firstReps = reps{1, 4, 8}

// value returns the offset value to encode for an offset, given whether the sequence has literals.
func (r *reps) value(off uint32, hasLits bool) uint32 {
	if hasLits {
		switch off {
		case r[0]:
			return 1
		case r[1]:
			return 2
		case r[2]:
			return 3
		}
	} else {
		switch off {
		case r[1]:
			return 1
		case r[2]:
			return 2
		case r[0] - 1: // never 0: offsets are at least 1
			return 3
		}
	}
	return off + repValues
}

// push updates the state after a sequence with this offset and value.
func (r *reps) push(off, value uint32, hasLits bool) {
	switch {
	case value == 1 && hasLits:
	case value == 2 && hasLits, value == 1:
		r[0], r[1] = off, r[0]
	default:
		r[0], r[1], r[2] = off, r[0], r[1]
	}
}

// Fixed-point logarithms: costs are in 1/256 bit. They are computed with integers only, so that every
// machine takes the same decisions and writes the same bytes.
const (
	bitCost    = 256
	logIndex   = 11 // bits of the mantissa that index logTable
	logFracLen = 16
)

var logTable = makeLogTable()

func makeLogTable() (t [1 << logIndex]uint16) {
	for m := range t {
		y := uint64(1<<30 + m<<(30-logIndex)) // 1 <= y < 2, 30 fractional bits
		var frac uint32
		for range logFracLen {
			y = y * y >> 30
			frac <<= 1
			if y >= 2<<30 {
				frac |= 1
				y >>= 1
			}
		}
		t[m] = uint16((frac + 1<<(logFracLen-9)) >> (logFracLen - 8)) // may be 256
	}
	return t
}

// log2 returns log2(x) in 1/256 bit; log2(0) is 0.
func log2(x uint32) int32 {
	if x == 0 {
		return 0
	}
	h := bits.Len32(x) - 1
	m := x << (31 - h) & (1<<31 - 1) >> (31 - logIndex)
	return int32(h)*bitCost + int32(logTable[m])
}
