package faultserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An Answer is what a request will get.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte // a Fault that changes bytes works on a copy
	Delay  time.Duration
	Hang   bool  // nothing is ever sent
	Cut    int64 // bytes of the body after which the connection is cut; -1: never
	Stall  int64 // bytes of the body after which nothing more comes; -1: never
	Rate   int   // bytes per second; 0: no limit

	// Wire answers in place of the server, on the bare connection, which is closed afterwards; nil: the server does.
	Wire func(c net.Conn) error
}

// answer makes the right answer for a request.
func (r *Request) answer(data []byte, etag string, mtime time.Time) *Answer {
	a := &Answer{Status: http.StatusOK, Header: http.Header{}, Body: data, Cut: -1, Stall: -1}
	h := a.Header
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Last-Modified", mtime.UTC().Format(http.TimeFormat))
	if etag != "" {
		h.Set("Etag", etag)
	}
	if !r.Ranged {
		return a
	}
	if r.Off >= int64(len(data)) {
		a.Status, a.Body = http.StatusRequestedRangeNotSatisfiable, nil
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", len(data)))
		return a
	}
	a.setRange(data, r.Off, r.Len)
	return a
}

// setRange makes a the answer with [off, off+n) of data.
func (a *Answer) setRange(data []byte, off, n int64) {
	a.Status, a.Body = http.StatusPartialContent, data[off:off+n]
	a.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, len(data)))
}

// parseRange reads "bytes=A-B" or "bytes=A-" against a file of size bytes. Other forms count as no range.
func parseRange(v string, size int64) (off, n int64, ok bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(v, "bytes="), "-")
	if !ok || !strings.HasPrefix(v, "bytes=") {
		return 0, size, false
	}
	off, err := strconv.ParseInt(first, 10, 64)
	if err != nil || off < 0 {
		return 0, size, false
	}
	end := size
	if last != "" {
		l, err := strconv.ParseInt(last, 10, 64)
		if err != nil || l < off {
			return 0, size, false
		}
		end = min(size, l+1)
	}
	return off, max(0, end-off), true
}

// ServeHTTP answers one request as the script says.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	data, release := s.data, s.release
	r := Request{N: len(s.log), At: time.Now(), Method: req.Method, Path: req.URL.Path}
	r.Off, r.Len, r.Ranged = parseRange(req.Header.Get("Range"), int64(len(data)))
	a := r.answer(data, s.etag, s.mtime)
	if s.script != nil {
		if f := s.script(r); f != nil {
			r.Fault = f.Name
			f.Change(&r, a, data)
		}
	}
	s.log = append(s.log, r)
	close(s.grown)
	s.grown = make(chan struct{})
	s.mu.Unlock()
	s.send(w, req, a, r.N, release)
}

// send sends the answer a to request n.
func (s *Server) send(w http.ResponseWriter, req *http.Request, a *Answer, n int, release <-chan struct{}) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	go func() { // a script that changes ends what hangs or is slow
		select {
		case <-release:
			cancel()
		case <-ctx.Done():
		}
	}()
	if a.Hang || a.Delay > 0 && !pause(ctx, a.Delay) {
		<-ctx.Done()
		panic(http.ErrAbortHandler)
	}
	if a.Wire != nil {
		s.update(n, func(r *Request) { r.Status = a.Status })
		sendWire(w, a)
		return
	}
	for k, v := range a.Header {
		w.Header()[k] = v
	}
	if a.Header.Get("Content-Length") == "" && a.Header.Get("Transfer-Encoding") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	s.update(n, func(r *Request) { r.Status = a.Status })
	w.WriteHeader(a.Status)
	if req.Method == http.MethodHead {
		return
	}
	body := a.Body
	if a.Cut >= 0 {
		body = body[:min(a.Cut, int64(len(body)))]
	}
	if a.Stall >= 0 {
		body = body[:min(a.Stall, int64(len(body)))]
	}
	err := s.write(ctx, w, body, a.Rate, n)
	switch {
	case err != nil:
		panic(http.ErrAbortHandler)
	case a.Stall >= 0:
		_ = http.NewResponseController(w).Flush()
		<-ctx.Done()
		panic(http.ErrAbortHandler)
	case a.Cut >= 0:
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // closes the connection
	}
}

// write sends body, at rate bytes per second if that is not 0.
func (s *Server) write(ctx context.Context, w io.Writer, body []byte, rate int, n int) error {
	step := 64 << 10
	if rate > 0 {
		step = max(1, rate/20)
	}
	for len(body) > 0 {
		m, err := w.Write(body[:min(step, len(body))])
		body = body[m:]
		s.update(n, func(r *Request) { r.Sent += int64(m) })
		if err != nil {
			return err
		}
		if rate > 0 {
			if rw, ok := w.(http.ResponseWriter); ok {
				_ = http.NewResponseController(rw).Flush()
			}
			if !pause(ctx, time.Second/20) {
				return errors.New("released")
			}
		}
	}
	return nil
}

// pause waits for d and tells whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
