package mountclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// maxRetryWait bounds the pause between two attempts: a network that is back is used again within it.
const maxRetryWait = 2 * time.Second

// A network is what the fetchers of one client share: how long they wait, and what is known of outages. Safe for
// concurrent use.
type network struct {
	log          *slog.Logger
	startTimeout time.Duration // without progress, until the image is in use; 0: repeat without end
	timeout      time.Duration // the same once it is in use

	lastByte atomic.Int64 // when the last byte came, Unix nanoseconds

	mu     sync.Mutex
	inUse  bool
	failed int  // attempts in flight or waiting that have failed
	down   bool // the outage was told
}

// A fetcher repeats requests for one file until they succeed. Transient faults (no connection, a body cut short,
// 5xx) are repeated without end; permanent ones (404, another file under the URL) are repeated too once the image
// is in use, because a reader of the root file system must never see an error, and end the fetch before that.
// Bytes that came before a fault are kept: the next attempt asks for the rest only. Safe for concurrent use.
type fetcher struct {
	src *httpSource
	*network
}

// sibling returns the fetcher of another file on the same server; see httpSource.sibling.
func (f *fetcher) sibling(edit func(path string) string) *fetcher {
	return &fetcher{src: f.src.sibling(edit), network: f.network}
}

// setInUse says that the image is mounted: from now on nothing is permanent.
func (f *network) setInUse() {
	f.mu.Lock()
	f.inUse = true
	f.mu.Unlock()
}

// stream fetches [off, off+n) of the remote file and hands the bytes to sink in order, each once. It returns
// an error only if ctx ends, the time-out passes, or the fault is permanent and the image not in use.
// A remote file that ends earlier gives fewer bytes, without an error.
func (f *fetcher) stream(ctx context.Context, off, n int64, sink func([]byte)) error {
	end := off + n
	return f.repeat(ctx, sink, func(ctx context.Context, sink func([]byte)) (bool, int64, error) {
		got, err := f.src.get(ctx, off, end-off, sink)
		off += got
		size := f.src.pin.size()
		if err != nil { // a request beyond the end will not succeed later, either
			return beyondEnd(err) && size >= 0 && off >= size, got, err
		}
		return off == end || off >= size, got, nil // or else the server gave a part of the range
	})
}

// whole fetches the whole file, of which it returns at most limit+1 bytes. It does not ask for a range.
func (f *fetcher) whole(ctx context.Context, limit int64) ([]byte, error) {
	var out []byte
	err := f.repeat(ctx, func(b []byte) { out = append(out, b...) }, func(ctx context.Context, sink func([]byte)) (bool, int64, error) {
		out = make([]byte, 0, limit)
		_, err := f.src.getWhole(ctx, limit, sink)
		return err == nil, 0, err // what came of a file that broke off is of no use
	})
	return out, err
}

// repeat calls try until it is done, and returns the error that it was done with; the errors before that are
// repeated as the fetcher's comment says. try tells how many bytes came to stay; it hands all bytes to its sink.
func (f *fetcher) repeat(ctx context.Context, sink func([]byte), try func(context.Context, func([]byte)) (done bool, kept int64, err error)) error {
	wait := 50 * time.Millisecond
	failing := false
	progress := time.Now()
	var last error // tells more than that the time is up
	defer func() {
		if failing {
			f.recovered()
		}
	}()
	for {
		before := progress
		done, kept, err := f.attempt(ctx, &progress, sink, try)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if done || err != nil && permanent(err) && !f.used() {
			return err
		}
		if err == nil {
			continue
		}
		if last == nil || !errors.Is(err, errStalled) {
			last = err
		}
		if kept > 0 {
			wait = 50 * time.Millisecond
		} else {
			progress = before
		}
		if limit := f.limit(); limit > 0 && time.Since(progress) >= limit {
			return fmt.Errorf("%w (given up after %v)", last, limit)
		}
		if !failing {
			failing = true
			f.fault(err)
		}
		f.src.count.retries.Add(1)
		if !sleep(ctx, wait/2+rand.N(wait/2)) {
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		wait = min(2*wait, maxRetryWait)
	}
}

// attempt is one try that ends when no byte has come for the time-out. It sets progress at every byte.
func (f *fetcher) attempt(ctx context.Context, progress *time.Time, sink func([]byte), try func(context.Context, func([]byte)) (bool, int64, error)) (bool, int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := f.limit()
	var timer *time.Timer
	if limit > 0 {
		timer = time.AfterFunc(limit-time.Since(*progress), func() { cancel(errStalled) })
		defer timer.Stop()
	}
	return try(ctx, func(b []byte) {
		*progress = time.Now()
		f.lastByte.Store(progress.UnixNano())
		if timer != nil {
			timer.Reset(limit)
		}
		sink(b)
	})
}

// bytes fetches [off, off+n) whole.
func (f *fetcher) bytes(ctx context.Context, off, n int64) ([]byte, error) {
	out := make([]byte, 0, n)
	if err := f.stream(ctx, off, n, func(b []byte) { out = append(out, b...) }); err != nil {
		return nil, err
	}
	if int64(len(out)) != n {
		return nil, fmt.Errorf("GET %s: the file ends %d bytes early", f.src.shown, n-int64(len(out)))
	}
	return out, nil
}

// limit returns how long a fetch may be without progress; 0 is without end.
func (f *network) limit() time.Duration {
	if f.used() {
		return f.timeout
	}
	return f.startTimeout
}

// latest returns when the last byte came, or since if that was later.
func (f *network) latest(since time.Time) time.Time {
	if t := time.Unix(0, f.lastByte.Load()); t.After(since) {
		return t
	}
	return since
}

func (f *network) used() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inUse
}

// fault tells an outage once, whatever the number of requests it hits; recovered tells its end.
func (f *network) fault(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed++
	if !f.down && f.inUse {
		f.down = true
		f.log.Warn("network fault, readers wait until it is over", "error", err)
	}
}

func (f *network) recovered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed--
	if f.failed == 0 && f.down {
		f.down = false
		f.log.Info("network is back")
	}
}
