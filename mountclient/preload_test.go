package mountclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

func newTestPreload(t *testing.T, s *faultserver.Server) *preload {
	t.Helper()
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	p, err := startPreload(ctx, newTestFetcher(t, s), inRow(openingSegments), &running)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		p.close()
	})
	return p
}

// soon is a context for waits that must end by themselves.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), testrig.Patience, errors.New("test: waited too long"))
	t.Cleanup(cancel)
	return ctx
}

// waits tells whether p waits for more bytes now.
func waits(t *testing.T, p *preload, packEnd int64) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := p.wait(ctx, 0, packEnd)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	return err != nil
}

func checkPreloaded(t *testing.T, p *preload, file []byte) {
	t.Helper()
	got, err := p.read(0, int64(len(file)))
	if err != nil || !bytes.Equal(got, file) {
		t.Errorf("%d bytes, %v, equal: %t", len(got), err, bytes.Equal(got, file))
	}
}

// The opening requests are sent blindly: files of any length come whole, and the end of a file is told as such.
func TestPreloadShortFiles(t *testing.T) {
	for _, n := range []int{1, 100, 511, 512, 4096, 64<<10 - 1, 64 << 10, 64<<10 + 1, 128 << 10, 200_000, 256 << 10, 512<<10 - 1, 512 << 10, 512<<10 + 1, 700_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			file := testFile(n)
			p := newTestPreload(t, serveBytes(t, file))
			have := min(n, openingBytes)
			if err := p.wait(soon(t), 0, int64(have)); err != nil {
				t.Fatal(err)
			}
			checkPreloaded(t, p, file[:have])
			if n > openingBytes {
				p.need(span{0, int64(n)})
				if err := p.wait(soon(t), 0, int64(n)); err != nil {
					t.Fatal(err)
				}
				checkPreloaded(t, p, file)
			}
			for _, beyond := range []int64{1, 1000, 1 << 30} {
				if err := p.wait(soon(t), 0, int64(n)+beyond); !errors.Is(err, errEndsEarly) {
					t.Errorf("%d bytes beyond the end: %v", beyond, err)
				}
			}
		})
	}
}

func TestPreloadEmptyFile(t *testing.T) {
	p := newTestPreload(t, serveBytes(t, nil))
	err := p.wait(soon(t), 0, 512)
	var h *HTTPError
	if !errors.As(err, &h) || h.Why != "the file is empty" {
		t.Errorf("%v", err)
	}
}

// Waiters see a prefix: bytes behind a gap do not count, and the bytes of a segment count as they come.
func TestPreloadPrefix(t *testing.T) {
	t.Parallel()
	file := testFile(3 << 20)
	s := serveBytes(t, file)
	gap := openingSegments[0] // the second opening segment begins here
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.Off == gap {
			return faultserver.Stall(1000)
		}
		return nil
	})
	p := newTestPreload(t, s)
	p.need(span{0, int64(len(file))})
	if err := p.wait(soon(t), 0, gap); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(soon(t), 0, gap+1000); err != nil {
		t.Fatal(err)
	}
	if !waits(t, p, gap+1001) || !waits(t, p, 1<<20) {
		t.Error("bytes beyond the gap are there")
	}
	// The other connections go on meanwhile.
	testrig.Eventually(t, "the segments behind the gap", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.next == len(p.segs) && p.segs[len(p.segs)-1].filled > 0
	})
	done := make(chan error, 1)
	go func() { done <- p.wait(soon(t), 0, int64(len(file))) }()
	s.Script(nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkPreloaded(t, p, file)
}

// Segments cover the zone once, in order, each byte in one request.
func TestPreloadSegments(t *testing.T) {
	for _, n := range []int{openingBytes, openingBytes + 1, 2 << 20, 5<<20 - 7} {
		s := serveBytes(t, testFile(n))
		p := newTestPreload(t, s)
		p.need(span{0, int64(n / 2)})
		p.need(span{0, int64(n)})
		if err := p.wait(soon(t), 0, int64(n)); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		next := int64(0)
		for _, seg := range p.segs {
			if seg.off != next || seg.end <= seg.off || seg.end-seg.off > segmentBytes {
				t.Errorf("%d: segment [%d, %d) after %d", n, seg.off, seg.end, next)
			}
			next = seg.end
		}
		p.mu.Unlock()
		if next != int64(n) || len(s.Requests()) != len(p.segs) {
			t.Errorf("%d: segments end at %d, %d segments, %d requests", n, next, len(p.segs), len(s.Requests()))
		}
	}
}

// No fault of the network gets a wrong byte into the zone or keeps it from being completed.
func TestPreloadFaults(t *testing.T) {
	t.Parallel()
	file := testFile(4 << 20)
	faults := []*faultserver.Fault{faultserver.Cut(0), faultserver.Cut(100_000), faultserver.Status(500), faultserver.Status(503), faultserver.ShortRange(50_000)}
	s := serveBytes(t, file)
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.N%3 == 0 {
			return faults[r.N/3%len(faults)]
		}
		return nil
	})
	p := newTestPreload(t, s)
	p.need(span{0, int64(len(file))})
	if err := p.wait(soon(t), 0, int64(len(file))); err != nil {
		t.Fatal(err)
	}
	checkPreloaded(t, p, file)
}

// Answers that would be permanent before the image is in use are waited out once it is: one of them must not
// end the preload, and 416 is not taken for the end of the file.
func TestPreloadInUse(t *testing.T) {
	t.Parallel()
	file := testFile(4 << 20)
	for _, f := range []*faultserver.Fault{faultserver.Status(404), faultserver.Status(403), faultserver.NotSatisfiable(), faultserver.HTML(), faultserver.FullBody()} {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			s := serveBytes(t, file)
			p := newTestPreload(t, s)
			if err := p.wait(soon(t), 0, openingBytes); err != nil {
				t.Fatal(err)
			}
			s.Script(faultserver.First(3, f))
			p.fetch.setInUse()
			p.need(span{0, int64(len(file))})
			if err := p.wait(soon(t), 0, int64(len(file))); err != nil {
				t.Fatal(err)
			}
			checkPreloaded(t, p, file)
		})
	}
}

// At the start they end it, for all waiters. 416 inside the file is such an answer, too.
func TestPreloadPermanentFault(t *testing.T) {
	file := testFile(4 << 20)
	for _, f := range []*faultserver.Fault{faultserver.Status(404), faultserver.NotSatisfiable(), faultserver.HTML()} {
		t.Run(f.Name, func(t *testing.T) {
			s := serveBytes(t, file)
			s.Script(faultserver.Touching(2<<20, 1, f))
			p := newTestPreload(t, s)
			p.need(span{0, int64(len(file))})
			err := p.wait(soon(t), 0, int64(len(file)))
			var h *HTTPError
			if !errors.As(err, &h) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestPreloadWaitEndsWithItsContext(t *testing.T) {
	s := serveBytes(t, testFile(1000))
	s.Script(faultserver.Always(faultserver.Hang()))
	p := newTestPreload(t, s)
	if !waits(t, p, 512) {
		t.Error("bytes out of nowhere")
	}
}
