package mountclient

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bootprof/imagepack/bpk"
)

// Tuning of demand misses.
const (
	demandJoinBytes = 1 << 20 // stored chunks that lie side by side are fetched in one request up to this
)

// A demand fetches body chunks that a reader waits for. Readers of one chunk share one fetch. A fetch
// belongs to the client, not to the reader that began it: it goes on when that reader is interrupted.
type demand struct {
	ctx    context.Context // of the client
	fetch  *fetcher
	body   *bpk.Body
	boot   *bpk.BootIndex
	store  *store
	dec    *bpk.BodyDecoder
	pushed func([]bpk.Range)

	misses  atomic.Int64 // chunks fetched because a reader waited
	running sync.WaitGroup

	mu      sync.Mutex
	flights map[int64]*flight // by first page of the chunk
}

type flight struct {
	entry bpk.Entry
	done  chan struct{}
	err   error // set before done is closed
}

// need brings all body pages of [page, page+pages) into the store. Boot pages in between are not its job.
func (d *demand) need(ctx context.Context, page, pages int64) error {
	var wait, mine []*flight
	for p, end := page, page+pages; p < end; {
		lacking := d.store.lacking(d.boot.ColdRanges(p, end-p))
		if len(lacking) == 0 {
			break
		}
		e, err := d.body.Find(lacking[0].Page, d.node)
		if err != nil {
			return err
		}
		f, created := d.flight(e)
		wait = append(wait, f)
		if created {
			mine = append(mine, f)
		}
		p = e.Page + e.Pages
	}
	for len(mine) > 0 {
		group := adjacent(mine)
		mine = mine[len(group):]
		d.running.Go(func() { d.load(group) })
	}
	for _, f := range wait {
		select {
		case <-f.done:
			if f.err != nil {
				return f.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// flight returns the fetch of chunk e that is under way, or a new one.
func (d *demand) flight(e bpk.Entry) (f *flight, created bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.flights[e.Page]; f != nil {
		return f, false
	}
	f = &flight{entry: e, done: make(chan struct{})}
	d.flights[e.Page] = f
	return f, true
}

// adjacent returns the longest head of fs whose stored bytes lie side by side in the pack.
func adjacent(fs []*flight) []*flight {
	n := 1
	total := fs[0].entry.Len
	for n < len(fs) && fs[0].entry.Len > 0 {
		prev, e := fs[n-1].entry, fs[n].entry
		if e.PackOff != prev.PackOff+prev.Len || total+e.Len > demandJoinBytes {
			break
		}
		total += e.Len
		n++
	}
	return fs[:n]
}

// load fetches the chunks of a group in one request, and wakes their readers.
func (d *demand) load(group []*flight) {
	first, last := group[0].entry, group[len(group)-1].entry
	var raw []byte
	var err error
	if first.Len > 0 {
		d.misses.Add(int64(len(group)))
		raw, err = d.fetch.bytes(d.ctx, first.PackOff, last.PackOff+last.Len-first.PackOff)
	}
	for _, f := range group {
		if err == nil {
			n := f.entry.Len
			f.err = d.keep(&f.entry, raw[:n])
			raw = raw[n:]
		} else {
			f.err = err
		}
		d.mu.Lock()
		delete(d.flights, f.entry.Page)
		d.mu.Unlock()
		close(f.done)
	}
}

// keep decodes a chunk into the store. A damaged one is fetched again until it is whole.
func (d *demand) keep(e *bpk.Entry, stored []byte) error {
	cold := d.boot.ColdRanges(e.Page, e.Pages)
	var data []byte
	if e.Codec != bpk.CodecZero {
		var n int64
		for _, r := range cold {
			n += r.Pages
		}
		var err error
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, maxRetryWait) {
			if data, err = d.dec.Decode(e, stored, n); err == nil {
				break
			}
			d.fetch.src.count.corrupt.Add(1)
			d.fetch.log.Warn("damaged chunk, fetching it again", "error", err)
			if !sleep(d.ctx, wait) {
				return context.Cause(d.ctx)
			}
			if stored, err = d.fetch.bytes(d.ctx, e.PackOff, e.Len); err != nil {
				return err
			}
		}
	}
	if err := d.store.put(cold, data); err != nil {
		return fmt.Errorf("keeping pages: %w", err)
	}
	d.pushed(cold)
	return nil
}

// node fetches a node of the body index. The caller checks its digest; a damaged one is fetched again first.
func (d *demand) node(what string, b bpk.Block) ([]byte, error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, maxRetryWait) {
		raw, err := d.fetch.bytes(d.ctx, b.PackOff, b.Len)
		if err != nil {
			return nil, err
		}
		if err := bpk.CheckBlock(what, b, raw); err == nil {
			return raw, nil
		}
		d.fetch.src.count.corrupt.Add(1)
		if !sleep(d.ctx, wait) {
			return nil, context.Cause(d.ctx)
		}
	}
}
