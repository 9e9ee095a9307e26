package mountclient

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

// free is checked against a bitmap, for every range of 8 pages and every pair of pending READs.
func TestPusherFreeExhaustively(t *testing.T) {
	const n = 8
	var all []bpk.Range
	for a := range int64(n) {
		for b := a + 1; b <= n; b++ {
			all = append(all, bpk.Range{Page: a, Pages: b - a})
		}
	}
	p := newPusher(nil)
	check := func(r bpk.Range, pending ...bpk.Range) {
		var want, got [n]bool
		for i := r.Page; i < r.Page+r.Pages; i++ {
			want[i] = true
		}
		for _, q := range pending {
			for i := q.Page; i < q.Page+q.Pages; i++ {
				want[i] = false
			}
			defer p.reading(q.Page, q.Pages)()
		}
		for _, f := range p.free(r) {
			if f.Pages < 1 {
				t.Fatalf("free(%v) with %v pending: empty part %v", r, pending, f)
			}
			for i := f.Page; i < f.Page+f.Pages; i++ {
				if got[i] {
					t.Fatalf("free(%v) with %v pending: page %d twice", r, pending, i)
				}
				got[i] = true
			}
		}
		if got != want {
			t.Fatalf("free(%v) with %v pending: %v, want %v", r, pending, got, want)
		}
	}
	for _, r := range all {
		check(r)
		for _, q1 := range all {
			check(r, q1)
			for _, q2 := range all {
				check(r, q1, q2)
			}
		}
	}
	if len(p.pending) != 0 {
		t.Errorf("%d READs still pending", len(p.pending))
	}
}

// pushes records what a pusher hands to the kernel.
type pushes struct {
	mu   sync.Mutex
	data map[int64][]byte // by page
	max  int
}

func (p *pushes) write(off int64, b []byte) syscall.Errno {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = max(p.max, len(b)/bpk.PageSize)
	for i := 0; i < len(b); i += bpk.PageSize {
		p.data[off/bpk.PageSize+int64(i/bpk.PageSize)] = bytes.Clone(b[i : i+bpk.PageSize])
	}
	return 0
}

func (p *pushes) pages() int { p.mu.Lock(); defer p.mu.Unlock(); return len(p.data) }

func startPusher(t *testing.T, s *store, goroutines int) (*pusher, *pushes) {
	p := newPusher(s)
	got := &pushes{data: map[int64][]byte{}}
	p.write = got.write
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() { p.run(ctx) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return p, got
}

// Everything queued is pushed once, in steps, with its own bytes, but for pages with a READ pending.
func TestPusher(t *testing.T) {
	const pages = 1000
	image := refImage(pages)
	s := testMemoryStore(t, pages, 0)
	whole := bpk.Range{Page: 0, Pages: pages}
	if err := s.put([]bpk.Range{whole}, image); err != nil {
		t.Fatal(err)
	}
	for _, goroutines := range []int{1, 2} {
		t.Run(fmt.Sprint(goroutines), func(t *testing.T) {
			p, got := startPusher(t, s, goroutines)
			done := p.reading(300, 50)
			done2 := p.reading(999, 1)
			p.add([]bpk.Range{{Page: 500, Pages: 500}, {Page: 0, Pages: 500}})
			testrig.Eventually(t, "all pushed", func() bool { return p.pushedPages() == pages-51 })
			done()
			done2()
			for page, b := range got.data {
				if page >= 300 && page < 350 || page == 999 {
					t.Errorf("page %d is pushed while a READ is pending", page)
				}
				if !bytes.Equal(b, image[page*bpk.PageSize:(page+1)*bpk.PageSize]) {
					t.Errorf("page %d is pushed with other bytes", page)
				}
			}
			if got.pages() != pages-51 || got.max != pushStep {
				t.Errorf("%d pages in steps of at most %d", got.pages(), got.max)
			}
		})
	}
}

// Pages that were dropped from the store are not pushed as holes.
func TestPusherLeavesOutDroppedPages(t *testing.T) {
	s := testMemoryStore(t, 100, 0)
	p, got := startPusher(t, s, 1)
	if err := s.put([]bpk.Range{{Page: 50, Pages: 10}}, nil); err != nil {
		t.Fatal(err)
	}
	p.add([]bpk.Range{{Page: 0, Pages: 10}, {Page: 50, Pages: 10}})
	testrig.Eventually(t, "pushed", func() bool { return p.pushedPages() == 10 })
	if got.data[0] != nil {
		t.Error("pages that are not there were pushed")
	}
}

// add never blocks, even while the kernel blocks every push; and run ends with its context.
func TestPusherAddDoesNotBlock(t *testing.T) {
	s := testMemoryStore(t, 10, 0)
	if err := s.put([]bpk.Range{{Page: 0, Pages: 10}}, nil); err != nil {
		t.Fatal(err)
	}
	p := newPusher(s)
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.write = func(int64, []byte) syscall.Errno {
		once.Do(func() { close(blocked) })
		<-release
		return syscall.ENOENT
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.run(ctx) })
	p.add([]bpk.Range{{Page: 0, Pages: 1}})
	<-blocked
	for range 10_000 {
		p.add([]bpk.Range{{Page: 0, Pages: 1}})
	}
	cancel()
	close(release)
	wg.Wait()
	if p.pushedPages() != 0 {
		t.Errorf("%d pages counted though the kernel took none", p.pushedPages())
	}
}
