// Package mountclient is the boot-time client: it shows an image that lies on a web server as a local file,
// and mounts the file system in it.
//
// Data flow, in the order in which a byte travels:
//
//  1. preload streams the beginning of the pack (header, boot index, boot zone) in a few parallel requests,
//     sent at once, before anything is known of the pack.
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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bootprof/imagepack/bpk"
)

// Options of a client. URL must be set.
type Options struct {
	URL          string        // http or https, of a pack
	CacheDir     string        // keeps pages across runs; empty: memory only
	Digest       string        // "sha256:HEX" of the pack's header; empty: any pack
	MemoryBytes  int64         // decoded pages held in memory without a cache; 0: 32 MiB
	StartTimeout time.Duration // how long the server may be unreachable at the start; 0: without end
	Timeout      time.Duration // after which a read fails while the server is unreachable; 0: never
	Log          *slog.Logger  // must be set
}

// A Client holds what is known and fetched of one remote image. Make one with Open. Safe for concurrent use.
type Client struct {
	opts   Options
	fetch  *fetcher
	pre    *preload
	head   *bpk.Header
	index  *bpk.BootIndex
	digest [32]byte
	store  *store
	cache  *cache // nil without Options.CacheDir
	zone   *bootZone
	demand *demand
	push   *pusher

	broken   chan struct{} // closed when the boot zone cannot be completed
	brokenBy error         // set before

	stop    context.CancelFunc
	running sync.WaitGroup
	started time.Time
	ready   atomic.Int64 // nanoseconds from the start to DIR being ready; 0: not yet
	hot     atomic.Int64 // nanoseconds from the start to the whole boot zone being there
	stalled atomic.Int64 // nanoseconds that reads waited
	reads   atomic.Int64 // READs that came to us

	rootTaken atomic.Bool // earlyRoot has given its bytes
}

// Open starts the preload and returns when header and boot index are there and checked. ctx bounds the
// opening only. The caller closes the client.
func Open(ctx context.Context, opts Options) (*Client, error) {
	src, err := newHTTPSource(opts.URL)
	if err != nil {
		return nil, err
	}
	if opts.MemoryBytes == 0 {
		opts.MemoryBytes = 32 << 20
	}
	life, stop := context.WithCancel(context.Background())
	c := &Client{opts: opts, stop: stop, started: time.Now(), broken: make(chan struct{})}
	c.fetch = &fetcher{src: src, log: opts.Log, startTimeout: opts.StartTimeout, timeout: opts.Timeout}
	if c.pre, err = startPreload(life, c.fetch, &c.running); err != nil {
		stop()
		return nil, err
	}
	if err := c.open(ctx, life); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// open reads header and boot index out of the preload and makes the parts that need them.
func (c *Client) open(ctx, life context.Context) error {
	url := c.fetch.src.shown
	if err := c.pre.wait(ctx, bpk.HeaderSize); err != nil {
		if errors.Is(err, errEndsEarly) {
			return &NotPackError{URL: url, Why: fmt.Sprintf("it is %d bytes long", c.fetch.src.pin.size())}
		}
		return err
	}
	if err := c.preloaded(ctx, bpk.Block{Len: bpk.HeaderSize}, func(raw []byte) (err error) {
		c.digest = bpk.Digest(raw)
		if c.head, err = bpk.DecodeHeader(raw); errors.Is(err, bpk.ErrNotPack) {
			err = &NotPackError{URL: url, Why: fmt.Sprintf("it starts with %q", raw[:8])}
		}
		return err
	}); err != nil {
		return err
	}
	if err := checkDigest(c.opts.Digest, c.digest); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if size := c.fetch.src.pin.size(); size != c.head.PackSize {
		return &bpk.CorruptError{What: url, Why: fmt.Sprintf("%d bytes on the server instead of %d: uploaded in part?", size, c.head.PackSize)}
	}
	c.pre.extend(c.head.BootIndex.PackOff + c.head.BootIndex.Len)
	if err := c.preloaded(ctx, c.head.BootIndex, func(raw []byte) (err error) {
		if err := bpk.CheckBlock("boot index", c.head.BootIndex, raw); err != nil {
			return err
		}
		c.index, err = bpk.DecodeBootIndex(c.head, raw)
		return err
	}); err != nil {
		return err
	}
	return c.build(life)
}

// preloaded hands the preloaded bytes of a block to decode. If they are damaged they are fetched once more.
func (c *Client) preloaded(ctx context.Context, b bpk.Block, decode func([]byte) error) error {
	if err := c.pre.wait(ctx, b.PackOff+b.Len); err != nil {
		return err
	}
	raw, err := c.pre.read(b.PackOff, b.Len)
	if err != nil {
		return err
	}
	if err = decode(raw); isCorrupt(err) {
		c.fetch.src.count.corrupt.Add(1)
		if raw, err := c.fetch.bytes(ctx, b.PackOff, b.Len); err != nil {
			return err
		} else if err = decode(raw); err != nil {
			return fmt.Errorf("%s: %w", c.fetch.src.shown, err)
		}
		return nil
	}
	var notPack *NotPackError
	if err != nil && !errors.As(err, &notPack) {
		err = fmt.Errorf("%s: %w", c.fetch.src.shown, err)
	}
	return err
}

// build makes store, boot zone and demand, and lets the preload go on to the boot zone's end.
func (c *Client) build(life context.Context) error {
	var err error
	if c.opts.CacheDir != "" {
		c.cache, err = openCache(c.opts.CacheDir, c.digest, c.head.ImageSize, c.opts.Log)
		if errors.Is(err, errInUse) {
			c.opts.Log.Warn("the cache is not used", "directory", c.opts.CacheDir, "error", err)
		} else if err != nil {
			return &SetupError{err}
		}
	}
	if c.cache != nil {
		c.store = c.cache.store
	} else if c.store, err = newMemoryStore(c.head.ImageSize, c.opts.MemoryBytes, c.opts.Log); err != nil {
		return err
	}
	c.push = newPusher(c.store)
	dec, err := bpk.NewBodyDecoder(2)
	if err != nil {
		return err
	}
	c.zone = &bootZone{pre: c.pre, index: c.index, store: c.store, pushed: c.arrived}
	c.demand = &demand{ctx: life, fetch: c.fetch, body: bpk.NewBody(c.head), boot: c.index, pages: c.head.ImageSize / bpk.PageSize, store: c.store, dec: dec,
		pushed: c.arrived, flights: make(map[int64]*flight)}
	if c.cache != nil {
		c.cache.revive(c.index.Ranges)
	}
	if len(c.store.lacking(c.index.Ranges)) == 0 {
		c.zone.decoded.Store(int64(len(c.index.Chunks)))
		c.hot.Store(int64(time.Since(c.started)))
		return nil
	}
	end := c.head.Boot.PackOff + c.head.Boot.Len
	if root := c.head.BodyRoot; root.PackOff == end { // the first miss then needs one round trip less
		end += root.Len
		c.demand.early = c.earlyRoot
	}
	c.pre.extend(end)
	c.running.Go(func() { c.runZone(life) })
	return nil
}

// earlyRoot returns the root of the body index out of the preload if it is there, the first time: a damaged one
// is then fetched again. It does not wait, since a miss early in the boot would wait for the whole boot zone.
func (c *Client) earlyRoot(b bpk.Block) ([]byte, error) {
	if b.PackOff != c.head.BodyRoot.PackOff || !c.pre.has(b.PackOff+b.Len) || c.rootTaken.Swap(true) {
		return nil, nil
	}
	return c.pre.read(b.PackOff, b.Len)
}

func (c *Client) runZone(life context.Context) {
	err := c.zone.run(life)
	if err == nil {
		c.hot.Store(int64(time.Since(c.started)))
		c.opts.Log.Debug("boot zone complete", "after", time.Since(c.started))
		return
	}
	if life.Err() == nil {
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

// Size returns the image's size in bytes.
func (c *Client) Size() int64 { return c.head.ImageSize }

// ReadAt fills dst with the image's bytes from imageOff on. It waits until they are there.
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
	defer func() { c.stalled.Add(int64(time.Since(begin))) }()
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
	if err := c.demand.need(ctx, page, pages); err != nil {
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
				return fmt.Errorf("%s: nothing came for %v", c.fetch.src.shown, c.opts.Timeout)
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
	c.fetch.src.client.CloseIdleConnections()
	var errs []error
	if c.cache != nil {
		errs = append(errs, c.cache.close())
	} else if c.store != nil {
		errs = append(errs, c.store.close())
	}
	return errors.Join(append(errs, c.pre.close())...)
}

// A NotPackError tells that the URL holds something else than a pack.
type NotPackError struct{ URL, Why string }

func (e *NotPackError) Error() string {
	return fmt.Sprintf("%s is not a bootprof pack: %s", e.URL, e.Why)
}

func checkDigest(want string, got [32]byte) error {
	if want == "" {
		return nil
	}
	if is := fmt.Sprintf("sha256:%x", got); !strings.EqualFold(want, is) {
		return &DigestError{Want: want, Got: is}
	}
	return nil
}

// A DigestError tells that the pack is not the one that was asked for.
type DigestError struct{ Want, Got string }

func (e *DigestError) Error() string {
	return fmt.Sprintf("pack has digest %s, want %s", e.Got, e.Want)
}
