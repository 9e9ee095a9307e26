package mountclient

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// What requests on a second mirror may cost: bytes of answers that came too late are thrown away.
const (
	hedgeShare = 20        // one byte in so many
	hedgeCost  = 32 << 10  // of one that is given up at its first byte: what lies in buffers by then
	hedgeFloor = 256 << 10 // of the client's first bytes, on which no share can be counted
)

var errLost = errors.New("another mirror was faster")

// get makes one attempt at [off, off+n), on src. If the first byte does not come in the time that src usually takes,
// another mirror is asked, too, and the answer that begins first is taken. It returns the source whose attempt the
// result is of.
func (f *fetcher) get(ctx context.Context, src *httpSource, off, n int64, sink func([]byte)) (*httpSource, int64, error) {
	w := f.src.pin.standIn(nil)
	if w == nil {
		from, got, err := f.getRange(ctx, src, off, n, sink)
		var noRoom error
		if w, noRoom = f.standInFor(from, err); w == nil || ctx.Err() != nil {
			return from, got, cmp.Or(noRoom, err)
		}
	} else if ctx.Value(freshKey{}) != nil {
		got, err := w.again(ctx, off, n, sink)
		return w.source(), got, err
	}
	got, err := w.get(ctx, off, n, sink)
	return w.source(), got, err
}

// getRange is get for servers that give ranges.
func (f *fetcher) getRange(ctx context.Context, src *httpSource, off, n int64, sink func([]byte)) (*httpSource, int64, error) {
	if len(f.mirrors) == 0 {
		got, err := src.get(ctx, off, n, sink)
		return src, got, err
	}
	type result struct {
		src *httpSource
		got int64
		err error
	}
	results := make(chan result, 2)
	began := make(chan *httpSource, 2)
	var winner atomic.Pointer[httpSource]
	stops := make(map[*httpSource]context.CancelCauseFunc)
	start := func(s *httpSource) {
		ctx, cancel := context.WithCancelCause(ctx)
		stops[s] = cancel
		go func() {
			got, err := s.get(ctx, off, n, func(b []byte) {
				if winner.CompareAndSwap(nil, s) {
					began <- s
				}
				if winner.Load() == s {
					sink(b)
				} else {
					cancel(errLost)
					f.wasted.Add(int64(len(b)))
				}
			})
			results <- result{s, got, err}
		}()
	}
	start(src)
	late := time.NewTimer(src.mirror.patience())
	defer late.Stop()
	var out result
	for running := 1; running > 0; {
		select {
		case s := <-began:
			for other, stop := range stops {
				if other != s {
					stop(errLost)
				}
			}
			if s != src {
				src.mirror.failed(lateRest)
			}
		case <-late.C:
			if other := f.second(src); winner.Load() == nil && other != nil {
				f.hedges.Add(1)
				running++
				start(other)
			}
		case r := <-results:
			running--
			stops[r.src](nil)
			switch won := winner.Load(); {
			case r.src == won, won == nil && running == 0:
				out = r
			case won == nil:
				f.elsewhere(r.src, r.err)
			}
		}
	}
	return out.src, out.got, out.err
}

// second returns the mirror to ask when src is late; nil if there is none, or its share of bytes is used up.
func (f *fetcher) second(src *httpSource) *httpSource {
	if !f.mayHedge() {
		return nil
	}
	s := f.pick(hedgeCost, src)
	if s == nil || !s.mirror.usable(time.Now()) {
		return nil
	}
	return s
}
