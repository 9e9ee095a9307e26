package mountclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sort"
	"sync"
	"time"
)

// Tuning of the preload. Behind the opening, requests follow each other in order of need, and the next is sent when
// little of those before it is still to come: with several streams side by side, the page that is needed next waits
// behind bytes that are needed later (three streams of 1 MiB each: a boot of 270 MB of pages in 4.16 s instead of
// 4.03 s). A stream that breaks off goes on where it was.
const (
	streamAhead    = 256 << 10 // bytes: what 100 Mbit/s bring in the 20 ms until an answer begins
	preloadWorkers = 8         // requests at a time, however short they are
	segmentBytes   = 64 << 20  // of one request
)

// Behind the opening, a stream that gives few bytes at a time is read every gatherTime only: at 100 Mbit/s
// packets come every 0.12 ms, and a wake-up for each would cost the booting machine as much as the decoding.
const (
	gatherTime  = 2 * time.Millisecond
	gatherBytes = 32 << 10
)

// openingSegments are the lengths of the first requests, each on a connection of its own, sent at once and blindly:
// that saves the round trip that would pass until the header tells how long the boot zone is. A new TCP
// connection gives 10 packets of 1,448 bytes in its first round trip (RFC 6928) and twice as much in each that
// follows: the sizes are such that the bytes of each round trip lie side by side, the first ones first.
const openingBytes = 364000 // their sum

var openingSegments = []int64{14000, 14000, 28000, 28000, 42000, 42000, 98000, 98000}

// A preload streams pieces of a remote file into a file in memory, in the order in which they were asked for.
// Readers wait for ranges. The bytes are as they came, unverified.
//
// Safe for concurrent use; mu guards the fields below it.
type preload struct {
	fetch *fetcher
	zone  *os.File // sparse; offsets are those of the remote file
	stop  context.CancelFunc

	mu      sync.Mutex
	come    *sync.Cond            // for readers: bytes that one of them waits for are there
	free    *sync.Cond            // for workers: there is something to take
	segs    []*segment            // in order of need; disjoint
	sorted  []*segment            // by offset
	next    int                   // segs[next:] are not taken yet
	left    map[*httpSource]int64 // bytes to come of segments taken, but for those of the opening
	whole   int                   // segs[:whole] are complete
	streams streams               // without mirrors
	waiting []*span               // what readers wait for
	curious int                   // readers that wait for any answer, for the file's size
	err     error                 // permanent: the preload will not go on
}

// A span is the range [off, end) of a remote file.
type span struct{ off, end int64 }

type segment struct {
	span
	filled  int64       // bytes got
	opening bool        // sent at once, whatever else is under way
	race    bool        // two mirrors are asked for it, see fetcher.race
	src     *httpSource // whom to ask first; set when taken, or before by rescue
	stop    context.CancelFunc
	sent    time.Time // when the request was sent
	came    time.Time // when the last byte came; zero: none yet

	conn     net.Conn // of the last request; nil: not known
	disorder uint32   // outOfOrder of it, when it was asked last
}

// startPreload sends the opening requests. ctx ends the preload; wait for its goroutines by closing running.
func startPreload(ctx context.Context, fetch *fetcher, opening []span, running *sync.WaitGroup) (*preload, error) {
	zone, err := memfd("bootprof-zone")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &preload{fetch: fetch, zone: zone, stop: cancel, left: make(map[*httpSource]int64)}
	p.come, p.free = sync.NewCond(&p.mu), sync.NewCond(&p.mu)
	for i, s := range opening {
		p.add(s, true)
		p.segs[i].race = len(fetch.mirrors) > 0 && i < racedSegments
	}
	context.AfterFunc(ctx, p.wake)
	if len(fetch.mirrors) > 0 {
		running.Go(func() { p.watch(ctx) })
	}
	for range preloadWorkers {
		running.Go(func() { p.work(ctx) })
	}
	return p, nil
}

// wake lets all waiters look at their conditions again.
func (p *preload) wake() {
	p.mu.Lock()
	p.come.Broadcast()
	p.free.Broadcast()
	p.mu.Unlock()
}

// add appends a segment that overlaps no other. The caller holds mu or is alone.
func (p *preload) add(s span, opening bool) {
	seg := &segment{span: s, opening: opening}
	p.segs = append(p.segs, seg)
	i := p.behind(s.off)
	p.sorted = slices.Insert(p.sorted, i, seg)
}

// behind returns the index of the first sorted segment that ends behind off. The caller holds mu.
func (p *preload) behind(off int64) int {
	return sort.Search(len(p.sorted), func(i int) bool { return p.sorted[i].end > off })
}

// ask sends requests for the spans, at once. Nothing may have been asked for there.
func (p *preload) ask(spans []span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range spans {
		p.add(s, true)
	}
	p.free.Broadcast()
}

// need makes the preload go on with the spans, in this order, as far as they were not asked for yet.
func (p *preload) need(spans ...span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range spans {
		for s.off < s.end {
			end := min(s.end, s.off+segmentBytes)
			if i := p.behind(s.off); i < len(p.sorted) {
				if next := p.sorted[i]; next.off <= s.off {
					s.off = next.end
					continue
				} else if next.off < end {
					end = next.off
				}
			}
			p.add(span{s.off, end}, false)
			s.off = end
		}
	}
	p.free.Broadcast()
}

// work fetches segments until ctx ends.
func (p *preload) work(ctx context.Context) {
	for {
		s := p.take(ctx)
		if s == nil {
			return
		}
		for {
			fetch, from, end := p.begin(ctx, s)
			if from == end { // it was given to another mirror meanwhile
				p.finish(ctx, s, nil)
				break
			}
			err := errPanicked
			p.fetch.survived("fetching boot pages", func() {
				if s.race && from == s.off && p.raced(fetch, s) {
					err = nil
					return
				}
				err = p.fetch.streamFrom(fetch, s.src, from, end-from, func(b []byte) { p.store(s, b) })
			})
			s.stop()
			if p.finish(ctx, s, err) {
				break
			}
			if !sleep(ctx, maxRetryWait) {
				return
			}
		}
	}
}

// begin returns what is still to come of a segment, and the context of the request for it.
func (p *preload) begin(ctx context.Context, s *segment) (fetch context.Context, from, end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fetch, s.stop = context.WithCancel(p.noteConn(ctx, s))
	s.sent, s.came = time.Now(), time.Time{}
	return fetch, s.off + s.filled, s.end
}

// take waits for a segment that nobody works on and whose turn it is.
func (p *preload) take(ctx context.Context) *segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if ctx.Err() != nil || p.err != nil {
			return nil
		}
		if p.next < len(p.segs) {
			s := p.segs[p.next]
			if s.opening {
				if s.src == nil {
					s.src = p.fetch.nth(p.next)
				}
				p.next++
				s.sent = time.Now()
				return s
			}
			src, most := p.turn()
			if len(p.fetch.mirrors) > 0 {
				src, most = p.fetch.freest(p.left)
			}
			if src != nil {
				if s.end-s.off > most {
					p.split(s, most, p.next+1)
				}
				s.src = src
				p.left[src] += s.end - s.off
				p.next++
				s.sent = time.Now()
				return s
			}
		}
		p.free.Wait()
	}
}

// split makes a segment n bytes long; what it had beyond them becomes segs[at], and its own. The caller holds mu.
func (p *preload) split(s *segment, n int64, at int) {
	rest := &segment{span: span{s.off + n, s.end}}
	if s.src != nil && !s.opening {
		p.left[s.src] -= rest.end - rest.off
	}
	s.end = rest.off
	p.segs = slices.Insert(p.segs, at, rest)
	p.sorted = slices.Insert(p.sorted, p.behind(rest.off), rest)
}

// enough is from how many bytes on a source has nothing more to be asked for.
func (p *preload) enough() int64 {
	if len(p.fetch.mirrors) > 0 {
		return mostPiece
	}
	return streamAhead
}

// finish notes how a fetch of s ended and tells whether it need not be repeated.
func (p *preload) finish(ctx context.Context, s *segment, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil, s.off+s.filled == s.end, beyondEnd(err) && s.off > 0 && p.endsBefore(ctx, s.off):
	case ctx.Err() != nil:
	case p.fetch.used():
		return false // Options.Timeout is for readers: the zone is completed when the network is back
	case p.err == nil:
		p.err = err
	}
	if !s.opening {
		p.left[s.src] -= s.end - s.off - s.filled
	}
	p.free.Broadcast()
	p.come.Broadcast() // the file's end may be what is waited for
	return true
}

// failed returns what ended the preload, or nil. After network.setInUse that does not change any more.
func (p *preload) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// endsBefore tells whether the remote file ends at or before off. It waits until another answer has told the
// length. The caller holds mu.
func (p *preload) endsBefore(ctx context.Context, off int64) bool {
	size := p.size(ctx)
	return size >= 0 && size <= off
}

// size waits until an answer has told the length of the remote file, and returns it; -1 if none will. The caller
// holds mu.
func (p *preload) size(ctx context.Context) int64 {
	p.curious++
	defer func() { p.curious-- }()
	for p.fetch.src.pin.size() < 0 && p.err == nil && ctx.Err() == nil {
		p.come.Wait()
	}
	return p.fetch.src.pin.size()
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
	p.mu.Lock()
	if rest := s.end - s.off - s.filled; int64(len(b)) > rest { // it was cut
		b = b[:rest]
		s.stop()
	}
	off := s.off + s.filled
	p.mu.Unlock()
	var err error
	if p.file(off+int64(len(b))) == p.zone {
		_, err = p.zone.WriteAt(b, off)
	}
	p.mu.Lock()
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("keeping preloaded bytes in memory: %w", err)
	}
	took := min(int64(len(b)), s.end-s.off-s.filled) // it may have been cut meanwhile
	s.filled += took
	s.came = time.Now()
	if s.opening {
		p.streams.open(took, s.came, p.fetch.src.mirror.usual()/2)
	} else {
		if p.left[s.src] -= took; p.left[s.src] < p.enough() && p.next < len(p.segs) {
			p.free.Signal()
		}
		if len(p.fetch.mirrors) == 0 && p.streams.read(took, s.came, s.src.mirror.answers(), p.lossy) {
			p.spread()
		}
	}
	p.advance()
	more, conn := s.off+s.filled < s.end, s.conn
	p.mu.Unlock()
	if more && !s.opening && gathers(len(b), conn) {
		time.Sleep(gatherTime)
	}
}

// gathers tells whether a stream whose last read brought n bytes waits for more: not if they are there already. A read under
// TLS brings one record, 16 KiB at most, however much waits.
func gathers(n int, conn net.Conn) bool {
	return n < gatherBytes && (conn == nil || unread(conn) < gatherBytes)
}

func (p *preload) close() error {
	p.stop()
	return p.zone.Close()
}
