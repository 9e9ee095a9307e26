package mountclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Answers with the whole file to requests for a range, one after the other, from which on a server that has given
// ranges before is taken for one that does not any more. Until then a cache in between may be to blame.
const wholesInRow = 4

// A standIn is the local copy of a remote file whose server gives no ranges. The file is streamed once, from its begin to
// its end, and ranges are read from what has come. A stream that breaks off is begun again, as there is no other way;
// what came of it before is not written again. Safe for concurrent use.
type standIn struct {
	src  *httpSource
	file *os.File
	stop context.CancelFunc
	done chan struct{} // closed when nothing more comes

	mu    sync.Mutex
	come  chan struct{} // closed, and replaced, when more has come or an attempt has failed
	have  int64         // bytes
	fails int           // attempts
	err   error         // of the last one that failed
}

// rangeless tells that an answer was the whole file instead of a range of it.
func rangeless(err error) bool {
	var h *HTTPError
	return errors.As(err, &h) && h.whole
}

// standInFor returns the local copy of the file if err tells that src gives no ranges, and no other mirror may; else nil.
func (f *fetcher) standInFor(src *httpSource, err error) *standIn {
	if !rangeless(err) || src.hasRanges.Load() && src.wholes.Load() < wholesInRow {
		return nil
	}
	now := time.Now()
	for _, s := range f.mirrors {
		if s != src && s.wholes.Load() == 0 && s.mirror.usable(now) {
			return nil
		}
	}
	return f.src.pin.standIn(func() *standIn {
		file, err := wholeFile(f.wholeDir)
		if err != nil {
			f.log.Warn("no place for a copy of the file", "error", err)
			return nil
		}
		ctx, stop := context.WithCancel(context.Background())
		w := &standIn{src: src, file: file, stop: stop, done: make(chan struct{}), come: make(chan struct{})}
		f.log.Warn("the server gives no ranges, the whole file is fetched", "url", src.shown)
		go w.run(ctx)
		return w
	})
}

// standIn returns the copy of the file. Without one it keeps what start returns; a nil start is for looking only.
func (p *pin) standIn(start func() *standIn) *standIn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stand == nil && start != nil {
		p.stand = start()
	}
	return p.stand
}

// wholeFile makes a file without a name in dir; in memory without dir, or where the file system cannot do that.
func wholeFile(dir string) (*os.File, error) {
	if dir != "" {
		if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
			return os.NewFile(uintptr(fd), dir), nil
		}
	}
	return memfd("bootprof-whole")
}

// run streams the file until it is there, or ctx ends.
func (w *standIn) run(ctx context.Context) {
	defer close(w.done)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, maxRetryWait) {
		before := w.have
		err := w.attempt(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		w.fails++
		w.err = err
		w.tell()
		w.mu.Unlock()
		if w.have > before {
			wait = 50 * time.Millisecond
		}
		if !sleep(ctx, wait/2+rand.N(wait/2)) {
			return
		}
	}
}

// tell wakes all who wait. The caller holds mu.
func (w *standIn) tell() {
	close(w.come)
	w.come = make(chan struct{})
}

// attempt streams the file once. Only the goroutine of run changes have.
func (w *standIn) attempt(ctx context.Context) error {
	var off int64
	var failed error
	_, err := w.src.request(ctx, "", max(0, w.src.pin.size()), func(resp *http.Response) (int64, bool, error) {
		want, err := w.src.checkStream(resp)
		return want, false, err
	}, func(b []byte) {
		skip := min(max(0, w.have-off), int64(len(b)))
		off += int64(len(b))
		if b = b[skip:]; len(b) == 0 || failed != nil {
			return
		}
		if _, err := w.file.WriteAt(b, w.have); err != nil {
			failed = fmt.Errorf("keeping the file: %w", err)
			return
		}
		w.mu.Lock()
		w.have += int64(len(b))
		w.tell()
		w.mu.Unlock()
	})
	return errors.Join(failed, err)
}

// get is httpSource.get for the copy. It waits for bytes that are to come, and fails when an attempt at them does. While
// the stream comes nearer, sink gets no bytes now and then, which tells that there is progress.
func (w *standIn) get(ctx context.Context, off, n int64, sink func([]byte)) (int64, error) {
	asked := fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	buf := make([]byte, min(n, 64<<10))
	var got int64
	first := -1 // attempts that had failed when this began
	for {
		w.mu.Lock()
		have, fails, err, come := w.have, w.fails, w.err, w.come
		w.mu.Unlock()
		if first < 0 {
			first = fails
		}
		size := w.src.pin.size()
		if size >= 0 && off >= size {
			return got, &HTTPError{URL: w.src.shown, Status: "416 Requested Range Not Satisfiable", Code: http.StatusRequestedRangeNotSatisfiable, RangeAsked: asked}
		}
		end := off + n
		if size >= 0 {
			end = min(end, size)
		}
		for got < end-off && have > off+got {
			m := min(int64(len(buf)), end-off-got, have-off-got)
			if _, err := w.file.ReadAt(buf[:m], off+got); err != nil {
				return got, fmt.Errorf("reading the copy of %s: %w", w.src.shown, err)
			}
			sink(buf[:m])
			got += m
		}
		switch {
		case size >= 0 && got == end-off:
			return got, nil
		case fails != first:
			return got, err
		}
		select {
		case <-come:
			sink(nil)
		case <-w.done: // closed
			if w.complete() {
				continue
			}
			return got, w.src.transportError(ctx, asked, io.ErrUnexpectedEOF)
		case <-ctx.Done():
			return got, w.src.transportError(ctx, asked, ctx.Err())
		}
	}
}

func (w *standIn) complete() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.have == w.src.pin.size()
}

func (w *standIn) close() {
	w.stop()
	<-w.done
	w.file.Close()
}

// checkStream looks at the head of an answer that has to be the whole file, of the length and identity that are pinned,
// and returns its length.
func (s *httpSource) checkStream(resp *http.Response) (int64, error) {
	why := compressed(resp)
	switch {
	case resp.StatusCode != http.StatusOK:
		return 0, s.httpError(resp, "", "")
	case isHTML(resp):
		why = "the server sent an HTML page, not an image"
	case resp.ContentLength < 0:
		why = "the server tells no length of the file"
	}
	if why != "" {
		return 0, s.httpError(resp, "", why)
	}
	if err := s.pin.check(s.shown, resp.ContentLength, resp.Header.Get("ETag")); err != nil {
		return 0, err
	}
	return resp.ContentLength, s.pin.date(s.shown, resp.Header.Get("Last-Modified"))
}
