package mountclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the pause between two attempts: a network that is back is used again within maxDialWait, and a server that
// answered with an error is asked again within maxRetryWait.
const (
	maxDialWait  = 700 * time.Millisecond
	maxRetryWait = 2 * time.Second
)

// damagedAtStart is how long bytes may stay damaged before the image is in use: a sysadmin waits for an answer.
const damagedAtStart = 1500 * time.Millisecond

// A network is what the fetchers of one client share: how long they wait, and what is known of outages. Safe for
// concurrent use.
type network struct {
	access       *access // nil: Access's zero value
	log          *slog.Logger
	startTimeout time.Duration // without progress, until the image is in use; 0: repeat without end
	timeout      time.Duration // the same once it is in use
	survive      bool          // work that panics is done again, see persist
	wholeDir     string        // for copies of files of which a server gives no ranges; empty: they are in memory

	lastByte moment       // when the last byte came
	hedges   atomic.Int64 // requests sent because a mirror was late
	wasted   atomic.Int64 // bytes of answers that came too late
	last     lastError
	judging  sync.WaitGroup // requests whose answers tell of a mirror, see either

	mu     sync.Mutex
	inUse  bool
	failed int  // attempts in flight or waiting that have failed
	down   bool // the outage was told
}

// A fetcher repeats requests for one file until they succeed. Transient faults (no connection, a body cut short,
// 5xx) are repeated without end; permanent ones (404, another file under the URL) are repeated too once the image
// is in use, because a reader of the root file system must never see an error, and end the fetch before that.
// Bytes that came before a fault are kept: the next attempt asks for the rest only. Safe for concurrent use.
//
// With several mirrors each request goes to the one that is expected to answer first, and what one of them does not
// give is asked for on another at once.
type fetcher struct {
	src     *httpSource   // the first mirror
	mirrors []*httpSource // all of them; nil: there is one
	*network
}

// newFetcher returns the fetcher of the file that has the URLs, separated by commas.
func newFetcher(urls string, net *network) (*fetcher, error) {
	f := &fetcher{network: net}
	for _, url := range SplitURLs(urls) {
		src, err := newSourceVia(net.access, url)
		if err != nil {
			return nil, err
		}
		f.mirrors = append(f.mirrors, src)
	}
	f.src = f.mirrors[0]
	switch n := len(f.mirrors); {
	case n == 1:
		f.mirrors = nil
	case n > maxMirrors:
		return nil, &URLError{f.src.shown, fmt.Sprintf("%d mirrors, want %d or fewer", n, maxMirrors)}
	}
	for _, s := range f.mirrors {
		s.pin, s.count, s.mirror.shared = f.src.pin, f.src.count, true
	}
	return f, nil
}

// SplitURLs splits a list of mirrors. A comma that no scheme follows belongs to its URL.
func SplitURLs(list string) (urls []string) {
	for _, s := range strings.Split(list, ",") {
		if scheme, _, ok := strings.Cut(s, "://"); len(urls) == 0 || ok && !strings.ContainsAny(scheme, "/?#") {
			urls = append(urls, s)
		} else {
			urls[len(urls)-1] += "," + s
		}
	}
	return urls
}

// sibling returns the fetcher of another file on the same servers; see httpSource.sibling.
func (f *fetcher) sibling(edit func(path string) string) *fetcher {
	out := &fetcher{network: f.network}
	for _, s := range f.mirrors {
		out.mirrors = append(out.mirrors, s.sibling(edit))
	}
	if out.mirrors == nil {
		out.src = f.src.sibling(edit)
		return out
	}
	out.src = out.mirrors[0]
	for _, s := range out.mirrors {
		s.pin = out.src.pin
	}
	return out
}

// shown returns the file's URLs without credentials, separated by commas.
func (f *fetcher) shown() string {
	if len(f.mirrors) == 0 {
		return f.src.shown
	}
	var all []string
	for _, s := range f.mirrors {
		all = append(all, s.shown)
	}
	return strings.Join(all, ",")
}

// close ends the connections that are not used, and the stream of a file without ranges. Requests must have ended.
func (f *fetcher) close() {
	f.judging.Wait()
	f.src.client.CloseIdleConnections()
	for _, s := range f.mirrors {
		s.client.CloseIdleConnections()
	}
	if w := f.src.pin.standIn(nil); w != nil {
		w.close()
	}
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
	return f.streamFrom(ctx, nil, off, n, sink)
}

// streamFrom is stream with the source to ask first; nil for any.
func (f *fetcher) streamFrom(ctx context.Context, src *httpSource, off, n int64, sink func([]byte)) error {
	end := off + n
	return f.repeat(ctx, sink, func(ctx context.Context, sink func([]byte)) (bool, int64, error) {
		if src == nil {
			src = f.pick(end-off, nil)
		}
		from, got, err := f.get(ctx, src, off, end-off, sink)
		off += got
		src = nil
		size := f.src.pin.size()
		if err != nil { // a request beyond the end will not succeed later, either
			beyond := beyondEnd(err) && size >= 0 && off >= size
			if !beyond && ctx.Err() == nil && f.elsewhere(from, err) {
				f.src.count.retries.Add(1)
				return false, got, nil
			}
			return beyond, got, err
		}
		return off == end || off >= size, got, nil // or else the server gave a part of the range
	})
}

// like returns the source on the same server as that of another file.
func (f *fetcher) like(other *httpSource) *httpSource {
	for _, s := range f.mirrors {
		if s.mirror == other.mirror {
			return s
		}
	}
	return f.src
}

// after returns the mirror whose turn it is after src, among those that are not dropped.
func (f *fetcher) after(src *httpSource) *httpSource {
	at := slices.Index(f.mirrors, src)
	for i := range f.mirrors {
		if next := f.mirrors[(at+1+i)%len(f.mirrors)]; !next.mirror.isDropped() {
			return next
		}
	}
	return f.src
}

// whole fetches the whole file, of which it returns at most limit+1 bytes. It does not ask for a range.
func (f *fetcher) whole(ctx context.Context, limit int64) ([]byte, error) {
	return f.wholeFrom(ctx, nil, limit)
}

// wholeFrom is whole with the source to ask first; nil for any.
func (f *fetcher) wholeFrom(ctx context.Context, src *httpSource, limit int64) ([]byte, error) {
	var out []byte
	err := f.repeat(ctx, func(b []byte) { out = append(out, b...) }, func(ctx context.Context, sink func([]byte)) (bool, int64, error) {
		out = make([]byte, 0, limit)
		if src == nil {
			src = f.pick(limit, nil)
		}
		from := src
		src = nil
		_, err := from.getWhole(ctx, limit, sink)
		if err != nil && ctx.Err() == nil && f.elsewhere(from, err) {
			f.src.count.retries.Add(1)
			return false, 0, nil
		}
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
		pause := wait/2 + rand.N(wait/2)
		var answer *HTTPError
		var network *NetworkError
		if errors.As(err, &network) {
			pause = min(pause, maxDialWait/2+rand.N(maxDialWait/2))
		}
		if errors.As(err, &answer) && answer.RetryAfter > pause {
			pause = answer.RetryAfter
			if limit := f.limit(); limit > 0 {
				pause = min(pause, limit-time.Since(progress))
			}
		}
		if !sleep(ctx, pause) {
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
		f.lastByte.set(*progress)
		if timer != nil {
			timer.Reset(limit)
		}
		sink(b)
	})
}

// bytes fetches [off, off+n) whole.
func (f *fetcher) bytes(ctx context.Context, off, n int64) ([]byte, error) {
	return f.bytesFrom(ctx, nil, off, n)
}

// bytesFrom is bytes with the source to ask first; nil for any.
func (f *fetcher) bytesFrom(ctx context.Context, src *httpSource, off, n int64) ([]byte, error) {
	out := make([]byte, 0, n)
	if err := f.streamFrom(ctx, src, off, n, func(b []byte) { out = append(out, b...) }); err != nil {
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
	if t := f.lastByte.get(); t.After(since) {
		return t
	}
	return since
}

// patient tells whether bytes that stay damaged are worth asking for once more after that time.
func (f *network) patient(since time.Duration) bool {
	if f.used() {
		return f.timeout == 0 || since < f.timeout
	}
	return since < damagedAtStart
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
		f.log.Warn("network is back") // for those who were told of the fault
	}
}
