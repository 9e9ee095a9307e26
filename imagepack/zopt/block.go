package zopt

// Kinds of blocks (RFC 8878, 3.1.1.2.2).
const (
	blockRaw = iota
	blockRLE
	blockCompressed
)

// blockHeaderLen is the length of a block's header in bytes.
const blockHeaderLen = 3

// appendBlockHeader appends a block header; size is the block's content, or for RLE what it stands for.
func appendBlockHeader(dst []byte, kind, size int, last bool) []byte {
	h := size<<3 | kind<<1
	if last {
		h |= 1
	}
	return append(dst, uint8(h), uint8(h>>8), uint8(h>>16))
}

// A blockWriter writes blocks and keeps what a decoder knows between them.
type blockWriter struct {
	state entropyState
	lits  []byte
	coded []codedSeq
}

// append appends src as one block, which the sequences and the literals after them make up.
func (b *blockWriter) append(dst, src []byte, seqs []sequence, last bool) []byte {
	if len(src) > 1 && allSame(src) {
		return append(appendBlockHeader(dst, blockRLE, len(src), last), src[0])
	}
	b.lits = b.lits[:0]
	at := 0
	for _, s := range seqs {
		b.lits = append(b.lits, src[at:at+int(s.ll)]...)
		at += int(s.ll + s.ml)
	}
	b.lits = append(b.lits, src[at:]...)

	mark := len(dst)
	dst = append(dst, 0, 0, 0)
	state := b.state // kept only if the block is
	b.coded = state.code(b.coded[:0], seqs)
	dst, state.huff = appendLiterals(dst, b.lits, state.huff)
	dst = state.appendSequences(dst, b.coded)
	size := len(dst) - mark - blockHeaderLen
	if size >= len(src) {
		return append(appendBlockHeader(dst[:mark], blockRaw, len(src), last), src...)
	}
	b.state = state
	appendBlockHeader(dst[:mark], blockCompressed, size, last)
	return dst
}

func allSame(b []byte) bool {
	for _, c := range b[1:] {
		if c != b[0] {
			return false
		}
	}
	return true
}
