package mountclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/fsmagic"
)

// Tuning of plain images. A sequential reader is kept ahead of by up to mostAhead windows, see trails.
const (
	plainWindow = 256 << 10 // bytes that a miss brings: an aligned piece of the image
	plainJoin   = 1 << 20   // windows that lie side by side are fetched in one request up to this
	plainPiece  = 64 << 10  // bytes that are handed to readers at a time

	windowPages = plainWindow / bpk.PageSize
)

// A plain is an image that nobody packed: no manifest, no digests, no boot order. It brings windows of the image when
// a reader waits for them. Readers of one window share one fetch, which belongs to the client; each waits for its own
// pages only.
type plain struct {
	ctx     context.Context // of the client
	fetch   *fetcher
	pre     *preload // its opening is complete
	early   int64    // bytes of the opening
	size    int64    // bytes of the image; its last page may be a part of one
	store   *store
	arrived func([]bpk.Range)
	filled  func([]bpk.Range) // instead of arrived, for windows of the fill

	misses  atomic.Int64 // windows fetched because a reader waited
	trails  trails
	running sync.WaitGroup

	mu      sync.Mutex
	flights map[int64]*window // under way, by number
}

// A window is the fetch of one. Its pages come in order.
type window struct {
	n    int64
	done chan struct{}
	err  error // set before done is closed
}

// An UnverifiedError tells that nothing says what the bytes of an image should be, though that was asked for.
type UnverifiedError struct{ URL, Filesystem string }

func (e *UnverifiedError) Error() string {
	return fmt.Sprintf("%s is an image (%s) with no manifest beside it, which cannot be verified: pack it, or make a manifest", e.URL, e.Filesystem)
}

// isMissing tells that the server says that there is no such file.
func isMissing(err error) bool {
	var h *HTTPError
	return errors.As(err, &h) && (h.Code == http.StatusNotFound || h.Code == http.StatusGone)
}

// openPlain makes the parts of a client of an image without a manifest. notPack tells what the image's beginning is
// not, and missing that there is no manifest. Mirrors of such an image are compared by what they tell of it; if that
// differs, Open tries each alone.
func (c *Client) openPlain(ctx, life context.Context, image remote, notPack *NotPackError, missing error) error {
	_ = c.pre.close() // of the manifest
	c.fetch, c.pre, c.at = image.fetch, image.pre, nil
	src := c.fetch.src
	size := src.pin.size()
	early := min(size, openingBytes)
	if err := c.pre.wait(ctx, 0, early); err != nil {
		return err
	}
	notPack.start = c.pre.start()
	fs := fsmagic.Detect(bytes.NewReader(notPack.start))
	switch {
	case fs == "":
		return besideError(notPack, missing)
	case c.opts.Digest != "" || c.opts.PublicKey != "":
		return &UnverifiedError{src.shown, fs}
	}
	err := src.pin.checkDate()
	if len(c.fetch.mirrors) > 0 {
		if err = cmp.Or(err, src.pin.compare(src.shown)); err != nil {
			return &NotPackError{URL: c.shown, Why: fmt.Sprintf("it is an image (%s) of which mirrors tell different things: %v", fs, err)}
		}
		for _, s := range c.fetch.mirrors {
			s.mirror.forgive() // that there is no manifest
		}
	}
	if err != nil {
		return err
	}
	if c.opts.CacheDir != "" {
		// What is kept is bound to all that the server tells of the file.
		name := src.pin.name(src.shown)
		if name == "" {
			c.opts.Log.Warn("the cache is not used: the server tells neither ETag nor Last-Modified of the image", "url", src.shown)
			c.opts.CacheDir, c.opts.FillRate = "", 0
		}
		c.digest = sha256.Sum256([]byte("plain image\n" + src.shown + "\n" + name))
	}
	c.head = &bpk.Header{ImageSize: (size + bpk.PageSize - 1) / bpk.PageSize * bpk.PageSize, Filesystem: fs}
	c.index = &bpk.BootIndex{}
	c.at = &places{head: c.head, pack: image}
	if err := c.openStore(); err != nil {
		return err
	}
	c.zone = &bootZone{index: c.index}
	c.plain = &plain{ctx: life, fetch: c.fetch, pre: c.pre, early: early, size: size, store: c.store, arrived: c.arrived, filled: c.filled,
		flights: make(map[int64]*window)}
	c.need = c.plain.need
	c.hot.Store(int64(time.Since(c.started)))
	c.opts.Log.Warn("the image was not packed: its bytes are not verified and a boot from it is slow; bootprof pack mends both", "url", src.shown, "filesystem", fs)
	return nil
}

// need waits until the pages have been in the store.
func (p *plain) need(ctx context.Context, page, pages int64) error {
	wait, mine := p.begin(bpk.Range{Page: page, Pages: pages})
	if len(mine) > 0 {
		p.misses.Add(int64(len(mine)))
		next := mine[len(mine)-1].n + 1
		// To trails, a window is what a chunk is.
		n := int64(p.trails.follow(mine[0].n*usualChunkPages, next*usualChunkPages))
		total := (p.size + bpk.PageSize - 1) / bpk.PageSize
		if ahead := min(n*windowPages, total-next*windowPages); ahead > 0 {
			_, more := p.begin(bpk.Range{Page: next * windowPages, Pages: ahead})
			mine = append(mine, more...)
		}
	}
	p.start(mine, forReader)
	for _, w := range wait {
		for q := max(page, w.n*windowPages); q < min(page+pages, (w.n+1)*windowPages); q++ {
			arrival := p.store.arrival(q)
			if arrival == nil {
				continue
			}
			select {
			case <-arrival:
			case <-w.done:
				if w.err != nil {
					return w.err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// start fetches windows that begin has returned, those side by side in one request.
func (p *plain) start(mine []*window, why cause) {
	for len(mine) > 0 {
		n := 1
		for n < len(mine) && n < plainJoin/plainWindow && mine[n].n == mine[n-1].n+1 {
			n++
		}
		group := mine[:n]
		mine = mine[n:]
		p.running.Go(func() { p.load(group, why) })
	}
}

// fill is demand.fill of a plain image.
func (p *plain) fill(ctx context.Context, page, end, limit int64) (next, storedBytes int64, err error) {
	next = min(end, (page/windowPages+max(1, limit/plainWindow))*windowPages)
	wait, mine := p.begin(bpk.Range{Page: page, Pages: next - page})
	p.start(mine, forFill)
	for _, w := range wait {
		select {
		case <-w.done:
			err = cmp.Or(err, w.err)
		case <-ctx.Done():
			return page, 0, ctx.Err()
		}
	}
	return next, int64(len(mine)) * plainWindow, err
}

// begin returns the windows that lack pages of r, in order, and those among them that are not under way yet. The
// caller loads these.
func (p *plain) begin(r bpk.Range) (wait, mine []*window) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := int64(0) // windows before it are done with
	for _, lacks := range p.store.lacking([]bpk.Range{r}) {
		for n := max(next, lacks.Page/windowPages); n*windowPages < lacks.Page+lacks.Pages; n++ {
			w := p.flights[n]
			if w == nil {
				w = &window{n: n, done: make(chan struct{})}
				p.flights[n] = w
				mine = append(mine, w)
			}
			wait = append(wait, w)
			next = n + 1
		}
	}
	return wait, mine
}

// load fetches windows that lie side by side, and lets each land when it is complete.
func (p *plain) load(group []*window, why cause) {
	off, end := group[0].n*plainWindow, min((group[len(group)-1].n+1)*plainWindow, p.size)
	kept := off // bytes before it are in the store
	var buf []byte
	var failed error
	sink := func(b []byte) {
		buf = append(buf, b...)
		off += int64(len(b))
		n := len(buf) / bpk.PageSize * bpk.PageSize
		switch {
		case off == end: // the image may end within a page
			n = (len(buf) + bpk.PageSize - 1) / bpk.PageSize * bpk.PageSize
			buf = append(buf, make([]byte, n-len(buf))...)
		case len(buf) < plainPiece:
			return
		}
		if failed == nil {
			failed = p.keep(kept, buf[:n], why)
		}
		kept += int64(n)
		buf = append(buf[:0], buf[n:]...)
		for failed == nil && len(group) > 0 && kept >= min((group[0].n+1)*plainWindow, p.size) {
			p.land(group[0], nil)
			group = group[1:]
		}
	}
	var err error
	if n := min(end, p.early) - off; n > 0 {
		var raw []byte
		if raw, err = p.pre.read(off, n); err == nil {
			sink(raw)
		}
	}
	if err == nil && off < end {
		p.fetch.persist(p.ctx, "fetching a window", func() { err = p.fetch.stream(because(p.ctx, why), off, end-off, sink) })
	}
	for _, w := range group {
		p.land(w, errors.Join(failed, err))
	}
}

// keep puts whole pages into the store.
func (p *plain) keep(imageOff int64, data []byte, why cause) error {
	r := []bpk.Range{{Page: imageOff / bpk.PageSize, Pages: int64(len(data)) / bpk.PageSize}}
	if err := p.store.put(r, data); err != nil {
		return fmt.Errorf("keeping pages: %w", err)
	}
	if why == forFill {
		p.filled(r)
	} else {
		p.arrived(r)
	}
	return nil
}

// land wakes the readers of a window.
func (p *plain) land(w *window, err error) {
	w.err = err
	p.mu.Lock()
	delete(p.flights, w.n)
	p.mu.Unlock()
	close(w.done)
}
