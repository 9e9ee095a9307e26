// Package faultserver is a web server for tests that serves one file with ranges, correctly until a script
// says otherwise.
//
// Concepts:
//
//   - A Script sees every request before it is answered and returns the Fault for it, or nil for a right
//     answer. The helpers First, After and Touching make the usual scripts.
//   - A Fault changes the right Answer: its status, head, body, or how the body comes.
//   - Stop and Start with the same Server use the same port: in between, connections are refused.
//
// The connections are real TCP over loopback. A Server is an http.Handler, too, for use without Start.
//
// Trap: with a client that keeps connections, Stop cuts what is under way, as a power failure would.
package faultserver

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// A Request is what a client asked for and what it was told.
type Request struct {
	N      int       // 0 for the first request since the Server was made
	At     time.Time // when it came
	Method string
	Path   string
	Off    int64  // range asked for, [Off +Len); 0 and the file's size without a Range
	Len    int64  //
	Ranged bool   // the request had a Range
	Status int    // answered; 0: nothing was
	Fault  string // name of the fault it hit; "": none
	Sent   int64  // bytes of the body written
}

// Touches tells whether the range asked for holds the byte at off.
func (r *Request) Touches(off int64) bool { return r.Off <= off && off < r.Off+r.Len }

// A Script returns the fault for a request, or nil. It is called under a lock, for one request at a time.
type Script func(r Request) *Fault

// First hits the first n requests that come after it was made.
func First(n int, f *Fault) Script {
	return func(Request) *Fault {
		if n--; n >= 0 {
			return f
		}
		return nil
	}
}

// After hits all requests but the first n that come after it was made.
func After(n int, f *Fault) Script {
	return func(Request) *Fault {
		if n--; n < 0 {
			return f
		}
		return nil
	}
}

// Touching hits the first n requests whose range holds the byte at off.
func Touching(off int64, n int, f *Fault) Script {
	return func(r Request) *Fault {
		if r.Touches(off) {
			if n--; n >= 0 {
				return f
			}
		}
		return nil
	}
}

// Always hits every request.
func Always(f *Fault) Script { return func(Request) *Fault { return f } }

// A Server serves one file under every path. Make one with New. Safe for concurrent use.
type Server struct {
	mu      sync.Mutex
	data    []byte
	etag    string
	mtime   time.Time
	script  Script
	release chan struct{} // closed to let go of requests that hang
	log     []Request
	grown   chan struct{} // closed when log grows
	addr    string        // kept over Stop
	srv     *http.Server
	l       net.Listener
}

// New makes a server of data, which must not be changed afterwards.
func New(data []byte) *Server {
	return &Server{data: data, etag: `"v1"`, mtime: time.Unix(1_700_000_000, 0), release: make(chan struct{}), grown: make(chan struct{})}
}

// Start listens on a port of 127.0.0.1: the one it had before Stop, or a free one.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv != nil {
		return nil
	}
	addr := s.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", addr, err)
	}
	s.addr, s.l = l.Addr().String(), l
	s.srv = &http.Server{Handler: s}
	go s.srv.Serve(l)
	return nil
}

// Stop closes the listener and all connections. Requests that hang end.
func (s *Server) Stop() {
	s.mu.Lock()
	srv, l := s.srv, s.l
	s.srv = nil
	s.mu.Unlock()
	if srv != nil {
		l.Close() // srv does not know it before its goroutine has run
		srv.Close()
	}
}

// URL returns the address of the file called name. The port is known after the first Start.
func (s *Server) URL(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "http://" + s.addr + "/" + name
}

// Script sets the faults of the requests to come; nil for none. Requests that hang are let go: their
// connections are cut.
func (s *Server) Script(script Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
	close(s.release)
	s.release = make(chan struct{})
}

// Replace puts another file in the place of the present one. An answer under way goes on with the old bytes.
func (s *Server) Replace(data []byte, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data, s.etag, s.mtime = data, etag, s.mtime.Add(time.Second)
}

// Requests returns what came until now, in order.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.log...)
}

// Wait blocks until n requests have come, or returns false after timeout.
func (s *Server) Wait(n int, timeout time.Duration) bool {
	t := time.NewTimer(timeout)
	defer t.Stop()
	for {
		s.mu.Lock()
		have, grown := len(s.log), s.grown
		s.mu.Unlock()
		if have >= n {
			return true
		}
		select {
		case <-grown:
		case <-t.C:
			return false
		}
	}
}

// update changes the record of request n.
func (s *Server) update(n int, f func(r *Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.log[n])
}
