package mountclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"sync"
	"time"
)

// Answers with the whole file to requests for a range, one after the other, from which on a server that has given
// ranges before is taken for one that does not any more. Until then a cache in between may be to blame.
const wholesInRow = 4

// A standIn is the local copy of a remote file whose server gives no ranges. The file is streamed once, from its begin to
// its end, and ranges are read from what has come. A stream that breaks off is begun again, as there is no other way;
// what came of it before is not written again. Safe for concurrent use.
type standIn struct {
	fetch *fetcher
	file  *os.File
	stop  context.CancelFunc
	done  chan struct{}          // closed when nothing more comes
	dates map[*httpSource]string // Last-Modified of each that has sent the file; run's own

	mu    sync.Mutex
	src   *httpSource   // who sends the file
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

// standInFor returns the local copy of the file if err tells that src gives no ranges, and no other mirror may; else
// nil. An error tells that there is no room for the file.
func (f *fetcher) standInFor(src *httpSource, err error) (*standIn, error) {
	if !rangeless(err) || src.hasRanges.Load() && src.wholes.Load() < wholesInRow {
		return nil, nil
	}
	now := time.Now()
	for _, s := range f.mirrors {
		if s != src && s.wholes.Load() == 0 && s.mirror.usable(now) {
			return nil, nil
		}
	}
	var answer *HTTPError
	errors.As(err, &answer)
	var noRoom error
	w := f.src.pin.standIn(func() *standIn {
		file, where, err := wholeFile(f.wholeDir, answer.length)
		if err != nil {
			refused := *answer // what is wrong is no passing thing any more
			refused.whole, refused.Why = false, fmt.Sprintf("%s: %v", answer.Why, err)
			noRoom = &refused
			return nil
		}
		ctx, stop := context.WithCancel(context.Background())
		w := &standIn{fetch: f, src: src, file: file, stop: stop, done: make(chan struct{}), come: make(chan struct{}), dates: make(map[*httpSource]string)}
		f.log.Warn(fmt.Sprintf("the server gives no ranges: %s is fetched whole, %d MB, into %s", path.Base(src.path()), answer.length/1e6, where), "url", src.shown)
		go w.run(ctx)
		return w
	})
	return w, noRoom
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
		w.src = w.fetch.after(w.src) // it need not be one without ranges
		w.tell()
		w.mu.Unlock()
		var full *fullError
		switch {
		case errors.As(err, &full):
			wait = longRest
		case w.have > before:
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

// attempt streams the file once. Only the goroutine of run changes have and src.
func (w *standIn) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var off int64
	var failed *fullError
	_, err := w.src.request(ctx, "", max(0, w.src.pin.size()), func(resp *http.Response) (int64, bool, error) {
		want, err := w.src.checkStream(resp)
		if err == nil {
			err = w.checkDate(resp.Header.Get("Last-Modified"))
		}
		return want, false, err
	}, func(b []byte) {
		skip := min(max(0, w.have-off), int64(len(b)))
		off += int64(len(b))
		if b = b[skip:]; len(b) == 0 || failed != nil {
			return
		}
		if _, err := w.file.WriteAt(b, w.have); err != nil {
			failed = &fullError{err}
			cancel(failed)
			return
		}
		w.mu.Lock()
		w.have += int64(len(b))
		w.tell()
		w.mu.Unlock()
	})
	if failed != nil {
		return failed
	}
	return err
}

// A fullError tells that the copy cannot be written.
type fullError struct{ err error }

func (e *fullError) Error() string { return fmt.Sprintf("keeping the copy of a file: %v", e.err) }
func (e *fullError) Unwrap() error { return e.err }

// checkDate compares Last-Modified with that of the last time that the server sent the file: many servers without ranges
// have no ETag, and the parts of two files must not be put together.
func (w *standIn) checkDate(modified string) error {
	was := w.dates[w.src]
	if was != "" && modified != "" && was != modified {
		return &identityError{w.src.shown, "Last-Modified " + was, "Last-Modified " + modified}
	}
	w.dates[w.src] = modified
	return nil
}

// again brings [off, off+n) of a copy that is damaged there: the file is sent once more, up to the range's end.
func (w *standIn) again(ctx context.Context, off, n int64, sink func([]byte)) (int64, error) {
	src := w.source()
	var at, got int64
	_, err := src.request(ctx, "", off+n, func(resp *http.Response) (int64, bool, error) {
		size, err := src.checkStream(resp)
		return min(off+n, size), false, err
	}, func(b []byte) {
		skip := min(max(0, off-at), int64(len(b)))
		at += int64(len(b))
		b = b[skip:]
		_, _ = w.file.WriteAt(b, off+got) // else the next reader asks again, too
		sink(b)                           // no bytes, as long as those before the range come
		got += int64(len(b))
	})
	return got, err
}

// source returns who sends the file.
func (w *standIn) source() *httpSource {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.src
}

// holds tells whether the copy has all bytes up to end.
func (w *standIn) holds(end int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.have >= end
}

// get is httpSource.get for the copy. It waits for bytes that are to come, and fails when an attempt at them does. While
// the stream comes nearer, sink gets no bytes now and then, which tells that there is progress.
func (w *standIn) get(ctx context.Context, off, n int64, sink func([]byte)) (int64, error) {
	src := w.source()
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
		size := src.pin.size()
		if size >= 0 && off >= size {
			return got, &HTTPError{URL: src.shown, Status: "416 Requested Range Not Satisfiable", Code: http.StatusRequestedRangeNotSatisfiable, RangeAsked: asked}
		}
		end := off + n
		if size >= 0 {
			end = min(end, size)
		}
		for got < end-off && have > off+got {
			m := min(int64(len(buf)), end-off-got, have-off-got)
			if _, err := w.file.ReadAt(buf[:m], off+got); err != nil {
				return got, fmt.Errorf("reading the copy of %s: %w", src.shown, err)
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
			return got, src.transportError(ctx, asked, io.ErrUnexpectedEOF)
		case <-ctx.Done():
			return got, src.transportError(ctx, asked, ctx.Err())
		}
	}
}

func (w *standIn) complete() bool {
	return w.holds(max(0, w.source().pin.size()))
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
