package relayout

import (
	"context"
	"io"
	"sync"
)

// A seqWriter writes one byte after the other into a WriterAt, in large pieces. Not safe for concurrent use.
type seqWriter struct {
	dst io.WriterAt
	off int64 // of the next byte
	buf []byte
}

func newSeqWriter(dst io.WriterAt, off int64) *seqWriter {
	return &seqWriter{dst: dst, off: off, buf: make([]byte, 0, writeBuffer)}
}

func (w *seqWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		m := min(len(p), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[:m]...)
		w.off += int64(m)
		p = p[m:]
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// copy appends the n bytes at srcOff that read gives.
func (w *seqWriter) copy(read func(p []byte, off int64) error, srcOff, n int64) error {
	for n > 0 {
		m := min(n, int64(cap(w.buf)-len(w.buf)))
		part := w.buf[len(w.buf) : int64(len(w.buf))+m]
		if err := read(part, srcOff); err != nil {
			return err
		}
		w.buf = w.buf[:int64(len(w.buf))+m]
		w.off += m
		srcOff += m
		n -= m
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// align appends zeros up to a multiple of n.
func (w *seqWriter) align(n int64) error {
	_, err := w.Write(make([]byte, -w.off&(n-1)))
	return err
}

func (w *seqWriter) flush() error {
	_, err := w.dst.WriteAt(w.buf, w.off-int64(len(w.buf)))
	w.buf = w.buf[:0]
	return err
}

// A blockWriter compresses blocks on several goroutines and writes them in the order they were added.
//
// Goroutines: the caller adds, workers encode, one writes and calls back. At most 4 blocks per worker are in flight.
// An error ends all; close returns it.
type blockWriter struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    *seqWriter
	read   func(p []byte, off int64) error // source of moved ranges
	align  int64                           // blocks begin at multiples of it; 0 and 1 mean anywhere

	order chan *block
	work  chan *block
	pool  sync.Pool // of *[]byte, the added data
	group sync.WaitGroup

	moveOff, moveLen int64 // by the writing goroutine: bytes of the source that are still to be appended
}

type block struct {
	data   *[]byte // to be compressed, or nil: the range of the source is moved
	enc    encoder
	srcOff int64
	srcLen int64
	done   func(off int64, word uint32) // called once the position is known, by the writing goroutine

	stored []byte // nil: data is stored as it is
	err    error
	ready  chan struct{}
}

func newBlockWriter(ctx context.Context, out *seqWriter, workers int) *blockWriter {
	w := &blockWriter{out: out, order: make(chan *block, 4*workers), work: make(chan *block, 4*workers)}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	for range workers {
		w.group.Go(func() {
			for b := range w.work {
				if w.ctx.Err() == nil {
					b.stored, b.err = b.enc.encode(*b.data)
				}
				close(b.ready)
			}
		})
	}
	w.group.Go(w.write)
	return w
}

// buffer returns a buffer of n bytes for add.
func (w *blockWriter) buffer(n int) *[]byte {
	if b, ok := w.pool.Get().(*[]byte); ok && cap(*b) >= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n)
	return &b
}

// add queues data, which it takes over, as one block.
func (w *blockWriter) add(data *[]byte, enc encoder, done func(off int64, word uint32)) error {
	return w.queue(&block{data: data, enc: enc, done: done, ready: make(chan struct{})})
}

// move queues a range of the source.
func (w *blockWriter) move(srcOff, srcLen int64, done func(off int64, word uint32)) error {
	return w.queue(&block{srcOff: srcOff, srcLen: srcLen, done: done})
}

// call queues a call of f with the position that the blocks before it end at.
func (w *blockWriter) call(f func(off int64)) error {
	return w.move(0, 0, func(off int64, _ uint32) { f(off) })
}

func (w *blockWriter) queue(b *block) error {
	select {
	case w.order <- b:
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
	if b.data != nil {
		w.work <- b // the workers empty it until it is closed
	}
	return nil
}

// close waits until all is written. It is called once, also after an error.
func (w *blockWriter) close() error {
	close(w.order)
	close(w.work)
	w.group.Wait()
	err := context.Cause(w.ctx)
	w.cancel(nil)
	return err
}

func (w *blockWriter) write() {
	for b := range w.order {
		if w.ctx.Err() != nil {
			continue
		}
		if err := w.one(b); err != nil {
			w.cancel(err)
		}
	}
	if w.ctx.Err() == nil {
		if err := w.flushMove(); err != nil {
			w.cancel(err)
		}
	}
}

func (w *blockWriter) one(b *block) error {
	if b.data == nil {
		if b.srcOff != w.moveOff+w.moveLen {
			if err := w.flushMove(); err != nil {
				return err
			}
			w.moveOff = b.srcOff
		}
		b.done(w.out.off+w.moveLen, 0)
		w.moveLen += b.srcLen
		if w.moveLen < 4*writeBuffer {
			return nil
		}
		return w.flushMove()
	}
	<-b.ready
	err := b.err
	if err == nil {
		err = w.flushMove()
	}
	if err == nil && w.align > 1 {
		err = w.out.align(w.align)
	}
	if err != nil {
		return err
	}
	stored, word := b.stored, uint32(len(b.stored))
	if stored == nil {
		stored = *b.data
		word = uint32(len(stored)) | plainDataBit
	}
	b.done(w.out.off, word)
	_, err = w.out.Write(stored)
	w.pool.Put(b.data)
	return err
}

// flushMove appends the ranges that were found to follow each other in the source.
func (w *blockWriter) flushMove() error {
	err := w.out.copy(w.read, w.moveOff, w.moveLen)
	w.moveOff, w.moveLen = w.moveOff+w.moveLen, 0
	return err
}
