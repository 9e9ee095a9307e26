package mountclient

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Behind the opening, one stream brings the boot zone from a single server, as several would share the link and delay the page
// that is needed next. But where packets are lost, TCP does not use the link: at 20 ms and 1 % of loss a stream gives 7 Mbit/s,
// whatever the link could. It then comes in bursts with pauses. A busy machine that reads late sees pauses as well, but no
// packets out of order; a link whose queue was full loses packets as well, but is used. What a link gives shows in the
// opening, which comes over eight connections. So, where a stream pauses much for some time, packets are missing, and it
// brings clearly less than has been seen, the number of streams is doubled as a trial, which stands if they bring more
// together, and is tried again later if not. It is not free: what the server has sent of a stream that is cut short is
// lost, 0.6 MB of a boot over 100 Mbit/s.

// Tuning of the number of streams.
const (
	mostStreams   = 8
	pausing       = 6 * time.Millisecond   // between two reads: a pause. Packets of 1 Mbit/s are 12 ms apart, so a slow link looks like pauses, too
	muchPausing   = 0.25                   // of the time
	underused     = 0.7                    // of the best rate seen: less is a link that is not used
	trialGain     = 1.25                   // the least that a trial has to bring
	streamWindow  = 100 * time.Millisecond // of a measurement, at the least
	streamTurns   = 5                      // round trips of one, at the least
	lateReader    = 64 << 10               // bytes that wait to be read at its end: the machine is late, not the network
	pausedWindows = 2                      // in a row, until a trial
	firstHold     = 4                      // windows from a trial that failed to the next; doubled each time
	streamPiece   = 250 * time.Millisecond // of one of several streams: so long a later page may hold up an earlier one
	leastPieceLen = 64 << 10
	mostPieceLen  = 1 << 20
)

// A streamCount decides how many streams there are. The zero value begins with one. Not safe for concurrent use.
type streamCount struct {
	n        int // streams - 1
	before   int // n before the trial
	rate     float64
	best     float64 // rate seen, of the opening or a window
	isTrial  bool
	hold     int // windows in which nothing is tried
	held     int // the last hold
	pauses   int // windows in a row that were pauses for the most part
	lossless int // windows in a row in which no packet was missing
}

// next takes what a window has given, in bytes per second, the part of it that was pauses, and whether packets were missing.
// It tells how many streams the next one has.
func (c *streamCount) next(rate, paused float64, lossy bool) int {
	c.pauses++
	if paused <= muchPausing {
		c.pauses = 0
	}
	c.lossless++
	if lossy {
		c.lossless = 0
	}
	c.best = max(c.best, rate)
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
	case c.hold == 0 && c.pauses >= pausedWindows && c.lossless < pausedWindows:
		if paused > muchPausing && rate < underused*c.best && c.n+1 < mostStreams {
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

	opening int64     // bytes of it
	opened  time.Time // its first bytes came
}

// open notes bytes of the opening. That one of its connections is late says nothing of the link. turn is a round trip; 0: not known.
func (m *streams) open(n int64, now time.Time, turn time.Duration) {
	if m.opening == 0 {
		m.opened = now
	}
	if m.opening += n; m.opening >= leastPieceLen {
		// In less than a round trip no server sends so much.
		m.count.best = max(m.count.best, float64(m.opening)/max(now.Sub(m.opened), turn, time.Millisecond).Seconds())
	}
}

// read notes bytes that came and tells whether the number of streams has changed. turn is a round trip. At the end of a window,
// lossy tells whether packets were missing in it.
func (m *streams) read(n int64, now time.Time, turn time.Duration, lossy func() bool) bool {
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
	m.n = m.count.next(rate, m.paused.Seconds()/took.Seconds(), lossy())
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

// noteConn returns a context for a segment's requests that notes the connection they get.
func (p *preload) noteConn(ctx context.Context, s *segment) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		disorder := outOfOrder(got.Conn)
		p.mu.Lock()
		s.conn, s.disorder = got.Conn, disorder
		p.mu.Unlock()
	}})
}

// lossy tells whether packets were missing since it was asked last, on any connection under way, and whether that is what
// holds it up: not if bytes wait to be read. The caller holds mu.
func (p *preload) lossy() (lossy bool) {
	late := false
	for _, s := range p.segs[p.whole:p.next] {
		if s.conn == nil || s.opening || s.isWhole() {
			continue
		}
		now := outOfOrder(s.conn)
		lossy = lossy || now != s.disorder
		s.disorder = now
		late = late || unread(s.conn) > lateReader
	}
	return lossy && !late
}

// outOfOrder returns how many packets of a connection came before one that was sent earlier: tcpi_rcv_ooopack of tcp(7)'s
// TCP_INFO; 0 where that is not known.
func outOfOrder(conn net.Conn) (n uint32) {
	control(conn, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Rcv_ooopack
		}
	})
	return n
}

// unread returns how many bytes of a connection the kernel holds for a reader: SIOCINQ of tcp(7); 0 where that is not known.
func unread(conn net.Conn) (n int) {
	control(conn, func(fd int) {
		if got, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
			n = got
		}
	})
	return n
}

// control calls f with the descriptor of a connection, if it has one.
func control(conn net.Conn, f func(fd int)) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { f(int(fd)) })
		}
	}
}
