package mountclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

func testFile(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func newTestFetcher(t *testing.T, s *faultserver.Server) *fetcher {
	t.Helper()
	src, err := newHTTPSource(s.URL("pack"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.client.CloseIdleConnections)
	return &fetcher{src: src, network: &network{log: testLog(t), startTimeout: testrig.Patience}}
}

// After a fault, the next request begins at the byte after the last one that came: each byte comes once.
func TestStreamResumes(t *testing.T) {
	t.Parallel()
	file := testFile(500_000)
	const off, n = 100, 300_000
	cuts := []int64{0, 1, 64 << 10, 70_001}
	for _, inUse := range []bool{false, true} {
		t.Run(fmt.Sprintf("in use %t", inUse), func(t *testing.T) {
			s := serveBytes(t, file)
			i := -1
			s.Script(func(faultserver.Request) *faultserver.Fault {
				if i++; i < len(cuts) {
					return faultserver.Cut(cuts[i])
				}
				return nil
			})
			f := newTestFetcher(t, s)
			if inUse {
				f.setInUse()
			}
			var out []byte
			if err := f.stream(t.Context(), off, n, func(b []byte) { out = append(out, b...) }); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out, file[off:off+n]) {
				t.Fatalf("%d bytes, not those asked for", len(out))
			}
			want := int64(off)
			log := s.Requests()
			for i, r := range log {
				if r.Off != want || r.Off+r.Len != off+n {
					t.Errorf("request %d: [%d +%d), want it to begin at %d", i, r.Off, r.Len, want)
				}
				if i < len(cuts) {
					want += cuts[i]
				}
			}
			if len(log) != len(cuts)+1 || f.src.count.retries.Load() != int64(len(cuts)) || f.src.count.bytes.Load() != n {
				t.Errorf("%d requests, %d retries, %d bytes counted", len(log), f.src.count.retries.Load(), f.src.count.bytes.Load())
			}
			if f.failed != 0 || f.down {
				t.Errorf("the outage is not over: %d failing, told: %t", f.failed, f.down)
			}
		})
	}
}

// A server that gives less than it was asked for is asked for the rest.
func TestStreamTakesShortRanges(t *testing.T) {
	file := testFile(300_000)
	s := serveBytes(t, file)
	s.Script(faultserver.Always(faultserver.ShortRange(70_000)))
	f := newTestFetcher(t, s)
	got, err := f.bytes(t.Context(), 1000, 200_000)
	if err != nil || !bytes.Equal(got, file[1000:201_000]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if n := len(s.Requests()); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestStreamAtTheEndOfTheFile(t *testing.T) {
	file := testFile(1000)
	s := serveBytes(t, file)
	f := newTestFetcher(t, s)
	var out []byte
	if err := f.stream(t.Context(), 900, 1<<20, func(b []byte) { out = append(out, b...) }); err != nil || !bytes.Equal(out, file[900:]) {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if _, err := f.bytes(t.Context(), 900, 200); err == nil || !strings.Contains(err.Error(), "ends 100 bytes early") {
		t.Errorf("bytes beyond the end: %v", err)
	}
}

// Permanent faults end a fetch before the image is in use, and are waited out afterwards.
func TestStreamPermanentFaults(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	file := testFile(1000)
	for _, c := range []struct {
		fault *faultserver.Fault
		ends  bool // before the image is in use
	}{
		{faultserver.Status(404), true},
		{faultserver.Status(403), true},
		{faultserver.HTML(), true},
		{faultserver.FullBody(), false},
		{faultserver.WrongRange(1), true},
		{faultserver.NotSatisfiable(), true},
		{faultserver.Status(500), false},
		{faultserver.Status(503, "Retry-After", "1"), false},
		{faultserver.Status(429), false},
		{faultserver.Cut(5), false},
	} {
		for _, inUse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in use %t", c.fault.Name, inUse), func(t *testing.T) {
				t.Parallel()
				s := serveBytes(t, file)
				s.Script(faultserver.First(2, c.fault))
				f := newTestFetcher(t, s)
				if inUse {
					f.setInUse()
				}
				got, err := f.bytes(t.Context(), 100, 500)
				if c.ends && !inUse {
					if n := len(s.Requests()); err == nil || n != 1 || !permanent(err) {
						t.Errorf("error %v after %d requests, want a permanent one after 1", err, n)
					}
					return
				}
				if err != nil || !bytes.Equal(got, file[100:600]) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
	}
}

// pipeFetcher is a fetcher whose connections are made by dial, for tests in a bubble of testing/synctest.
func pipeFetcher(t *testing.T, dial func(ctx context.Context) (net.Conn, error)) *fetcher {
	t.Helper()
	src, err := newHTTPSource("http://host/pack")
	if err != nil {
		t.Fatal(err)
	}
	tr := src.client.Transport.(*transport).plain
	tr.Proxy = nil
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	return &fetcher{src: src, network: &network{log: testLog(t)}}
}

// silent is a server that takes the request and does not answer.
func silent(context.Context) (net.Conn, error) {
	c, s := net.Pipe()
	go func() {
		_, _ = io.Copy(io.Discard, s)
		s.Close()
	}()
	return c, nil
}

func refused(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }

// The time-outs count from the last byte, however the server fails, and hold to the second.
func TestStreamTimeouts(t *testing.T) {
	for name, dial := range map[string]func(context.Context) (net.Conn, error){"refused": refused, "silent": silent} {
		for _, inUse := range []bool{false, true} {
			for _, limit := range []time.Duration{3 * time.Second, 10 * time.Second, time.Minute} {
				t.Run(fmt.Sprintf("%s, in use %t, %v", name, inUse, limit), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := pipeFetcher(t, dial)
						f.startTimeout, f.timeout = limit, time.Hour
						if inUse {
							f.startTimeout, f.timeout = time.Hour, limit
							f.setInUse()
						}
						begin := time.Now()
						_, err := f.bytes(t.Context(), 0, 100)
						if took := time.Since(begin); err == nil || took < limit || took > limit+maxRetryWait {
							t.Errorf("gave up after %v, want %v: %v", took, limit, err)
						}
						var net *NetworkError
						if !errors.As(err, &net) || ExitCode(err) != ExitNetwork {
							t.Errorf("error %v, exit code %d", err, ExitCode(err))
						}
						f.src.client.CloseIdleConnections()
						synctest.Wait()
					})
				})
			}
		}
	}
}

// Without a time-out a fetch waits as long as it takes, asking again within maxRetryWait.
func TestStreamWaitsForTheNetwork(t *testing.T) {
	t.Parallel()
	const away = 30 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		attempts := 0
		f := pipeFetcher(t, func(ctx context.Context) (net.Conn, error) {
			attempts++
			if time.Since(begin) < away {
				return refused(ctx)
			}
			c, s := net.Pipe()
			go func() {
				defer s.Close()
				_, _ = s.Read(make([]byte, 4096))
				fmt.Fprintf(s, "HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\nContent-Range: bytes 0-3/4\r\n\r\nabcd")
			}()
			return c, nil
		})
		f.setInUse()
		got, err := f.bytes(t.Context(), 0, 4)
		if err != nil || string(got) != "abcd" {
			t.Errorf("%q, %v", got, err)
		}
		if late := time.Since(begin) - away; late > maxRetryWait {
			t.Errorf("the network was back for %v before it was used", late)
		}
		if s := int(away.Seconds()); attempts > s*2 || attempts < s/3 {
			t.Errorf("%d attempts in %v", attempts, away)
		}
		f.src.client.CloseIdleConnections()
	})
}

// A body that comes slowly is no fault, however long it takes, and one that stands still is cut off.
func TestStreamSlowAndStalledBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := 0
		f := pipeFetcher(t, func(ctx context.Context) (net.Conn, error) {
			conns++
			first := conns == 1
			c, s := net.Pipe()
			go func() {
				defer s.Close()
				b := make([]byte, 4096)
				n, _ := s.Read(b)
				off := 0
				if _, after, ok := strings.Cut(string(b[:n]), "Range: bytes="); ok {
					fmt.Sscanf(after, "%d-", &off)
				}
				fmt.Fprintf(s, "HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nContent-Range: bytes %d-99/100\r\n\r\n", 100-off, off)
				for ; off < 100; off++ {
					if first && off == 60 {
						time.Sleep(time.Hour) // still there, says nothing
						return
					}
					time.Sleep(4 * time.Second)
					if _, err := s.Write([]byte{byte(off)}); err != nil {
						return
					}
				}
			}()
			return c, nil
		})
		f.startTimeout = 15 * time.Second
		begin := time.Now()
		got, err := f.bytes(t.Context(), 0, 100)
		if err != nil || len(got) != 100 || got[60] != 60 || got[99] != 99 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(begin); conns != 2 || took < 400*time.Second || took > 400*time.Second+stallTimeout+maxRetryWait {
			t.Errorf("%d connections, %v", conns, took)
		}
		f.src.client.CloseIdleConnections()
		time.Sleep(2 * time.Hour) // the first connection's server ends
	})
}

func TestStreamEndsWithItsContext(t *testing.T) {
	for name, dial := range map[string]func(context.Context) (net.Conn, error){"refused": refused, "silent": silent} {
		synctest.Test(t, func(t *testing.T) {
			f := pipeFetcher(t, dial)
			f.setInUse()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute+123*time.Millisecond)
			defer cancel()
			begin := time.Now()
			err := f.stream(ctx, 0, 100, func([]byte) {})
			if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took != time.Minute+123*time.Millisecond {
				t.Errorf("%s: after %v: %v", name, took, err)
			}
			f.src.client.CloseIdleConnections()
			synctest.Wait()
		})
	}
}

// An outage is told once, and its end too, however many fetches it hits.
func TestOutageIsToldOnce(t *testing.T) {
	b := &syncBuffer{}
	f := &network{log: NewLog(b, 0)}
	f.setInUse()
	for range 5 {
		f.fault(io.ErrUnexpectedEOF)
	}
	for range 5 {
		f.recovered()
	}
	if got := b.String(); strings.Count(got, "network fault") != 1 || strings.Count(got, "network is back") != 1 {
		t.Errorf("told:\n%s", got)
	}
}

// A blind request beyond the end of a short file is over with its answer, even if the mount is in use by then: it
// is not an outage.
func TestStreamBeyondTheEndInUse(t *testing.T) {
	s := serveBytes(t, testFile(1000))
	f := newTestFetcher(t, s)
	if _, err := f.bytes(t.Context(), 0, 1000); err != nil {
		t.Fatal(err)
	}
	f.setInUse()
	if err := f.stream(soon(t), 1000, 100, func([]byte) {}); !beyondEnd(err) {
		t.Errorf("%v", err)
	}
	if n := len(s.Requests()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}
