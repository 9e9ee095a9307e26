package zopt

import "encoding/binary"

// A bitWriter appends bits, least significant first, to a byte slice. Callers flush often enough that
// never more than 64 bits are pending.
type bitWriter struct {
	out  []byte
	acc  uint64
	nAcc uint // pending bits in acc
}

// add appends the low n bits of v; higher bits of v must be zero. n is at most 32.
func (w *bitWriter) add(v uint32, n uint) {
	w.acc |= uint64(v) << w.nAcc
	w.nAcc += n
}

// flush moves whole bytes out; afterwards at most 7 bits are pending.
func (w *bitWriter) flush() {
	w.out = binary.LittleEndian.AppendUint64(w.out, w.acc)
	n := w.nAcc >> 3
	w.out = w.out[:len(w.out)-8+int(n)]
	w.acc >>= n << 3
	w.nAcc &= 7
}

// close writes the final 1 bit that tells a backward reader where the bits start, and pads with zeros.
func (w *bitWriter) close() []byte {
	w.add(1, 1)
	return w.pad()
}

// pad fills the last byte with zeros.
func (w *bitWriter) pad() []byte {
	w.nAcc = (w.nAcc + 7) &^ 7
	w.flush()
	return w.out
}
