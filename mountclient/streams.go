package mountclient

import (
	"time"
)

// Behind the opening, one stream brings the boot zone from a single server, as several would share the link and delay the page
// that is needed next. But where packets are lost, TCP does not use the link: at 20 ms and 1 % of loss a stream gives 7 Mbit/s,
// whatever the link could. It then comes in bursts with pauses. So, where a stream pauses much, their number is doubled
// as a trial, which stands if they bring more together, and is tried again later if not.

// Tuning of the number of streams.
const (
	mostStreams   = 8
	pausing       = 6 * time.Millisecond   // between two reads: a pause. Packets of 1 Mbit/s are 12 ms apart, so a slow link looks like pauses, too
	muchPausing   = 0.25                   // of the time
	trialGain     = 1.25                   // the least that a trial has to bring
	streamWindow  = 100 * time.Millisecond // of a measurement, at the least
	streamTurns   = 5                      // round trips of one, at the least
	firstHold     = 4                      // windows from a trial that failed to the next; doubled each time
	streamPiece   = 250 * time.Millisecond // of one of several streams: so long a later page may hold up an earlier one
	leastPieceLen = 64 << 10
	mostPieceLen  = 1 << 20
)

// A streamCount decides how many streams there are. The zero value begins with one. Not safe for concurrent use.
type streamCount struct {
	n       int // streams - 1
	before  int // n before the trial
	rate    float64
	isTrial bool
	hold    int // windows in which nothing is tried
	held    int // the last hold
}

// next takes what a window has given, in bytes per second, and the part of it that was pauses. It tells how many streams the
// next one has.
func (c *streamCount) next(rate, paused float64) int {
	switch {
	case c.isTrial:
		c.isTrial = false
		if rate < c.rate*trialGain {
			c.n = c.before
			c.held = max(firstHold, 2*c.held)
			c.hold = c.held
			break
		}
		fallthrough
	case c.hold == 0 && paused > muchPausing && c.n+1 < mostStreams:
		if paused > muchPausing && c.n+1 < mostStreams {
			c.before, c.rate, c.isTrial = c.n, rate, true
			c.n = min(2*(c.n+1), mostStreams) - 1
		}
	case c.hold > 0:
		c.hold--
	}
	return c.n + 1
}

// streams measures what comes behind the opening from a single server. Guarded by the preload's mu.
type streams struct {
	count  streamCount
	n      int           // streams now; 0: one
	piece  int64         // bytes of one request, with several streams
	began  time.Time     // of the window
	last   time.Time     // read
	bytes  int64         // in the window
	paused time.Duration // in the window
}

// read notes bytes that came and tells whether the number of streams has changed. turn is a round trip.
func (m *streams) read(n int64, now time.Time, turn time.Duration) bool {
	if m.began.IsZero() {
		m.began, m.last = now, now
		return false
	}
	if gap := now.Sub(m.last); gap > pausing {
		m.paused += gap
	}
	m.last = now
	m.bytes += n
	took := now.Sub(m.began)
	if took < max(streamWindow, streamTurns*turn) {
		return false
	}
	rate := float64(m.bytes) / took.Seconds()
	was := max(m.n, 1)
	m.n = m.count.next(rate, m.paused.Seconds()/took.Seconds())
	m.piece = min(max(int64(rate*streamPiece.Seconds())/int64(was), leastPieceLen), mostPieceLen)
	m.began, m.bytes, m.paused = now, 0, 0
	return m.n != was
}

// turn returns the only source and how many bytes it may be asked for now; nil if it has enough to do. The caller holds mu.
func (p *preload) turn() (*httpSource, int64) {
	src := p.fetch.src
	if p.streams.n <= 1 {
		if p.left[src] >= streamAhead {
			return nil, 0
		}
		return src, segmentBytes
	}
	active := 0
	for i := p.whole; i < p.next; i++ {
		if s := p.segs[i]; !s.opening && !s.isWhole() {
			active++
		}
	}
	if active >= p.streams.n {
		return nil, 0
	}
	return src, p.streams.piece
}

// spread cuts what is under way, so that other streams can take the rest. The caller holds mu.
func (p *preload) spread() {
	p.skipWhole()
	if p.streams.n > 1 {
		for i := p.next - 1; i >= p.whole; i-- {
			if s := p.segs[i]; !s.opening && s.end-s.off-s.filled > 2*p.streams.piece {
				p.split(s, s.filled+p.streams.piece, p.next)
			}
		}
	}
	p.free.Broadcast()
}
