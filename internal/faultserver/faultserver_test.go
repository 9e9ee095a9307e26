package faultserver

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

func data(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func start(t *testing.T, b []byte) *Server {
	t.Helper()
	s := New(b)
	testrig.Must(t, s.Start())
	t.Cleanup(s.Stop)
	return s
}

// get asks for a range with net/http and returns the answer and what came of the body.
func get(t *testing.T, s *Server, off, n int64) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequest("GET", s.URL("pack"), nil)
	testrig.Must(t, err)
	if n > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	c := &http.Client{Timeout: testrig.Patience, Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

func TestServesRangesAsNetHTTPDoes(t *testing.T) {
	file := data(100_000)
	s := start(t, file)
	ref := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"v1"`)
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Unix(1_700_000_000, 0), bytes.NewReader(file))
	})
	for _, rng := range []string{"", "bytes=0-0", "bytes=0-99", "bytes=99999-99999", "bytes=50000-", "bytes=99000-200000", "bytes=100000-100001"} {
		var got [2]*http.Response
		var body [2][]byte
		for i, h := range []http.Handler{ref, s} {
			rec := httptest.NewRecorder()
			req := httptest.NewRequest("GET", "/pack", nil)
			if rng != "" {
				req.Header.Set("Range", rng)
			}
			h.ServeHTTP(rec, req)
			got[i], body[i] = rec.Result(), rec.Body.Bytes()
		}
		if got[0].StatusCode == http.StatusRequestedRangeNotSatisfiable {
			body = [2][]byte{} // the page that comes with it is up to the server
		} else if a, b := got[0].Header.Get("Content-Length"), got[1].Header.Get("Content-Length"); a != b {
			t.Errorf("%q: Content-Length %q, net/http says %q", rng, b, a)
		}
		if got[0].StatusCode != got[1].StatusCode || !bytes.Equal(body[0], body[1]) {
			t.Errorf("%q: %s with %d bytes, net/http says %s with %d", rng, got[1].Status, len(body[1]), got[0].Status, len(body[0]))
		}
		for _, h := range []string{"Content-Range", "Accept-Ranges", "Last-Modified"} {
			if a, b := got[0].Header.Get(h), got[1].Header.Get(h); a != b && a != "" {
				t.Errorf("%q: %s %q, net/http says %q", rng, h, b, a)
			}
		}
	}
}

func TestFaults(t *testing.T) {
	file := data(300_000)
	rng := file[1000:201_000]
	gunzip := func(b []byte) []byte {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(r)
		return out
	}
	flipped := func(at int) []byte { b := bytes.Clone(rng); b[at] ^= 0x10; return b }
	for _, c := range []struct {
		fault  *Fault
		status int
		body   []byte
		header [2]string
		err    error
	}{
		{fault: Status(404), status: 404, body: []byte("<html><body>Not Found</body></html>\n")},
		{fault: Status(503, "Retry-After", "1"), status: 503, header: [2]string{"Retry-After", "1"}},
		{fault: Redirect("http://127.0.0.1:1/x"), status: 302, header: [2]string{"Location", "http://127.0.0.1:1/x"}},
		{fault: HTML(), status: 200, header: [2]string{"Content-Type", "text/html; charset=utf-8"}},
		{fault: FullBody(), status: 200, body: file, header: [2]string{"Content-Range", ""}},
		{fault: WrongRange(100), status: 206, body: file[1100:201_100], header: [2]string{"Content-Range", "bytes 1100-201099/300000"}},
		{fault: ContentRange("bytes 0-1/2"), status: 206, body: rng, header: [2]string{"Content-Range", "bytes 0-1/2"}},
		{fault: ShortRange(10), status: 206, body: rng[:10], header: [2]string{"Content-Range", "bytes 1000-1009/300000"}},
		{fault: NotSatisfiable(), status: 416, body: []byte{}, header: [2]string{"Content-Range", "bytes */300000"}},
		{fault: Flip(1005), status: 206, body: flipped(5)},
		{fault: Flip(5), status: 206, body: rng},
		{fault: FlipMiddle(), status: 206, body: flipped(100_000)},
		{fault: Headers(9000), status: 206, body: rng, header: [2]string{"X-Filler-2", string(bytes.Repeat([]byte("x"), 1000))}},
		{fault: ETag(`"v2"`), status: 206, body: rng, header: [2]string{"Etag", `"v2"`}},
		{fault: Delay(10 * time.Millisecond), status: 206, body: rng},
		{fault: Cut(70_000), status: 206, body: rng[:70_000], err: io.ErrUnexpectedEOF},
		{fault: Cut(0), status: 206, body: rng[:0], err: io.ErrUnexpectedEOF},
	} {
		t.Run(c.fault.Name, func(t *testing.T) {
			s := start(t, file)
			s.Script(First(1, c.fault))
			resp, body, err := get(t, s, 1000, 200_000)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if resp.StatusCode != c.status || c.body != nil && !bytes.Equal(body, c.body) {
				t.Errorf("%s with %d bytes, want %d with %d", resp.Status, len(body), c.status, len(c.body))
			}
			if h := c.header[0]; resp.Header.Get(h) != c.header[1] {
				t.Errorf("%s: %q, want %q", h, resp.Header.Get(h), c.header[1])
			}
			if resp, body, err := get(t, s, 1000, 200_000); err != nil || resp.StatusCode != 206 || !bytes.Equal(body, rng) {
				t.Errorf("the next request is not answered rightly: %v", err)
			}
			log := s.Requests()
			if len(log) != 2 || log[0].Fault != c.fault.Name || log[0].Status != c.status || log[1].Fault != "" || log[1].Sent != 200_000 ||
				log[1].Off != 1000 || log[1].Len != 200_000 {
				t.Errorf("recorded: %+v", log)
			}
		})
	}
	t.Run("gzip", func(t *testing.T) {
		s := start(t, file)
		s.Script(Always(Gzip()))
		resp, body, err := get(t, s, 1000, 200_000)
		if err != nil || resp.Header.Get("Content-Encoding") != "gzip" || !bytes.Equal(gunzip(body), rng) {
			t.Errorf("error %v, %v", err, resp.Header)
		}
	})
}

// What hangs ends when the script changes, when the client goes, and with Stop.
func TestHangAndStall(t *testing.T) {
	for _, f := range []*Fault{Hang(), Stall(5000), Slow(1000), Delay(time.Hour)} {
		for name, end := range map[string]func(*Server){"script": func(s *Server) { s.Script(nil) }, "stop": (*Server).Stop} {
			t.Run(f.Name+", "+name, func(t *testing.T) {
				s := start(t, data(100_000))
				s.Script(Always(f))
				done := make(chan error, 1)
				go func() {
					_, _, err := get(t, s, 0, 50_000)
					done <- err
				}()
				if !s.Wait(1, testrig.Patience) {
					t.Fatal("no request came")
				}
				select {
				case err := <-done:
					t.Fatalf("answered: %v", err)
				case <-time.After(50 * time.Millisecond):
				}
				end(s)
				if err := <-done; err == nil {
					t.Error("a cut answer without an error")
				}
			})
		}
	}
}

func TestRefuseAndReturn(t *testing.T) {
	s := start(t, data(1000))
	url := s.URL("pack")
	s.Stop()
	if _, _, err := get(t, s, 0, 10); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("while stopped: %v, want connection refused", err)
	}
	testrig.Must(t, s.Start())
	if s.URL("pack") != url {
		t.Errorf("URL %s, was %s", s.URL("pack"), url)
	}
	if _, b, err := get(t, s, 0, 10); err != nil || len(b) != 10 {
		t.Errorf("after the return: %d bytes, %v", len(b), err)
	}
}

func TestReplaceAndScripts(t *testing.T) {
	s := start(t, data(1000))
	s.Replace(data(2000), `"v2"`)
	resp, b, err := get(t, s, 0, 0)
	if err != nil || len(b) != 2000 || resp.Header.Get("Etag") != `"v2"` {
		t.Errorf("replaced file: %d bytes, %v, %v", len(b), resp.Header, err)
	}
	statuses := func(n int) (out []int) {
		for range n {
			resp, _, err := get(t, s, 100, 10)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, resp.StatusCode)
		}
		return out
	}
	for name, c := range map[string]struct {
		script Script
		want   string
	}{
		"first":    {First(2, Status(500)), "[500 500 206 206]"},
		"after":    {After(2, Status(500)), "[206 206 500 500]"},
		"touching": {Touching(105, 1, Status(500)), "[500 206 206 206]"},
		"beside":   {Touching(110, 1, Status(500)), "[206 206 206 206]"},
		"none":     {nil, "[206 206 206 206]"},
	} {
		s.Script(c.script)
		if got := fmt.Sprint(statuses(4)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
