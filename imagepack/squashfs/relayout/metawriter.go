package relayout

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A metaWriter cuts a stream into metadata blocks and writes them to out. Not safe for concurrent use.
type metaWriter struct {
	out    io.Writer
	enc    encoder
	plain  bool    // do not compress
	buf    []byte  // of the block that is not full yet, shorter than metaLen
	stored int64   // bytes written to out
	total  int64   // bytes of the stream
	starts []int64 // of the blocks in out, counted from the first one
}

// ref is the position of the next byte: start of its block << 16 | offset in what that unpacks to.
func (w *metaWriter) ref() uint64 { return uint64(w.stored)<<16 | uint64(len(w.buf)) }

func (w *metaWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		m := min(len(p), metaLen-len(w.buf))
		w.buf = append(w.buf, p[:m]...)
		w.total += int64(m)
		p = p[m:]
		if len(w.buf) == metaLen { // at once: a position must not be behind a full block
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// flush ends the stream, or a full block of it.
func (w *metaWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	stored, word := w.buf, uint16(len(w.buf))|plainMetaBit
	if !w.plain {
		z, err := w.enc.encode(w.buf)
		if err != nil {
			return fmt.Errorf("compressing a metadata block: %w", err)
		}
		if z != nil {
			stored, word = z, uint16(len(z))
		}
	}
	w.starts = append(w.starts, w.stored)
	w.stored += 2 + int64(len(stored))
	if _, err := w.out.Write(binary.LittleEndian.AppendUint16(nil, word)); err != nil {
		return err
	}
	_, err := w.out.Write(stored)
	w.buf = w.buf[:0]
	return err
}

// writeTable writes entries as metadata blocks, then the positions of these, and returns where the positions begin.
// That is what the superblock tells of a table.
func writeTable(out *seqWriter, enc encoder, plain bool, entries []byte) (uint64, error) {
	w := &metaWriter{out: out, enc: enc, plain: plain}
	first := out.off
	if _, err := w.Write(entries); err != nil {
		return 0, err
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	at := uint64(out.off)
	return at, writePointers(out, first, w.starts)
}

// writePointers writes the positions of blocks that are counted from first.
func writePointers(out *seqWriter, first int64, starts []int64) error {
	b := make([]byte, 0, 8*len(starts))
	for _, s := range starts {
		b = binary.LittleEndian.AppendUint64(b, uint64(first+s))
	}
	_, err := out.Write(b)
	return err
}
