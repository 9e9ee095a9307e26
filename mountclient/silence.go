package mountclient

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// When the network is away for some seconds, TCP notices its return late: the server's kernel sends again after 0.2, 0.6, 1.4,
// 3, 6.2, 12.6 s, so after an outage of 8 s a body goes on 4.6 s late. So while a request is silent, connections are made
// for nothing but to see whether the network is there. Once one could not be made, the first that can be says that it is back:
// then the requests that stay silent for graceTime more end, and are sent again over new connections. The others were held up
// without a loss, by a queue or a starved machine, and go on by themselves. As long as connections can be made the server
// is slow, and is waited for.
//
// A connection from an address that this machine has not got any more (DHCP gave it another one) is dead, and nothing but silence
// tells of that, while others can be made. The request on it ends.

// Tuning of the above.
const (
	silentAfter = time.Second            // without a byte, until the network is looked at
	probeEvery  = 400 * time.Millisecond // between two connections
	probeLate   = 500 * time.Millisecond // until a connection counts as one that could not be made; three times the usual at the least
	lateProbes  = 2                      // so many late ones at once: a busy machine may be late with one
	tickSlack   = 100 * time.Millisecond // by which a look may come late; more, and this process or the machine stood still
	staleAfter  = 400 * time.Millisecond // requests that were silent for so long when the network came back are looked at
	graceTime   = 300 * time.Millisecond // and end when no byte has come for so long since
)

// A watch looks at the requests to one server. The zero value is ready. Safe for concurrent use.
type watch struct {
	last    atomic.Pointer[endpoint] // what was connected to last
	connect atomic.Int64             // how long the quickest connection took, nanoseconds

	mu       sync.Mutex
	requests map[*request]struct{} // under way
	idle     chan struct{}         // closed when there are none any more
}

type endpoint struct{ network, address string }

// A request is what a watch knows of one.
type request struct {
	heard moment                      // when the last byte came, or it was sent
	end   func()                      // ends it
	local atomic.Pointer[net.TCPAddr] // where its connection begins; nil: not known, or by way of something else than TCP
}

func (r *request) hear() { r.heard.set(time.Now()) }

// connected notes on what connection the request is sent.
func (r *request) connected(local net.Addr) {
	if a, ok := local.(*net.TCPAddr); ok {
		r.local.Store(a)
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dials is dial that notes what it does.
func (w *watch) dials(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		w.last.Store(&endpoint{network, address})
		begin := time.Now()
		conn, err := dial(ctx, network, address)
		if took := int64(time.Since(begin)); err == nil {
			if was := w.connect.Load(); was == 0 || took < was {
				w.connect.Store(took)
			}
		}
		return conn, err
	}
}

// begin registers a request, which end ends, until the function it returns is called. dial makes connections.
func (w *watch) begin(dial dialFunc, end func()) (r *request, done func()) {
	r = &request{end: end}
	r.hear()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.requests == nil {
		w.requests = make(map[*request]struct{})
	}
	if len(w.requests) == 0 {
		w.idle = make(chan struct{})
		go w.look(dial, w.idle)
	}
	w.requests[r] = struct{}{}
	return r, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.requests, r); len(w.requests) == 0 {
			close(w.idle)
		}
	}
}

// silent returns how long the most silent request has been so.
func (w *watch) silent(now time.Time) (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.requests {
		d = max(d, now.Sub(r.heard.get()))
	}
	return d
}

// look runs until there are no requests.
func (w *watch) look(dial dialFunc, idle <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	var probes sync.WaitGroup
	defer probes.Wait()
	defer cancel()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	type result struct {
		begun time.Time
		err   error
	}
	results := make(chan result, int(dialTimeout/probeEvery)+2)
	pending := make(map[time.Time]struct{})
	lost := false
	var good time.Time // when a connection was made last; what was begun before tells nothing new
	var back time.Time // when the network came back; zero: it has not, or that was seen to
	grace := time.NewTimer(0)
	defer grace.Stop()
	looked := time.Now()
	for {
		select {
		case <-tick.C:
		case <-idle:
			return
		case r := <-results:
			delete(pending, r.begun)
			if r.err == nil {
				good = time.Now()
				if lost {
					back = good
					grace.Reset(graceTime)
				}
				lost = false
			} else if r.begun.After(good) {
				lost = true
			}
			continue
		case <-grace.C:
			if now := time.Now(); back.IsZero() {
			} else if now.Sub(back) > graceTime+tickSlack { // bytes may lie unread
				back = now.Add(-graceTime / 2)
				grace.Reset(graceTime / 2)
			} else {
				w.returned(back)
				back = time.Time{}
			}
			continue
		}
		now := time.Now()
		if stood := now.Sub(looked) - probeEvery; stood > tickSlack { // nothing can be told from how long connections took
			clear(pending)
		}
		looked = now
		quiet := w.silent(now)
		if quiet >= staleAfter {
			w.moved(now)
		}
		late := 0
		for begun := range pending {
			if begun.After(good) && now.Sub(begun) > max(probeLate, 3*time.Duration(w.connect.Load())) {
				late++
			}
		}
		lost = lost || late >= lateProbes
		to := w.last.Load()
		if quiet < silentAfter || to == nil || len(pending) >= cap(results) {
			continue
		}
		pending[now] = struct{}{}
		probes.Go(func() {
			dialing, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			conn, err := dial(dialing, to.network, to.address)
			if err == nil {
				conn.Close()
			}
			select {
			case results <- result{now, err}:
			case <-ctx.Done():
			}
		})
	}
}

// returned ends the requests that were silent for some time when the network came back, and have been since.
func (w *watch) returned(back time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.requests {
		if back.Sub(r.heard.get()) > staleAfter {
			r.end()
		}
	}
}

// moved ends the requests that are silent on connections from addresses that are not this machine's any more.
func (w *watch) moved(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var last *net.TCPAddr // the answer for one of them mostly is that for all
	gone := false
	for r := range w.requests {
		a := r.local.Load()
		if a == nil || now.Sub(r.heard.get()) < staleAfter {
			continue
		}
		if last == nil || !last.IP.Equal(a.IP) || last.Zone != a.Zone {
			last, gone = a, isGone(a)
		}
		if gone {
			r.end()
		}
	}
}

// isGone tells whether the address of a connection is not this machine's any more: the kernel lets nobody listen there.
func isGone(a *net.TCPAddr) bool {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.IP, Zone: a.Zone})
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL)
}
