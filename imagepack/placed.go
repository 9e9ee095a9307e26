package imagepack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"bootprof/internal/atomicfile"
)

// A bodyFile takes the parts of a pack that lie behind the boot zone, one after the other. While the zone is still
// being compressed, its length and so the place of the body are not known: parts go to a file without a name beside the
// pack, and are counted from the body's start. Not safe for concurrent use.
type bodyFile struct {
	ctx    context.Context
	placed <-chan struct{} // closed when start is set
	start  *int64          // packOff of the body
	out    io.WriterAt

	early *atomicfile.File // nil: nothing came before the place was known
	buf   *bufio.Writer
	final bool  // buf writes to out
	len   int64 // bytes taken
}

// add takes a part and returns its offset from the body's start.
func (b *bodyFile) add(part []byte) (int64, error) {
	if !b.final {
		select {
		case <-b.placed:
			if err := b.place(); err != nil {
				return 0, err
			}
		default:
		}
	}
	if b.buf == nil {
		f, err := unnamed(b.out)
		if err != nil {
			return 0, err
		}
		b.early, b.buf = f, bufio.NewWriterSize(f, 1<<20)
	}
	at := b.len
	_, err := b.buf.Write(part)
	b.len += int64(len(part))
	return at, err
}

// unnamed makes a file that never gets a name in the directory of the file out, or in the one for temporary files.
func unnamed(out io.WriterAt) (*atomicfile.File, error) {
	path := filepath.Join(os.TempDir(), "bootprof-pack")
	if named, ok := out.(interface{ Name() string }); ok {
		path = named.Name()
	}
	return atomicfile.Create(path, 0o600)
}

// place waits until the body's place is known, and moves what came before there.
func (b *bodyFile) place() error {
	if b.final {
		return nil
	}
	select {
	case <-b.placed:
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
	moved := &offsetWriter{w: b.out, off: *b.start}
	if b.early != nil {
		if err := b.buf.Flush(); err != nil {
			return err
		}
		if _, err := io.Copy(moved, io.NewSectionReader(b.early, 0, b.len)); err != nil {
			return fmt.Errorf("moving the body behind the boot zone: %w", err)
		}
		b.close()
	}
	b.buf, b.final = bufio.NewWriterSize(moved, 1<<20), true
	return nil
}

// close drops what was not placed. It may be called again.
func (b *bodyFile) close() {
	if b.early != nil {
		b.early.Close()
		b.early = nil
	}
}
