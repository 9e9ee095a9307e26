package mountclient

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Tuning of mirrors. All of it is without effect for one server alone.
const (
	firstPatience = 300 * time.Millisecond // for the first byte of a server of which nothing is known
	leastPatience = 60 * time.Millisecond
	mostPatience  = 2 * time.Second
	bodyPatience  = time.Second // without a byte of a body, until the rest is asked for elsewhere
	maxMirrors    = 16
	lateRest      = 100 * time.Millisecond // of a mirror that was late; doubled each time
	shortRest     = time.Second            // the same of one that broke off
	longRest      = 30 * time.Second       // of one that does not have the file or refuses it, and the longest
	rateWindow    = 50 * time.Millisecond  // of a sample of throughput
	firstBytes    = 20 << 10               // of the first sample
	idleGap       = 3 * time.Millisecond   // between packets: a longer one is TCP waiting for its window to open, and not the link
	pieceTime     = 40 * time.Millisecond  // of a piece of the preload; a mirror has two of them to give
	leastPiece    = 64 << 10
	mostPiece     = 1 << 20
	slowest       = 8                      // a mirror slower by this than the fastest has no part in the preload
	probeAfter    = 500 * time.Millisecond // but is tried again with a piece, as its throughput may have been misjudged
	liesAllowed   = 2                      // damaged answers to requests that went around all caches
)

// A mirror is a server that has the client's files, and what was seen of it. Latency and throughput are smoothed
// as in RFC 6298. Safe for concurrent use.
type mirror struct {
	name string // scheme and host

	mu       sync.Mutex
	shared   bool          // there are others
	latency  time.Duration // from request to first byte; 0: not known
	warm     time.Duration // the same without the making of a connection
	spread   time.Duration // mean deviation of latency
	rate     float64       // bytes per second while bodies come; 0: not known
	asked    int64         // bytes asked for that have not come
	bodies   int           // coming now
	last     time.Time     // when bytes came
	windowed int64         // bytes since the last sample of rate, which came in busy
	busy     time.Duration
	tried    time.Time // the last request
	rests    time.Time // not to be asked before, if another can be
	rest     time.Duration
	lies     int
	dropped  string // why it is not asked any more

	requests, bytes, faults int64
}

// begin notes a request for n bytes.
func (m *mirror) begin(n int64) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	m.asked += n
	m.tried = time.Now()
	return m.tried
}

// first notes the first byte of the answer to a request sent at begun, which had its connection after connected.
func (m *mirror) first(begun time.Time, connected time.Duration) {
	now := time.Now()
	took := now.Sub(begun)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latency == 0 {
		m.latency, m.spread = took, took/2
		m.warm = took - connected
	} else {
		m.warm += (took - connected - m.warm) / 4
		m.spread += ((took - m.latency).Abs() - m.spread) / 4
		m.latency += (took - m.latency) / 8
	}
	if m.bodies++; m.bodies == 1 {
		m.last = now
	}
	m.rest, m.rests = 0, time.Time{}
}

// came notes n bytes of a body.
func (m *mirror) came(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += n
	m.asked -= n
	m.windowed += n
	now := time.Now()
	m.busy += min(now.Sub(m.last), idleGap)
	m.last = now
	if m.busy < rateWindow && (m.rate > 0 || m.windowed < firstBytes) {
		return
	}
	seen := float64(m.windowed) / max(m.busy, time.Millisecond).Seconds()
	if m.rate == 0 {
		m.rate = seen
	} else {
		m.rate += (seen - m.rate) / 4
	}
	m.windowed, m.busy = 0, 0
}

// end notes that nothing more comes to a request. left is how many of its bytes did not; started, whether any did.
func (m *mirror) end(left int64, started bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked -= left
	if started {
		m.bodies--
	}
}

// failed lets a mirror rest after a fault, at least for the time given, and longer each time until it answers.
func (m *mirror) failed(atLeast time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults++
	now := time.Now()
	if !now.Add(atLeast).After(m.rests) {
		return // one fault, seen by several requests
	}
	m.rest = min(max(2*m.rest, atLeast), longRest)
	m.rests = now.Add(m.rest)
}

// forgive ends the rest of a mirror.
func (m *mirror) forgive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rest, m.rests = 0, time.Time{}
}

// patience is how long the first byte of an answer may take before it is asked for elsewhere, too.
func (m *mirror) patience() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latency == 0 {
		return firstPatience
	}
	return min(max(2*m.latency+4*m.spread, leastPatience), mostPatience)
}

// stall is how long no byte of a body may come before the attempt ends.
func (m *mirror) stall() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shared {
		return bodyPatience
	}
	return stallTimeout
}

// usable tells whether the mirror may be asked now.
func (m *mirror) usable(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dropped == "" && !now.Before(m.rests)
}

// expect estimates how long n more bytes would take. fallback is the rate of a mirror of which none is known.
func (m *mirror) expect(n int64, fallback float64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	rate := m.rate
	if rate == 0 {
		rate = fallback
	}
	return m.latency + time.Duration(float64(m.asked+n)/rate*float64(time.Second))
}

func (m *mirror) throughput() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rate
}

// dropFor takes the mirror out for good and tells whether it was in.
func (m *mirror) dropFor(why string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dropped != "" {
		return false
	}
	m.dropped = why
	return true
}

// lied notes a damaged answer and tells whether it was one too many.
func (m *mirror) lied() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lies++
	return m.lies >= liesAllowed
}

// guessedRate orders mirrors of which no rate is known: 100 Mbit/s.
const guessedRate = 100e6 / 8

// pick returns the source that is expected to give n bytes first, other than not. If none may be asked now it is the
// one that was not asked for the longest time; nil if there is none at all.
func (f *fetcher) pick(n int64, not *httpSource) *httpSource {
	if len(f.mirrors) == 0 {
		if not == f.src {
			return nil
		}
		return f.src
	}
	now := time.Now()
	var best, oldest *httpSource
	var soonest time.Duration
	var since time.Time
	for _, s := range f.mirrors {
		m := s.mirror
		if s == not || m.isDropped() {
			continue
		}
		if m.usable(now) {
			if takes := m.expect(n, guessedRate); best == nil || takes < soonest {
				best, soonest = s, takes
			}
		}
		if tried := m.lastTried(); oldest == nil || tried.Before(since) {
			oldest, since = s, tried
		}
	}
	if best == nil {
		return oldest
	}
	return best
}

func (m *mirror) isDropped() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dropped != ""
}

func (m *mirror) lastTried() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tried
}

// nth returns the source for the nth request of an opening.
func (f *fetcher) nth(n int) *httpSource {
	if len(f.mirrors) == 0 {
		return f.src
	}
	return f.mirrors[n%len(f.mirrors)]
}

// freest returns the source that will be done first with what it has to give of a preload, and how many bytes it may
// be asked for; nil if each has enough to do. With several mirrors the pieces are of equal times: each brings its
// part of the next bytes, whatever its throughput. One that would hold up the others by a piece is left out.
func (f *fetcher) freest(left map[*httpSource]int64) (*httpSource, int64) {
	now := time.Now()
	var fastest float64
	usable := false
	for _, s := range f.mirrors {
		usable = usable || s.mirror.usable(now)
		fastest = max(fastest, s.mirror.throughput())
	}
	var best *httpSource
	var most int64
	var soonest float64
	for _, s := range f.mirrors {
		if usable && !s.mirror.usable(now) || s.mirror.isDropped() {
			continue
		}
		rate := s.mirror.throughput()
		if rate == 0 {
			rate = max(fastest, guessedRate/4)
		}
		piece := min(max(int64(rate*pieceTime.Seconds()), leastPiece), mostPiece)
		if rate*slowest < fastest {
			if now.Sub(s.mirror.lastTried()) < probeAfter || left[s] > 0 {
				continue
			}
			best, most = s, leastPiece
			break
		}
		if left[s] >= piece {
			continue
		}
		if done := float64(left[s]+piece) / rate; best == nil || done < soonest {
			best, most, soonest = s, piece, done
		}
	}
	return best, most
}

// share is the rate of one of the answers that come now; 0: not known.
func (m *mirror) share() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rate / float64(max(1, m.bodies))
}

// elsewhere notes the fault of a source and tells whether another may be asked at once.
func (f *fetcher) elsewhere(s *httpSource, err error) bool {
	f.last.note(err)
	if len(f.mirrors) == 0 {
		s.mirror.failed(0)
		return false
	}
	var others bool
	now := time.Now()
	for _, o := range f.mirrors {
		others = others || o != s && o.mirror.usable(now)
	}
	var identity *identityError
	var image *ImageError
	var answer *HTTPError
	rest := shortRest
	switch {
	case errors.As(err, &identity), errors.As(err, &image):
		if others && s.mirror.dropFor(err.Error()) {
			f.log.Warn("mirror dropped: it has another file than the others", "mirror", s.mirror.name, "error", err)
		}
	case errors.As(err, &answer):
		rest = max(rest, answer.RetryAfter)
		if answer.Permanent() || answer.whole {
			rest = longRest
		}
	}
	if others && s.mirror.usable(now) {
		f.log.Warn("mirror fails, others are asked", "mirror", s.mirror.name, "error", err)
	}
	s.mirror.failed(rest)
	return others
}

// suspect notes that the bytes of a source had another digest than they should, though no cache was asked: as long as there
// are others, it is not asked for a while, the first time, and then not any more.
func (f *fetcher) suspect(s *httpSource) {
	if len(f.mirrors) == 0 {
		return
	}
	if !s.mirror.lied() {
		s.mirror.failed(longRest)
		return
	}
	now := time.Now()
	for _, o := range f.mirrors {
		if o != s && o.mirror.usable(now) {
			if s.mirror.dropFor("damaged bytes") {
				f.log.Warn("mirror dropped: its bytes are damaged", "mirror", s.mirror.name)
			}
			return
		}
	}
}

// parseRetryAfter reads a header of that name (RFC 9110, section 10.2.3): seconds, or a date. It gives longRest at most,
// and 0 for anything else.
func parseRetryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, longRest)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), longRest)
}
