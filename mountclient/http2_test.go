package mountclient

import (
	"bytes"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// A switchboard is a listener whose connections can be cut, or made silent: what is written to them from then on is lost, as
// is what they send.
type switchboard struct {
	net.Listener
	mu    sync.Mutex
	conns []*switched
}

type switched struct {
	net.Conn
	silent atomic.Bool
}

func (s *switchboard) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &switched{Conn: conn}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	return c, nil
}

// each does something to all connections that there are.
func (s *switchboard) each(f func(*switched)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		f(c)
	}
}

func (c *switched) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *switched) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

// A gate holds requests up until it is opened.
type gate struct {
	mu     sync.Mutex
	opened chan struct{}
	from   int64 // those that begin at this byte or later are held
	held   atomic.Int32
}

// shut makes the gate hold what comes.
func (g *gate) shut(from int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened, g.from = make(chan struct{}), from
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.from = math.MaxInt64
}

// pass waits until the gate lets the request through, and tells whether it was held.
func (g *gate) pass(r *http.Request) (held bool) {
	off, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	first, _ := strconv.ParseInt(off, 10, 64)
	g.mu.Lock()
	opened, from := g.opened, g.from
	g.mu.Unlock()
	if first < from {
		return false
	}
	g.held.Add(1)
	select {
	case <-opened:
	case <-r.Context().Done():
	}
	return true
}

// A shortWriter resets the stream within the body.
type shortWriter struct {
	http.ResponseWriter
	left int
}

func (w *shortWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b[:min(len(b), w.left)])
	if w.left -= n; w.left == 0 && err == nil {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// An http2Fault is a fault of some answers, or else of the connections that there are.
type http2Fault struct {
	answer func(w http.ResponseWriter, r *http.Request, file []byte) (done bool)
	conn   func(c *switched)
	limit  time.Duration // until the server is asked again
}

// Faults where one connection carries all requests: at the start, while booting and afterwards.
func TestHTTP2Faults(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, lean)
	late := watchLateness(t)
	for name, f := range map[string]http2Fault{
		"GOAWAY": {limit: resumeWithin, answer: func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.Header().Set("Connection", "close") // what is under way is answered, nothing more
			return false
		}},
		"RST_STREAM before the head": {limit: resumeWithin, answer: func(http.ResponseWriter, *http.Request, []byte) bool { panic(http.ErrAbortHandler) }},
		"RST_STREAM in mid-body": {limit: resumeWithin, answer: func(w http.ResponseWriter, r *http.Request, file []byte) bool {
			http.ServeContent(&shortWriter{w, 1000}, r, "image", time.Unix(1_700_000_000, 0), bytes.NewReader(file))
			return true
		}},
		"503 with Retry-After": {limit: time.Second + resumeWithin, answer: func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}},
		"connection cut":    {limit: resumeWithin, conn: func(c *switched) { c.Conn.Close() }},
		"connection silent": {limit: 6*time.Second + resumeWithin, conn: func(c *switched) { c.silent.Store(true) }}, // a ping goes out after 3 s, and is waited for as long
	} {
		for _, phase := range matrixPhases {
			t.Run(phase+"/"+name, func(t *testing.T) {
				t.Parallel()
				watchdog(t)
				var board switchboard
				g := &gate{from: math.MaxInt64, opened: make(chan struct{})}
				var right moment      // when the first request was answered well that was not held
				var hits atomic.Int32 // answers with the fault
				var last moment       // when the last of them was
				var is atomic.Bool    // it is made
				s := newWebServer(t, p.raw, func(w http.ResponseWriter, r *http.Request) bool {
					held := g.pass(r)
					if is.Load() && f.answer != nil && hits.Add(1) <= matrixHits {
						last.set(time.Now())
						return f.answer(w, r, p.raw)
					}
					if is.Load() && !held && right.get().IsZero() {
						right.set(time.Now())
					}
					return false
				}, func(h *httptest.Server) {
					board.Listener = h.Listener
					h.Listener = &board
				})
				open := func() *Client {
					c, err := Open(t.Context(), Options{URL: s.URL + "/pack.bpk", Log: testLog(t), Access: Access{CAFile: caFile(t, s)}})
					if err != nil {
						t.Error(err)
						return nil
					}
					t.Cleanup(func() { c.Close() })
					c.fetch.setInUse()
					return c
				}
				var c *Client
				switch phase {
				case "start":
					g.shut(0)
				case "booting":
					g.shut(openingBytes)
					c = open()
				case "after":
					if c = open(); c != nil {
						testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
					}
					g.shut(0)
				}
				if t.Failed() {
					return
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					if c == nil {
						c = open()
					}
					if c != nil {
						checkImage(t, c, p.image, 128<<10)
					}
				}()
				testrig.Eventually(t, "a request to make the fault for", func() bool { return g.held.Load() > 0 })
				back := late.outageEnds()
				is.Store(true)
				if f.conn != nil {
					board.each(f.conn)
				}
				g.open()
				testrig.Eventually(t, "an answer after the fault", func() bool { return !right.get().IsZero() })
				if at := last.get(); at.After(back.at) {
					back.at = at
				}
				back.resumed(t, name, right.get(), f.limit)
				<-done
				for _, r := range s.requests() {
					if r.ProtoMajor != 2 {
						t.Errorf("a request by %s", r.Proto)
					}
				}
			})
		}
	}
}
