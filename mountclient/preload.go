package mountclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
)

// Tuning of the preload. Segments are handed out in order and start small: with several in flight, the first
// pages of the boot would otherwise wait behind bytes that are needed late.
const (
	preloadStreams = 4         // connections
	openingBytes   = 512 << 10 // asked for before the header is there, in openingSegments
	segmentBytes   = 512 << 10 // of a zone up to largeZoneBytes
	largeSegment   = 1 << 20   // of a larger zone
	largeZoneBytes = 16 << 20
)

// openingSegments are the first requests, sent at once and blindly: they save the round trip that would pass
// until the header tells how long the boot zone is, and open the connections in parallel.
var openingSegments = [preloadStreams]int64{64 << 10, 64 << 10, 128 << 10, 256 << 10}

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
	end    int64 // of the last segment
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
	for range preloadStreams {
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
	size := int64(segmentBytes)
	if end > largeZoneBytes {
		size = largeSegment
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.end < end {
		p.add(min(size, end-p.end))
	}
	p.cond.Broadcast()
}

// work fetches segments until ctx ends.
func (p *preload) work(ctx context.Context) {
	for {
		s := p.take(ctx)
		if s == nil {
			return
		}
		err := p.fetch.stream(ctx, s.off, s.end-s.off, func(b []byte) { p.store(s, b) })
		p.mu.Lock()
		if beyondEnd(err) && s.off > 0 {
			err = nil // an opening segment of a short file
		}
		if err != nil && ctx.Err() == nil && p.err == nil {
			p.err = err
		}
		if err == nil && s.off+s.filled < s.end {
			s.end = s.off + s.filled // the file ends here
		}
		p.advance()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
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

func (p *preload) store(s *segment, b []byte) {
	_, err := p.zone.WriteAt(b, s.off+s.filled)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("keeping preloaded bytes in memory: %w", err)
	}
	s.filled += int64(len(b))
	p.advance()
}

func (p *preload) advance() {
	for p.prefix < len(p.segs) && p.segs[p.prefix].off+p.segs[p.prefix].filled == p.segs[p.prefix].end {
		p.prefix++
	}
	p.cond.Broadcast()
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
		have := int64(0)
		if p.prefix < len(p.segs) {
			have = p.segs[p.prefix].off + p.segs[p.prefix].filled
		} else {
			have = p.segs[len(p.segs)-1].end
		}
		if have >= packEnd {
			return nil
		}
		if size := p.fetch.src.pin.size(); size >= 0 && size < packEnd {
			return errEndsEarly
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.cond.Wait()
	}
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
