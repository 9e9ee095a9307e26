package mountclient

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"sync"
	"time"
)

// Tuning of the preload. Behind the opening, one stream brings the rest in order: with several, the page that is
// needed next waits behind bytes that are needed later (three streams of 1 MiB each: a boot of 270 MB of pages in
// 4.16 s instead of 4.03 s). A stream that breaks off goes on where it was.
const (
	preloadStreams = 1
	segmentBytes   = 64 << 20 // of one request
)

// Behind the opening, a stream that gives few bytes at a time is read every gatherTime only: at 100 Mbit/s
// packets come every 0.12 ms, and a wake-up for each would cost the booting machine as much as the decoding.
const (
	gatherTime  = 2 * time.Millisecond
	gatherBytes = 32 << 10
)

// openingSegments are the first requests, each on a connection of its own, sent at once and blindly: that saves
// the round trip that would pass until the header tells how long the boot zone is. A new TCP connection
// gives 10 packets of 1,448 bytes in its first round trip (RFC 6928) and twice as much in each that follows:
// the sizes are such that the bytes of each round trip lie side by side, the first ones first.
const openingBytes = 364000 // their sum

var openingSegments = []int64{14000, 14000, 28000, 28000, 42000, 42000, 98000, 98000}

// A preload streams the beginning of a pack, [0, end), into a file in memory: several requests at a time, in
// order. Readers wait for a prefix. The bytes are as they came, unverified.
//
// Safe for concurrent use; mu guards the fields below it.
type preload struct {
	fetch *fetcher
	zone  *os.File // packOff = file offset
	stop  context.CancelFunc

	mu     sync.Mutex
	cond   *sync.Cond
	segs   []*segment
	prefix int   // segs[:prefix] are complete
	next   int   // segs[next:] are not taken yet
	going  int   // workers that have ended their opening segment
	end    int64 // of the last segment
	want   int64 // up to where the bytes must be there for a waiter to be woken
	err    error // permanent: the preload will not go on
}

type segment struct{ off, end, filled int64 } // filled: bytes got

// startPreload sends the opening requests. ctx ends the preload; wait for its goroutines by closing running.
func startPreload(ctx context.Context, fetch *fetcher, running *sync.WaitGroup) (*preload, error) {
	zone, err := memfd("bootprof-zone")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &preload{fetch: fetch, zone: zone, stop: cancel}
	p.cond = sync.NewCond(&p.mu)
	for _, n := range openingSegments {
		p.add(n)
	}
	context.AfterFunc(ctx, p.wake)
	for range openingSegments {
		running.Go(func() { p.work(ctx) })
	}
	return p, nil
}

// wake lets all waiters look at their conditions again.
func (p *preload) wake() {
	p.mu.Lock()
	p.cond.Broadcast()
	p.mu.Unlock()
}

// add appends a segment of n bytes. The caller holds mu or is alone.
func (p *preload) add(n int64) {
	p.segs = append(p.segs, &segment{off: p.end, end: p.end + n})
	p.end += n
}

// extend makes the preload go on to packOff end.
func (p *preload) extend(end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.end < end {
		p.add(min(segmentBytes, end-p.end))
	}
	p.cond.Broadcast()
}

// work fetches an opening segment and then, if it is one of the first preloadStreams workers to be done with
// that, others until ctx ends.
func (p *preload) work(ctx context.Context) {
	for goOn, first := true, true; goOn; first = false {
		s := p.take(ctx)
		if s == nil {
			return
		}
		for {
			from := s.off + s.filled // changed by this goroutine only
			err := p.fetch.stream(ctx, from, s.end-from, func(b []byte) { p.store(s, b) })
			if p.finish(ctx, s, err) {
				break
			}
			if !sleep(ctx, maxRetryWait) {
				return
			}
		}
		if first {
			goOn = p.goOn()
		}
	}
}

// goOn tells whether a worker that has ended its opening segment is one of the first preloadStreams. Which
// connections are the fast ones is not known before, and one that stands still must not hold up the others.
func (p *preload) goOn() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.going++
	return p.going <= preloadStreams
}

// finish notes how a fetch of s ended and tells whether it need not be repeated.
func (p *preload) finish(ctx context.Context, s *segment, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil, beyondEnd(err) && s.off > 0 && p.endsBefore(ctx, s.off):
		s.end = s.off + s.filled // shorter than asked for if the file ends here
	case ctx.Err() != nil:
	case p.fetch.used():
		return false // Options.Timeout is for readers: the zone is completed when the network is back
	case p.err == nil:
		p.err = err
	}
	p.advance()
	p.cond.Broadcast() // the file's end may be what is waited for
	return true
}

// failed returns what ended the preload, or nil. After fetcher.setInUse that does not change any more.
func (p *preload) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// endsBefore tells whether the remote file ends at or before packOff. It waits until another answer has told
// the length. The caller holds mu.
func (p *preload) endsBefore(ctx context.Context, packOff int64) bool {
	for p.fetch.src.pin.size() < 0 && p.err == nil && ctx.Err() == nil {
		p.want = 0
		p.cond.Wait()
	}
	size := p.fetch.src.pin.size()
	return size >= 0 && size <= packOff
}

// take waits for a segment that nobody works on.
func (p *preload) take(ctx context.Context) *segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if ctx.Err() != nil || p.err != nil {
			return nil
		}
		if p.next < len(p.segs) {
			p.next++
			return p.segs[p.next-1]
		}
		p.cond.Wait()
	}
}

// beyondEnd tells that a request failed because the file is shorter than its range's start.
func beyondEnd(err error) bool {
	var h *HTTPError
	return errors.As(err, &h) && h.Code == http.StatusRequestedRangeNotSatisfiable
}

// errEndsEarly tells that the remote file is shorter than what its header or its index says.
var errEndsEarly = errors.New("the file is cut off")

// store keeps bytes of a segment as they come.
func (p *preload) store(s *segment, b []byte) {
	_, err := p.zone.WriteAt(b, s.off+s.filled)
	p.mu.Lock()
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("keeping preloaded bytes in memory: %w", err)
	}
	s.filled += int64(len(b))
	p.advance()
	more := s.off+s.filled < s.end
	p.mu.Unlock()
	if more && s.off >= openingBytes && len(b) < gatherBytes {
		time.Sleep(gatherTime)
	}
}

// advance notes what is complete and wakes the waiters if one of them has what it waits for. The caller
// holds mu.
func (p *preload) advance() {
	for p.prefix < len(p.segs) && p.segs[p.prefix].off+p.segs[p.prefix].filled == p.segs[p.prefix].end {
		p.prefix++
	}
	if p.have() >= p.want || p.err != nil {
		p.want = math.MaxInt64
		p.cond.Broadcast()
	}
}

// have returns up to where all bytes are there. The caller holds mu.
func (p *preload) have() int64 {
	if p.prefix < len(p.segs) {
		return p.segs[p.prefix].off + p.segs[p.prefix].filled
	}
	return p.segs[len(p.segs)-1].end
}

// wait blocks until [0, packEnd) is there, the remote file has ended before it (then it tells so), or ctx ends.
func (p *preload) wait(ctx context.Context, packEnd int64) error {
	stop := context.AfterFunc(ctx, p.wake)
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.err != nil {
			return p.err
		}
		// First: the segments behind the end of a short file count as complete.
		if size := p.fetch.src.pin.size(); size >= 0 && size < packEnd {
			return errEndsEarly
		}
		if p.have() >= packEnd {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.want = min(p.want, packEnd)
		p.cond.Wait()
	}
}

// has tells whether [0, packEnd) is there; packEnd lies inside the remote file.
func (p *preload) has(packEnd int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.have() >= packEnd
}

// read returns [packOff, packOff+n) of what wait has waited for.
func (p *preload) read(packOff, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := p.zone.ReadAt(b, packOff); err != nil {
		return nil, fmt.Errorf("reading preloaded bytes from memory: %w", err)
	}
	return b, nil
}

// replace puts a chunk that was fetched again in the place of a damaged one.
func (p *preload) replace(packOff int64, b []byte) error {
	_, err := p.zone.WriteAt(b, packOff)
	return err
}

func (p *preload) close() error {
	p.stop()
	return p.zone.Close()
}
