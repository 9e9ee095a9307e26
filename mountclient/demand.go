package mountclient

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bootprof/imagepack/bpk"
)

// A demand fetches body chunks that a reader waits for. Readers of one chunk share one fetch. A fetch
// belongs to the client, not to the reader that began it: it goes on when that reader is interrupted.
type demand struct {
	ctx    context.Context // of the client
	at     *places
	net    *network
	body   *bpk.Body
	boot   *bpk.BootIndex
	pages  int64 // of the image
	store  *store
	dec    *bpk.BodyDecoder
	older  *older // nil: nothing
	cache  *cache // nil: none
	pushed func([]bpk.Range)
	filled func([]bpk.Range) // instead of pushed, for flights of the fill

	misses  atomic.Int64  // chunks fetched because a reader waited
	reused  atomic.Int64  // stored bytes of chunks that were taken from an older pack in the cache
	damaged *atomic.Int64 // chunks and nodes whose digest was wrong
	trails  trails
	started time.Time // of the client
	missed  missLog
	running sync.WaitGroup

	mu      sync.Mutex
	flights map[int64]*flight // by first page of the chunk
}

type flight struct {
	entry bpk.Entry
	quiet bool // of the fill; set before it is started
	done  chan struct{}
	err   error // set before done is closed
}

// need brings all body pages of [page, page+pages) into the store. Boot pages in between are not its job.
func (d *demand) need(ctx context.Context, page, pages int64) error {
	var wait, mine []*flight
	var failed error
	var next int64 // the page behind the last chunk
	for p, end := page, page+pages; p < end; {
		lacking := d.store.lacking(d.boot.ColdRanges(p, end-p))
		if len(lacking) == 0 {
			break
		}
		e, err := d.body.Find(lacking[0].Page, d.node)
		if err != nil {
			failed = err // the flights made so far must still take off: others may wait for them
			break
		}
		f, created := d.flight(e)
		if f != nil {
			wait = append(wait, f)
		}
		if created {
			mine = append(mine, f)
		}
		p = e.Page + e.Pages
		next = p
	}
	if len(mine) > 0 {
		d.misses.Add(int64(len(mine)))
		d.missed.add(d.boot, d.started, mine, false)
		if n := d.trails.follow(mine[0].entry.Page, next); n > 0 {
			d.running.Go(func() { d.net.survived("reading ahead", func() { d.ahead(next, n) }) })
		}
	}
	d.start(mine, forReader)
	if failed != nil {
		return failed
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

// start fetches the chunks of new flights.
func (d *demand) start(mine []*flight, why cause) {
	mine = slices.DeleteFunc(mine, func(f *flight) bool {
		if !d.older.has(&f.entry) {
			return false
		}
		d.running.Go(func() {
			if !d.reuse(f) {
				d.load([]*flight{f}, why)
			}
		})
		return true
	})
	for len(mine) > 0 {
		group := adjacent(mine)
		mine = mine[len(group):]
		d.running.Go(func() { d.load(group, why) })
	}
}

// ahead fetches the n chunks from page on that a sequential reader will come to, unless they are there. Faults
// are left to the reader.
func (d *demand) ahead(page int64, n int) {
	var mine []*flight
	for ; n > 0 && page < d.pages; n-- {
		e, err := d.body.Find(page, d.node)
		if err != nil {
			break
		}
		if f, created := d.flight(e); created {
			mine = append(mine, f)
		}
		page = e.Page + e.Pages
	}
	d.missed.add(d.boot, d.started, mine, true)
	d.start(mine, forAhead)
}

// flight returns the fetch of chunk e that is under way, or a new one; nil if the chunk is there. A fetch ends with its
// pages in the store, so that no reader may look there before and for the fetch afterwards.
func (d *demand) flight(e bpk.Entry) (f *flight, created bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.flights[e.Page]; f != nil {
		return f, false
	}
	if len(d.store.lacking(d.boot.ColdRanges(e.Page, e.Pages))) == 0 {
		return nil, false
	}
	f = &flight{entry: e, done: make(chan struct{})}
	d.flights[e.Page] = f
	return f, true
}

// keep decodes a chunk into the store.
func (d *demand) keep(e *bpk.Entry, stored []byte, quiet bool) error {
	cold := d.boot.ColdRanges(e.Page, e.Pages)
	var data []byte
	if e.Codec != bpk.CodecZero {
		var n int64
		for _, r := range cold {
			n += r.Pages
		}
		var err error
		if data, err = d.dec.Decode(e, stored, n); err != nil {
			return err
		}
	}
	return d.put(e, cold, data, quiet)
}

// put keeps the cold pages of a chunk.
func (d *demand) put(e *bpk.Entry, cold []bpk.Range, data []byte, quiet bool) error {
	if err := d.store.put(cold, data); err != nil {
		return fmt.Errorf("keeping pages: %w", err)
	}
	if d.cache != nil && data != nil {
		d.cache.noteChunk(e, data)
	}
	if quiet {
		d.filled(cold)
	} else {
		d.pushed(cold)
	}
	return nil
}

// reuse takes the pages of a chunk from an older pack in the cache, and tells whether they were there, whole.
func (d *demand) reuse(f *flight) bool {
	e := &f.entry
	cold := d.boot.ColdRanges(e.Page, e.Pages)
	n := int64(0)
	for _, r := range cold {
		n += r.Pages
	}
	data := d.older.pagesOf(e, n)
	if data == nil {
		return false
	}
	d.reused.Add(e.Len)
	d.land(f, d.put(e, cold, data, f.quiet))
	return true
}

// mend fetches a damaged chunk until it is whole, and keeps it.
func (d *demand) mend(e *bpk.Entry, stored []byte, src *httpSource, damaged error, quiet bool) error {
	d.damaged.Add(1)
	what := fmt.Sprintf("body chunk of pages %d to %d", e.Page, e.Page+e.Pages-1)
	check := func(raw []byte) error { return bpk.CheckBlock(what, e.Block, raw) }
	if check(stored) == nil { // then the pack was made so
		return damaged
	}
	stored, err := d.at.again(d.ctx, e.Block, src, check, damaged, d.net.patient)
	if err != nil {
		return err
	}
	return d.keep(e, stored, quiet)
}

// node fetches a node of the body index, unless the preload has brought it. The caller checks its digest; a damaged
// one is fetched again first.
func (d *demand) node(what string, b bpk.Block) ([]byte, error) {
	if raw := d.at.early(b); raw != nil {
		return raw, nil
	}
	raw, src, err := d.at.fetch(because(d.ctx, forReader), b, nil)
	if err != nil {
		return nil, err
	}
	check := func(raw []byte) error { return bpk.CheckBlock(what, b, raw) }
	if damaged := check(raw); damaged != nil {
		d.damaged.Add(1)
		return d.at.again(d.ctx, b, src, check, damaged, d.net.patient)
	}
	return raw, nil
}
