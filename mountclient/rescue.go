package mountclient

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// With several mirrors, a preload is not held up by one of them. At the start nothing is known of any: the first bytes are
// asked for from two at once (race), and the rest of the opening is divided. From then on watch looks at the segments
// that are not whole, those needed first before the others, and gives the rest of one that another mirror would bring sooner to
// that one (rescue). What a mirror has sent is asked for elsewhere when a part of it turns out damaged (distrust).

// Tuning of the above.
const (
	racedSegments = 3                      // of the opening, 56 kB: header, boot index, the first chunks
	watchEvery    = 4 * time.Millisecond   // between two looks at the segments
	standstill    = 12 * time.Millisecond  // by which a look may come late; more, and the machine was busy, so that bytes may lie unread
	afterwards    = 25 * time.Millisecond  // until something is told from silence again
	rescueTime    = 10 * time.Millisecond  // by which another mirror has to be faster at the least
	silenceSlack  = 8 * time.Millisecond   // beyond a round trip and a half, until silence counts as a stall
	silentRest    = 200 * time.Millisecond // of a mirror that stalls; doubled each time
)

// race asks two mirrors for [off, off+n), and others when these fail or are late, and hands over the bytes of the one that has all of them first, which it returns;
// nil: none had.
func (f *fetcher) race(ctx context.Context, off, n int64, sink func(src *httpSource, all []byte)) *httpSource {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type result struct {
		src *httpSource
		all []byte
		err error
	}
	results := make(chan result, len(f.mirrors))
	mirrors := f.mirrors
	running := 0
	start := func() {
		for len(mirrors) > 0 {
			s := mirrors[0]
			mirrors = mirrors[1:]
			if s.mirror.isDropped() {
				continue
			}
			running++
			go func() {
				all := make([]byte, 0, n)
				_, err := s.get(ctx, off, n, func(b []byte) {
					f.lastByte.set(time.Now())
					all = append(all, b...)
				})
				results <- result{s, all, err}
			}()
			return
		}
	}
	start()
	start()
	late := time.NewTicker(firstPatience)
	defer late.Stop()
	var winner *httpSource
	for running > 0 {
		select {
		case <-late.C:
			if winner == nil {
				start()
			}
		case r := <-results:
			running--
			// The end of the file, or a part of the range, is for streamFrom to judge.
			switch whole := r.err == nil && int64(len(r.all)) == n; {
			case winner != nil:
				f.wasted.Add(int64(len(r.all)))
			case whole:
				winner = r.src
				cancel(errLost)
				sink(r.src, r.all)
			case r.err != nil && ctx.Err() == nil && !beyondEnd(r.err):
				f.elsewhere(r.src, r.err)
				start()
			}
		}
	}
	return winner
}

// raced fills a segment by a race, and tells whether one was won.
func (p *preload) raced(ctx context.Context, s *segment) bool {
	return p.fetch.race(ctx, s.off, s.end-s.off, func(src *httpSource, all []byte) {
		p.mu.Lock()
		s.src = src
		p.mu.Unlock()
		p.store(s, all)
	}) != nil
}

// watch looks for what to rescue until everything that was asked for is there, and after that when there is more.
func (p *preload) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var blind time.Time
	looked := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		now := time.Now()
		if now.Sub(looked) > watchEvery+standstill {
			blind = now.Add(afterwards)
		}
		if looked = now; now.After(blind) {
			p.rescue()
		}
		p.skipWhole()
		for p.whole == len(p.segs) && ctx.Err() == nil {
			p.free.Wait()
			looked = time.Now()
		}
		p.mu.Unlock()
	}
}

// rescue gives the rest of a segment to another mirror that will have brought it sooner. It looks at the segments in
// order of need. The caller holds mu.
func (p *preload) rescue() {
	p.skipWhole()
	now := time.Now()
	for i := p.whole; i < p.next; i++ {
		s := p.segs[i]
		rest := s.end - s.off - s.filled
		if rest == 0 || s.src == nil || s.race && s.filled == 0 {
			continue
		}
		other := p.fetch.pick(rest, s.src)
		if other == nil || !other.mirror.usable(now) || other.mirror.throughput() == 0 || !p.fetch.mayHedge() {
			continue
		}
		stays, silent := s.src.mirror.remains(s, rest, now, other.mirror)
		if takes := other.mirror.expectWarm(rest); stays < takes*5/4+rescueTime {
			continue
		}
		comes := min(rest-1, int64(s.src.mirror.share()*other.mirror.answers().Seconds())) // until the other one answers
		if silent {
			comes = 0
			s.src.mirror.silent(now)
		}
		p.fetch.hedges.Add(1)
		p.split(s, s.filled+comes, p.next)
		p.segs[p.next].src, p.segs[p.next].opening = other, true
		if comes == 0 && s.stop != nil {
			s.stop()
		}
		p.free.Broadcast()
		return
	}
}

// skipWhole passes over the first segments that are whole. The caller holds mu.
func (p *preload) skipWhole() {
	for p.whole < p.next && p.segs[p.whole].isWhole() {
		p.whole++
	}
}

func (s *segment) isWhole() bool { return s.off+s.filled == s.end }

// remains estimates how long the rest of a segment will take on its mirror, and tells whether that is because nothing
// comes. What has been late for some time is taken to be so for as long again. other is one of which more may be known.
func (m *mirror) remains(s *segment, rest int64, now time.Time, other *mirror) (d time.Duration, silent bool) {
	usual := cmp.Or(m.answers(), other.answers())
	rate := cmp.Or(m.share(), other.throughput())
	body := time.Duration(float64(rest) / rate * float64(time.Second))
	late, allowed := now.Sub(s.came), usual*3/2+silenceSlack
	if s.came.IsZero() {
		late, allowed = now.Sub(s.sent), cmp.Or(m.usual(), other.usual())*5/4+silenceSlack
	}
	if late <= allowed {
		return body, false
	}
	return max(body, 2*late), true
}

// answers returns how long the first byte takes on a connection that is there; 0: not known.
func (m *mirror) answers() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.warm
}

// usual returns how long the first byte takes; 0: not known.
func (m *mirror) usual() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.latency
}

// expectWarm estimates how long n more bytes take on a connection that is there.
func (m *mirror) expectWarm(n int64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.warm + time.Duration(float64(m.asked+n)/m.rate*float64(time.Second))
}

// silent lets a mirror rest of which no connection has given a byte for some time.
func (m *mirror) silent(now time.Time) {
	m.mu.Lock()
	quiet := now.Sub(m.last) > m.warm+silenceSlack
	m.mu.Unlock()
	if quiet {
		m.failed(silentRest)
	}
}

// mayHedge tells whether the share of bytes that late mirrors may cost has room for one request more.
func (f *fetcher) mayHedge() bool {
	return (f.hedges.Load()+1)*hedgeCost <= f.src.count.bytes.Load()/hedgeShare+hedgeFloor
}

// distrust asks the other mirrors for all that src has given from off on, or was asked for: a chunk of it was damaged.
func (p *preload) distrust(src *httpSource, off int64) {
	if len(p.fetch.mirrors) == 0 || src == nil {
		return
	}
	other := p.fetch.pick(0, src)
	if other == nil || !other.mirror.usable(time.Now()) {
		return
	}
	src.mirror.failed(shortRest)
	p.mu.Lock()
	defer p.mu.Unlock()
	var again []*segment
	kept := p.segs[:0:0]
	next := p.next
	for i, s := range p.segs {
		if i >= p.next || s.src != src || s.end <= off || s.off == s.end {
			kept = append(kept, s)
			continue
		}
		if !s.opening {
			p.left[src] -= s.end - s.off - s.filled
		}
		s.filled = min(s.filled, max(0, off-s.off))
		again = append(again, &segment{span: span{s.off + s.filled, s.end}, opening: true, src: other})
		s.end = s.off + s.filled // its request gives nothing any more
		if s.stop != nil {
			s.stop()
		}
		if s.filled > 0 {
			kept = append(kept, s)
			continue
		}
		next--
		p.sorted = slices.DeleteFunc(p.sorted, func(o *segment) bool { return o == s })
	}
	for _, s := range again {
		p.sorted = slices.Insert(p.sorted, p.behind(s.off), s)
	}
	p.segs, p.next, p.whole = slices.Insert(kept, next, again...), next, 0
	p.free.Broadcast()
}

// either asks src for [off, off+n) around all caches and, at the same time, another mirror. It returns the bytes that pass
// check first; else the error of src's. A mirror whose bytes do not pass is noted.
func (f *fetcher) either(ctx context.Context, src *httpSource, off, n int64, check func([]byte) error) (raw []byte, damaged, err error) {
	type result struct {
		raw          []byte
		damaged, err error
	}
	asked := []*httpSource{src}
	if other := f.after(src); other != src && other.mirror.usable(time.Now()) {
		asked = append(asked, other)
	}
	results := make(chan result, len(asked))
	for _, s := range asked {
		f.judging.Go(func() {
			var r result
			r.err = errPanicked
			f.survived("fetching a damaged chunk again", func() {
				if len(asked) == 1 {
					r.raw, r.err = f.bytesFrom(fresh(ctx), s, off, n)
				} else { // from this one and no other
					_, r.err = s.get(fresh(ctx), off, n, func(b []byte) { r.raw = append(r.raw, b...) })
					if r.err == nil && int64(len(r.raw)) < n {
						r.err = &NetworkError{URL: s.shown, Err: errors.New("a part of the range only")}
					}
				}
				if r.err == nil {
					if r.damaged = check(r.raw); r.damaged != nil {
						f.suspect(s)
					}
				}
			})
			results <- r
		})
	}
	var last result
	for range asked {
		r := <-results
		if r.err == nil && r.damaged == nil {
			return r.raw, nil, nil
		}
		if last.damaged == nil {
			last = r
		}
	}
	return nil, last.damaged, last.err
}
