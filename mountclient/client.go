// Package mountclient is the boot-time client: it shows an image that lies on a web server as a local file,
// and mounts the file system in it.
//
// Data flow, in the order in which a byte travels:
//
//  1. preload streams the beginning of the pack (header, boot index, boot zone) in a few parallel requests,
//     sent at once, before anything is known of the pack; places says what of it lies in other files.
//  2. bootZone verifies and decodes the chunks in boot order; the pages go to the store.
//  3. pusher hands the pages to the kernel's page cache, where most reads find them: they never reach us.
//  4. imageFile, the one file of a FUSE file system, answers the other reads: from the store, by waiting for a
//     boot page that is on its way, or by a demand fetch of a body chunk.
//  5. The kernel mounts the file system in the image file: EROFS straight from the file where it can, anything
//     else by a loop device. The FUSE mount itself is detached from the tree as soon as the kernel holds the
//     file: when the last user of the file system goes, the kernel lets go of loop device, file and FUSE
//     connection in turn, and the client ends.
//
// A reader never sees an unverified byte, and never an error for a fault of the network unless
// Options.Timeout asks for it.
//
// Trap: a push waits for READs in flight, see pusher. Whoever delivers pages must not wait for a push.
package mountclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"bootprof/imagepack/bpk"
)

// Options of a client. URL must be set.
type Options struct {
	URL          string        // http or https, of a pack, a manifest, or an image
	CacheDir     string        // keeps pages, and what else a start needs, across runs; empty: memory only
	CacheBytes   int64         // that CacheDir may take; 0: no limit
	Digest       string        // "sha256:HEX" of the pack's header; empty: any pack
	PublicKey    string        // a minisign public key, or the path of one: only a pack signed with it; empty: any
	MemoryBytes  int64         // decoded pages held in memory without a cache; 0: 32 MiB
	FillRate     int64         // bytes per second at which the rest of the image comes into the cache after the boot; 0: not at all
	StartTimeout time.Duration // how long the server may be unreachable at the start; 0: without end
	Timeout      time.Duration // after which a read fails while the server is unreachable; 0: never
	Record       bool          // note each page that is read, for Misses, and push none; see recorded
	Log          *slog.Logger  // must be set
	Root         bool          // the image is the root file system of the machine: see docs/root-daemon.md
	Access                     // certificates, credentials, proxy
}

// A Client holds what is known and fetched of one remote image. Make one with Open. Safe for concurrent use.
type Client struct {
	opts   Options
	shown  string   // Options.URL without credentials
	fetch  *fetcher // of the pack
	pre    *preload // of the pack
	at     *places
	head   *bpk.Header
	index  *bpk.BootIndex
	digest [32]byte
	store  *store
	cache  *cache // nil without Options.CacheDir
	older  *older // nil without Options.CacheDir
	kept   kept   // what the cache keeps besides pages
	zone   *bootZone
	demand *demand // nil: see plain
	plain  *plain  // nil: it is a pack
	push   *pusher

	// need is that of demand or plain.
	need func(ctx context.Context, page, pages int64) error

	fromKept bool          // opened from the cache, without a request
	isNarrow bool          // of the opening, only the first request was sent
	broken   chan struct{} // closed when the boot zone cannot be completed
	brokenBy error         // set before

	stop    context.CancelFunc
	running sync.WaitGroup
	started time.Time
	ready   atomic.Int64 // nanoseconds from the start to DIR being ready; 0: not yet
	hot     atomic.Int64 // nanoseconds from the start to the whole boot zone being there
	stalled atomic.Int64 // nanoseconds that reads waited
	reads   atomic.Int64 // READs that came to us
	waiting atomic.Int64 // reads that wait now
	filling atomic.Int32 // fillNone, fillRunning or fillLocal
}

// build makes store, boot zone and demand, and lets the preload go on to the boot zone's end.
func (c *Client) build(ctx, life context.Context) error {
	var err error
	if err := c.openStore(); err != nil {
		return err
	}
	if c.opts.CacheDir != "" {
		c.older = openOlder(c.opts.CacheDir, c.digest)
		c.running.Go(c.older.read)
	}
	dec, err := bpk.NewBodyDecoder(2)
	if err != nil {
		return err
	}
	damaged := &c.fetch.src.count.corrupt
	c.zone = &bootZone{at: c.at, net: c.fetch.network, damaged: damaged, index: c.index, store: c.store, pushed: c.arrived}
	c.demand = &demand{ctx: life, at: c.at, net: c.fetch.network, damaged: damaged, body: bpk.NewBody(c.head), boot: c.index,
		pages: c.head.ImageSize / bpk.PageSize, store: c.store, dec: dec, older: c.older, cache: c.cache, pushed: c.arrived, filled: c.filled, flights: make(map[int64]*flight), started: c.started}
	c.need = c.demand.need
	if c.cache != nil {
		c.cache.revive(c.index.Ranges)
		c.kept.url = c.shown
		dir, err := os.Open(c.opts.CacheDir) // paths may lead elsewhere after the start
		if err != nil {
			return &SetupError{err}
		}
		c.running.Go(func() { // it syncs: the boot does not wait for that
			defer dir.Close()
			if err := c.kept.save(dir); err != nil {
				c.opts.Log.Warn("the cache will not serve without the server", "error", err)
			}
		})
	}
	if c.fromKept && len(c.store.lacking(c.index.Ranges)) > 0 {
		return errCold
	}
	if len(c.store.lacking(c.index.Ranges)) == 0 {
		c.zone.decoded.Store(int64(len(c.index.Chunks)))
		c.hot.Store(int64(time.Since(c.started)))
		c.push.add(c.index.Ranges) // else each page would be a READ: 66,000 of a large image, 5 s of its boot
		return nil
	}
	c.widen()
	err = c.at.preloadBoot(c.index, func(opening []span) (*preload, error) {
		return startPreload(life, c.at.image.fetch, opening, &c.running)
	})
	if err != nil {
		return err
	}
	c.running.Go(func() { c.runZone(life) })
	if c.at.image.pre != nil {
		return c.at.image.pre.answered(ctx) // is there an image at all, and of the right size
	}
	return nil
}

// openStore opens cache or memory for the pages, and what pushes them.
func (c *Client) openStore() (err error) {
	if c.opts.CacheDir != "" {
		c.cache, err = openCache(c.opts.CacheDir, c.digest, c.head.ImageSize, c.opts.Log)
		if errors.Is(err, errInUse) || isFull(err) {
			c.opts.Log.Warn("the cache is not used", "directory", c.opts.CacheDir, "error", err)
		} else if err != nil {
			return &SetupError{err}
		}
	}
	if c.cache != nil {
		c.store = c.cache.store
		if c.opts.CacheBytes > 0 {
			dir, err := os.Open(c.opts.CacheDir)
			if err != nil {
				return &SetupError{err}
			}
			c.cache.limitTo(c.opts.CacheBytes, dir, c.digest, c.index.Contains)
		}
	} else if c.store, err = newMemoryStore(c.head.ImageSize, c.opts.MemoryBytes, c.opts.Log); err != nil {
		return err
	}
	c.push = newPusher(c.store)
	return nil
}

func (c *Client) runZone(life context.Context) {
	err := errPanicked
	c.fetch.persist(life, "decoding the boot zone", func() { err = c.zone.run(life) })
	if err == nil {
		c.hot.Store(int64(time.Since(c.started)))
		c.opts.Log.Debug("boot zone complete", "after", time.Since(c.started))
		if c.cache != nil && c.store.isWholeIn(c.index.Ranges) { // from there no boot page is taken out again
			c.pre.forget(c.head.Boot.PackOff, c.head.Boot.Len)
		}
		return
	}
	if life.Err() == nil && c.fetch.used() { // before that it ends the start
		// Not the network: that is waited for. Out of memory, or a pack whose chunks do not decode.
		c.opts.Log.Error("the boot zone cannot be completed", "error", err)
	}
	c.brokenBy = err
	close(c.broken)
}

// arrived is told of pages that came into the store.
func (c *Client) arrived(ranges []bpk.Range) {
	if c.cache != nil {
		c.cache.note(ranges)
	}
	c.push.add(ranges)
}

// filled is told of pages that came into the store without a reader: they must not fill the page cache.
func (c *Client) filled(ranges []bpk.Range) {
	if c.cache != nil {
		c.cache.note(ranges)
	}
}

// Size returns the image's size in bytes.
func (c *Client) Size() int64 {
	if c.plain != nil {
		return c.plain.size
	}
	return c.head.ImageSize
}

// misses returns how many chunks or windows were fetched because a reader waited.
func (c *Client) misses() int64 {
	if c.plain != nil {
		return c.plain.misses.Load()
	}
	return c.demand.misses.Load()
}

// ReadAt fills dst with the image's bytes from imageOff on. It waits until they are there. The last page is filled up
// with zeros.
func (c *Client) ReadAt(ctx context.Context, dst []byte, imageOff int64) (int, error) {
	if imageOff >= c.head.ImageSize {
		return 0, nil
	}
	dst = dst[:min(int64(len(dst)), c.head.ImageSize-imageOff)]
	c.reads.Add(1)
	ok, err := c.store.read(dst, imageOff)
	if ok || err != nil {
		return len(dst), err
	}
	begin := time.Now()
	c.waiting.Add(1)
	defer func() {
		c.waiting.Add(-1)
		c.stalled.Add(int64(time.Since(begin)))
	}()
	first := imageOff / bpk.PageSize
	pages := (imageOff+int64(len(dst))-1)/bpk.PageSize - first + 1
	for {
		if err := c.bring(ctx, first, pages); err != nil {
			return 0, err
		}
		if ok, err := c.store.read(dst, imageOff); ok || err != nil {
			return len(dst), err
		}
	}
}

// bring waits until the pages have been in the store. They may be dropped again before the caller reads them
// if memory is short; it then asks again.
func (c *Client) bring(ctx context.Context, page, pages int64) error {
	if c.cache != nil {
		c.cache.revive([]bpk.Range{{Page: page, Pages: pages}})
	}
	if err := c.need(ctx, page, pages); err != nil {
		return err
	}
	for p := page; p < page+pages; p++ {
		pos, hot := c.index.Position(p)
		if !hot {
			continue
		}
		chunk := c.index.ChunkOf(pos)
		if int64(chunk) < c.zone.decoded.Load() {
			if _, lacks := c.store.missing(p, 1); lacks {
				if err := c.zone.again(chunk); err != nil {
					return err
				}
			}
			continue
		}
		arrival := c.store.arrival(p)
		if arrival == nil {
			continue
		}
		if err := c.await(ctx, arrival); err != nil {
			return err
		}
	}
	return nil
}

// await waits for a boot page. It gives up when nothing at all has come from the server for Options.Timeout.
func (c *Client) await(ctx context.Context, arrival <-chan struct{}) error {
	var late <-chan time.Time
	begin := time.Now()
	if c.opts.Timeout > 0 && c.fetch.used() {
		t := time.NewTicker(c.opts.Timeout / 8)
		defer t.Stop()
		late = t.C
	}
	for {
		select {
		case <-arrival:
			return nil
		case <-c.broken:
			return c.brokenBy
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			if time.Since(c.fetch.latest(begin)) >= c.opts.Timeout {
				return fmt.Errorf("%s: nothing came for %v", c.shown, c.opts.Timeout)
			}
			if since := c.zone.stuck.get(); !since.IsZero() && time.Since(since) >= c.opts.Timeout {
				return fmt.Errorf("%s: damaged for %v", c.shown, c.opts.Timeout)
			}
		}
	}
}

// Close ends all work and frees the memory. Reads must have ended.
func (c *Client) Close() error {
	c.stop()
	c.running.Wait()
	if c.demand != nil {
		c.demand.running.Wait()
		c.demand.dec.Close()
	}
	if c.plain != nil {
		c.plain.running.Wait()
	}
	c.fetch.close()
	if c.at != nil && c.at.image.fetch != nil {
		c.at.image.fetch.close()
	}
	c.fetch.access.close()
	c.older.close()
	var errs []error
	if c.cache != nil {
		errs = append(errs, c.cache.close())
	} else if c.store != nil {
		errs = append(errs, c.store.close())
	}
	if c.at != nil && c.at.image.pre != nil {
		errs = append(errs, c.at.image.pre.close())
	}
	return errors.Join(append(errs, c.pre.close())...)
}

// preloadFailed returns what ended a preload or keeps the boot zone from being completed, or nil. Faults of the network
// do not do that any more after network.setInUse.
func (c *Client) preloadFailed() error {
	select {
	case <-c.broken:
		return c.brokenBy
	default:
	}
	err := c.pre.failed()
	if err == nil && c.at.image.pre != nil {
		err = c.at.image.pre.failed()
	}
	return err
}
