package mountclient

import (
	"context"
	"sync"
	"syscall"

	"bootprof/imagepack/bpk"
)

// pushStep is how many pages go to the kernel in one notification.
const pushStep = 128

// A pusher puts pages into the kernel's page cache before they are asked for (FUSE_NOTIFY_STORE).
//
// The kernel makes a push wait for the lock of each page, and a READ in flight holds the locks of its pages.
// So a push may block until a READ is answered, and must never be what a READ waits for: pages are in the
// store before they are queued here, the queue takes any number without blocking, and nothing waits for the
// pusher's goroutines. Pages with a READ pending are left out; the READ brings them.
type pusher struct {
	store *store
	write func(imageOff int64, data []byte) syscall.Errno // set before run

	mu      sync.Mutex
	cond    *sync.Cond
	queue   []bpk.Range
	pending map[*bpk.Range]struct{} // pages of READs in flight
	closed  bool
	pages   int64 // pages pushed
}

func newPusher(s *store) *pusher {
	p := &pusher{store: s, pending: make(map[*bpk.Range]struct{})}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// add queues pages that are in the store. It does not block.
func (p *pusher) add(ranges []bpk.Range) {
	p.mu.Lock()
	if !p.closed {
		p.queue = append(p.queue, ranges...)
	}
	p.cond.Broadcast()
	p.mu.Unlock()
}

// reading says that a READ of pages is in flight until the function it returns is called.
func (p *pusher) reading(page, pages int64) (done func()) {
	r := &bpk.Range{Page: page, Pages: pages}
	p.mu.Lock()
	p.pending[r] = struct{}{}
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		delete(p.pending, r)
		p.mu.Unlock()
	}
}

// end makes run return and drops what is queued, now and later.
func (p *pusher) end() {
	p.mu.Lock()
	p.closed = true
	p.cond.Broadcast()
	p.mu.Unlock()
}

// run pushes what is queued until ctx ends.
func (p *pusher) run(ctx context.Context) {
	defer context.AfterFunc(ctx, p.end)()
	buf := make([]byte, pushStep*bpk.PageSize)
	for {
		r, ok := p.take()
		if !ok {
			return
		}
		for _, part := range p.free(r) {
			p.push(part, buf)
		}
		p.store.release(r)
	}
}

func (p *pusher) take() (bpk.Range, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) == 0 && !p.closed {
		p.cond.Wait()
	}
	if p.closed {
		return bpk.Range{}, false
	}
	r := p.queue[0]
	p.queue = p.queue[1:]
	if r.Pages > pushStep {
		p.queue = append([]bpk.Range{{Page: r.Page + pushStep, Pages: r.Pages - pushStep}}, p.queue...)
		r.Pages = pushStep
	}
	return r, true
}

// free returns the parts of r that no READ is after.
func (p *pusher) free(r bpk.Range) []bpk.Range {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []bpk.Range{r}
	for q := range p.pending {
		var next []bpk.Range
		for _, o := range out {
			if q.Page >= o.Page+o.Pages || q.Page+q.Pages <= o.Page {
				next = append(next, o)
				continue
			}
			if q.Page > o.Page {
				next = append(next, bpk.Range{Page: o.Page, Pages: q.Page - o.Page})
			}
			if end := o.Page + o.Pages; q.Page+q.Pages < end {
				next = append(next, bpk.Range{Page: q.Page + q.Pages, Pages: end - q.Page - q.Pages})
			}
		}
		out = next
	}
	return out
}

func (p *pusher) push(r bpk.Range, buf []byte) {
	b := buf[:r.Pages*bpk.PageSize]
	// A failed push costs nothing but a READ later on.
	if ok, err := p.store.read(b, r.Page*bpk.PageSize); ok && err == nil && p.write(r.Page*bpk.PageSize, b) == 0 {
		p.mu.Lock()
		p.pages += r.Pages
		p.mu.Unlock()
	}
}

// pushedPages returns how many pages went to the kernel.
func (p *pusher) pushedPages() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pages
}
