package imagepack

import (
	"bufio"
	"context"
	"io"
)

// maxEarly bounds the stored bytes of the body that wait in memory for the boot zone.
const maxEarly = 96 << 20

// A bodyFile takes the parts of a pack that lie behind the boot zone, one after the other. While the zone is still
// being compressed, its length and so the place of the body are not known: parts are kept in memory, up to
// maxEarly, and counted from the body's start. Not safe for concurrent use.
type bodyFile struct {
	ctx    context.Context
	placed <-chan struct{} // closed when start is set
	start  *int64          // packOff of the body
	out    io.WriterAt

	early []byte
	buf   *bufio.Writer // nil until the body is placed
	len   int64         // bytes taken
}

// add takes a part and returns its offset from the body's start.
func (b *bodyFile) add(part []byte) (int64, error) {
	at := b.len
	if b.buf == nil {
		select {
		case <-b.placed:
		default:
			if len(b.early)+len(part) <= maxEarly {
				b.early = append(b.early, part...)
				b.len += int64(len(part))
				return at, nil
			}
		}
		if err := b.place(); err != nil {
			return 0, err
		}
	}
	_, err := b.buf.Write(part)
	b.len += int64(len(part))
	return at, err
}

// place waits until the body's place is known, and writes what waited for it.
func (b *bodyFile) place() error {
	if b.buf != nil {
		return nil
	}
	select {
	case <-b.placed:
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
	b.buf = bufio.NewWriterSize(&offsetWriter{w: b.out, off: *b.start}, 1<<20)
	_, err := b.buf.Write(b.early)
	b.early = nil
	return err
}
