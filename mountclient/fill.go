package mountclient

import (
	"context"
	"fmt"
	"math"
	"time"

	"bootprof/imagepack/bpk"
)

// Once the boot is over, the rest of the image can be filled into the cache, in pack order and at a bounded rate.
// A reader that waits has the link to itself: the fill goes on when no reader waits any more. In an outage it
// waits like a reader, and goes on by itself.

// FillMax is the rate of a fill without bound.
const FillMax = math.MaxInt64

// Tuning of the fill.
const (
	fillStepBytes  = 1 << 20                // stored bytes asked for at once, if the rate is bounded
	fillAtOnce     = 4                      // times that, if it is not
	fillStepPages  = 4096                   // pages looked at in one go
	fillPause      = 20 * time.Millisecond  // between two looks whether readers wait
	fillRetryAfter = 500 * time.Millisecond // after a fetch that Options.Timeout ended
)

// Phases of a fill.
const (
	fillNone = iota
	fillRunning
	fillLocal // the whole image is in the cache
)

// ParseFill reads a rate: off, max, or bytes per second with the suffix K, M or G (of 1024).
func ParseFill(s string) (bytesPerSecond int64, err error) {
	switch s {
	case "off":
		return 0, nil
	case "max":
		return FillMax, nil
	}
	n, err := ParseSize(s)
	if err != nil {
		return 0, fmt.Errorf("rate %q: want bytes per second such as 500K or 2M, max, or off", s)
	}
	return n, nil
}

// fill brings the whole image into the cache. It returns nil when every page is there, in the cache's file.
func (c *Client) fill(ctx context.Context) error {
	if limit := c.opts.CacheBytes; limit > 0 && limit < c.head.ImageSize {
		return &errLimit{c.head.ImageSize, limit}
	}
	c.filling.CompareAndSwap(fillNone, fillRunning)
	limit := int64(fillStepBytes)
	if c.opts.FillRate == FillMax {
		limit *= fillAtOnce
	} else {
		limit = min(limit, max(c.opts.FillRate/4, 1))
	}
	step := c.demand.fill
	if c.plain != nil {
		step = c.plain.fill
	}
	due := time.Now()
	for page, pages := int64(0), c.head.ImageSize/bpk.PageSize; page < pages; {
		for c.waiting.Load() > 0 {
			if !sleep(ctx, fillPause) {
				return ctx.Err()
			}
		}
		end := min(page+fillStepPages, pages)
		c.cache.revive([]bpk.Range{{Page: page, Pages: end - page}})
		next, got, err := step(ctx, page, end, limit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if c.opts.Timeout == 0 || isCorrupt(err) { // no fault that passes
				return err
			}
			if !sleep(ctx, fillRetryAfter) {
				return ctx.Err()
			}
			continue
		}
		page = next
		if c.opts.FillRate == FillMax {
			continue
		}
		if now := time.Now(); due.Before(now) { // what a pause saved is not made up for
			due = now
		}
		due = due.Add(time.Duration(float64(got) / float64(c.opts.FillRate) * float64(time.Second)))
		if !sleep(ctx, time.Until(due)) {
			return ctx.Err()
		}
	}
	return c.cache.complete()
}

// fill fetches chunks with pages of [page, end) that are not there, about limit stored bytes, and waits for them. It
// returns the page to go on from and the stored bytes.
func (d *demand) fill(ctx context.Context, page, end, limit int64) (next, storedBytes int64, err error) {
	var mine, wait []*flight
	for page < end && storedBytes < limit {
		lacking := d.store.lacking(d.boot.ColdRanges(page, end-page))
		if len(lacking) == 0 {
			page = end
			break
		}
		var e bpk.Entry
		if e, err = d.body.Find(lacking[0].Page, d.node); err != nil {
			break // the flights made so far must still take off
		}
		f, created := d.flight(e)
		if created {
			f.quiet = true
			mine = append(mine, f)
			if !d.older.has(&e) {
				storedBytes += e.Len
			}
		}
		if f != nil {
			wait = append(wait, f)
		}
		page = e.Page + e.Pages
	}
	d.start(mine, forFill)
	for _, f := range wait {
		select {
		case <-f.done:
			if err == nil {
				err = f.err
			}
		case <-ctx.Done():
			return page, storedBytes, ctx.Err()
		}
	}
	return page, storedBytes, err
}

// complete syncs the cache's file and tells whether it holds every page of the image, each checked in this run.
func (c *cache) complete() error {
	if err := c.store.whole(); err != nil {
		return err
	}
	c.mu.Lock()
	err := c.failed // a sync that failed once does not fail again
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.store.sync()
}
