package mountclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bootprof/imagepack/bpk"
)

// A bootZone turns the preloaded chunks of a pack into pages in the store, in boot order.
//
// decoded counts the chunks that have been through the store once. A page of a later chunk will come by
// itself; a page of an earlier one that is not in the store was dropped from memory, and again decodes it.
type bootZone struct {
	at      *places
	net     *network
	damaged *atomic.Int64 // chunks whose digest was wrong
	index   *bpk.BootIndex
	store   *store
	pushed  func([]bpk.Range) // told of every chunk's pages once they are in the store
	decoded atomic.Int64
	stuck   moment // since when a chunk has been damaged; zero: none

	mu sync.Mutex // guards again: one frame is decoded anew at a time
}

// run decodes all chunks. It returns when the last page is in the store, when ctx ends, or with a permanent
// error.
func (z *bootZone) run(ctx context.Context) error {
	dec, err := bpk.NewBootDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	var buf []byte
	for i := range z.index.Chunks {
		c := &z.index.Chunks[i]
		if err := z.at.wait(ctx, c.Block); err != nil {
			return err
		}
		if buf, err = z.decode(ctx, dec, i, buf[:0]); err != nil {
			return err
		}
		ranges := z.index.RangesOf(c)
		if err := z.store.put(ranges, buf); err != nil {
			return fmt.Errorf("keeping boot pages: %w", err)
		}
		z.decoded.Store(int64(i + 1))
		z.pushed(ranges)
	}
	return nil
}

// decode appends the pages of chunk i to dst. A damaged chunk is fetched again until it is whole; since the
// damage ends the frame's decoding, the frame is then decoded from its start.
func (z *bootZone) decode(ctx context.Context, dec *bpk.BootDecoder, i int, dst []byte) ([]byte, error) {
	c := &z.index.Chunks[i]
	stored, err := z.at.read(c.Block)
	if err != nil {
		return dst, err
	}
	out, err := dec.Decode(dst, z.index, c, stored)
	if !isCorrupt(err) {
		return out, err
	}
	z.damaged.Add(1)
	check := func(raw []byte) error {
		return bpk.CheckBlock(fmt.Sprintf("boot chunk of pages %d to %d", c.First, c.First+c.Pages-1), c.Block, raw)
	}
	file, off, _ := z.at.find(c.Block)
	sources := 0
	if file.pre != nil {
		all := file.pre.sources(off, c.Len)
		if sources = len(all); sources == 1 {
			file.pre.distrust(all[0], off+c.Len)
		}
	}
	z.stuck.set(time.Now())
	defer z.stuck.set(time.Time{})
	// Options.Timeout is for readers, see Client.await: the zone goes on when the server has mended its bytes.
	patient := func(since time.Duration) bool { return z.net.used() || z.net.patient(since) }
	if stored, err = z.at.again(ctx, c.Block, z.at.source(c.Block), check, err, patient); err != nil {
		return dst, err
	}
	if sources > 1 { // now the bytes tell whose were wrong
		for _, src := range file.pre.liars(off, stored) {
			file.pre.distrust(src, off+c.Len)
		}
	}
	if err := z.at.replace(c.Block, stored); err != nil {
		return dst, err
	}
	return z.fromFrameStart(dec, i, dst) // whole, and if it is still not decodable, the pack was made so
}

// fromFrameStart decodes chunk i after all earlier chunks of its frame.
func (z *bootZone) fromFrameStart(dec *bpk.BootDecoder, i int, dst []byte) ([]byte, error) {
	first := i
	for first > 0 && z.index.Chunks[first-1].Frame == z.index.Chunks[i].Frame {
		first--
	}
	base := len(dst)
	for k := first; ; k++ {
		c := &z.index.Chunks[k]
		stored, err := z.at.read(c.Block)
		if err != nil {
			return dst[:base], err
		}
		if dst, err = dec.Decode(dst[:base], z.index, c, stored); err != nil || k == i {
			return dst, err
		}
	}
}

// again puts the pages of a chunk into the store that run had put there and that were dropped since.
func (z *bootZone) again(chunk int) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	ranges := z.index.RangesOf(&z.index.Chunks[chunk])
	if len(z.store.lacking(ranges)) == 0 {
		return nil // another reader was first
	}
	dec, err := bpk.NewBootDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	data, err := z.fromFrameStart(dec, chunk, nil)
	if err != nil {
		return err
	}
	return z.store.put(ranges, data)
}

func isCorrupt(err error) bool {
	var c *bpk.CorruptError
	return errors.As(err, &c)
}

// sleep waits for d and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
