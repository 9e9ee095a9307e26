package mountclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Limits of one HTTP connection.
const (
	dialTimeout   = 5 * time.Second
	headerTimeout = 15 * time.Second // from the request sent to the answer's head
	stallTimeout  = 10 * time.Second // no byte of a body for so long ends the attempt
)

// An HTTPError is an answer that is not the bytes that were asked for.
type HTTPError struct {
	URL          string // redacted
	Status       string // "404 Not Found"
	Code         int
	RangeAsked   string // empty: the whole file
	ContentRange string // as got
	ContentType  string
	Why          string        // empty: the status says it
	RetryAfter   time.Duration // that the server asked for; 0: none
	whole        bool          // it was the whole file instead of a range; see standIn
	length       int64         // of that file
}

func (e *HTTPError) Error() string {
	s := fmt.Sprintf("GET %s: %s", withRange(e.URL, e.RangeAsked), e.Status)
	if e.Why != "" {
		s += ": " + e.Why
	}
	return s
}

func withRange(url, byteRange string) string {
	if byteRange == "" {
		return url
	}
	return url + " (" + byteRange + ")"
}

// Permanent tells that asking again will not help: the URL is wrong or forbidden, or the server does not do
// what the client needs.
func (e *HTTPError) Permanent() bool {
	switch e.Code {
	case http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return e.Code < 500 && !e.whole
}

// An identityError tells that the server now has other bytes under the URL than at the start.
type identityError struct{ url, was, is string }

func (e *identityError) Error() string {
	return fmt.Sprintf("%s was replaced on the server while in use (%s, now %s)", e.url, e.was, e.is)
}

// permanent tells that repeating a request that failed with err is of no use.
func permanent(err error) bool {
	var h *HTTPError
	var id *identityError
	var image *ImageError
	var tls *TLSError
	var redirect *RedirectError
	return errors.As(err, &h) && h.Permanent() || errors.As(err, &id) || errors.As(err, &image) || errors.As(err, &tls) || errors.As(err, &redirect)
}

// A URLError tells that a URL cannot be that of a pack.
type URLError struct{ URL, Why string } // URL: redacted

func (e *URLError) Error() string { return fmt.Sprintf("URL %q: %s", e.URL, e.Why) }

// withoutUser cuts what may be credentials out of a URL that cannot be parsed.
func withoutUser(rawURL string) string {
	scheme, rest, ok := strings.Cut(rawURL, "//")
	if i := strings.LastIndex(rest, "@"); ok && i >= 0 {
		return scheme + "//..." + rest[i:]
	}
	return rawURL
}

// An httpSource reads one file on a web server, ranges of it or the whole. The file's size and ETag are taken from
// the first answer to a range; later ones must agree. Safe for concurrent use.
type httpSource struct {
	url    string
	shown  string // without credentials
	client *http.Client
	pin    *pin
	mirror *mirror
	count  *counters

	hasRanges atomic.Bool  // it has given one
	wholes    atomic.Int64 // answers in a row, at the end, that were the whole file instead
}

func newHTTPSource(rawURL string) (*httpSource, error) { return newSourceVia(nil, rawURL) }

// newSourceVia is newHTTPSource with what is needed to reach the server; nil: nothing.
func newSourceVia(via *access, rawURL string) (*httpSource, error) {
	if via == nil {
		var err error
		if via, err = newAccess(Access{}, nil); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		var parse *url.Error
		errors.As(err, &parse)
		return nil, &URLError{withoutUser(rawURL), parse.Err.Error()}
	}
	local := u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/")
	if !local && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return nil, &URLError{u.Redacted(), "want http://HOST/PATH, https://HOST/PATH or file:///PATH"}
	}
	u.Fragment = ""
	return &httpSource{
		url:    u.String(),
		shown:  u.Redacted(),
		pin:    &pin{},
		count:  &counters{},
		mirror: &mirror{name: u.Scheme + "://" + u.Host},
		client: via.newClient(u),
	}, nil
}

// sibling returns the source of another file on the same server, whose path is edit of this one's. A query stays: it
// may be what lets the client in. Connections and counters are shared.
func (s *httpSource) sibling(edit func(path string) string) *httpSource {
	u, err := url.Parse(s.url)
	if err != nil {
		panic("BUG: the URL was parsed before: " + err.Error())
	}
	if u.RawPath != "" {
		u.RawPath = edit(u.RawPath)
	}
	u.Path = edit(u.Path)
	return &httpSource{url: u.String(), shown: u.Redacted(), client: s.client, pin: &pin{}, mirror: s.mirror, count: s.count}
}

// path returns the path of the URL.
func (s *httpSource) path() string {
	u, err := url.Parse(s.url)
	if err != nil {
		panic("BUG: the URL was parsed before: " + err.Error())
	}
	return u.Path
}

// get makes one attempt at the range [off, off+n) and hands its bytes to sink as they come, in order. It
// returns how many bytes it handed over; with a nil error that is at least one, and all the server chose to
// give of the range. The slices are valid until sink returns.
func (s *httpSource) get(ctx context.Context, off, n int64, sink func([]byte)) (int64, error) {
	asked := fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	return s.request(ctx, asked, n, func(resp *http.Response) (int64, bool, error) {
		want, err := s.check(resp, asked, off, n)
		return want, false, err
	}, sink)
}

// getWhole makes one attempt at the whole file, without asking for a range: any web server and any cache can give
// that. It ends behind limit bytes; a longer file gives one byte more than that.
func (s *httpSource) getWhole(ctx context.Context, limit int64, sink func([]byte)) (int64, error) {
	return s.request(ctx, "", limit, func(resp *http.Response) (int64, bool, error) { return s.checkWhole(resp, limit) }, sink)
}

// request sends a request for a range, "" for the whole file, of n bytes at most. check looks at the answer's head and
// says how many bytes of the body are wanted, and whether fewer are whole, too.
func (s *httpSource) request(ctx context.Context, asked string, n int64, check func(*http.Response) (int64, bool, error), sink func([]byte)) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(dialTimeout+headerTimeout, func() { cancel(errStalled) })
	defer stall.Stop()
	hear, connected := func() {}, func(net.Addr) {}
	if t, ok := s.client.Transport.(*transport); ok {
		watched, done := t.silence.begin(t.dial, func() { cancel(errReturned) })
		defer done()
		hear, connected = watched.hear, watched.connected
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return 0, err
	}
	if asked != "" {
		req.Header.Set("Range", asked)
	}
	if ctx.Value(freshKey{}) != nil {
		req.Header.Set("Cache-Control", "no-cache")
		req.Header.Set("Pragma", "no-cache")
	}
	s.count.requests.Add(1)
	begun := s.mirror.begin(n)
	var sent atomic.Int64 // when the connection was there, nanoseconds after begun
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		sent.Store(int64(time.Since(begun)))
		connected(c.Conn.LocalAddr())
	}}))
	why := causeOf(ctx)
	var got int64
	defer func() { s.mirror.end(n-got, got > 0) }()
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, s.transportError(ctx, asked, err)
	}
	defer resp.Body.Close()
	want, orLess, err := check(resp)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, min(64<<10, max(want, 1)))
	for got < want {
		stall.Reset(s.mirror.stall())
		m, err := resp.Body.Read(buf[:min(int64(len(buf)), want-got)])
		if m > 0 {
			hear()
			s.count.bytes.Add(int64(m))
			s.count.byCause[why].Add(int64(m))
			if got == 0 {
				s.mirror.first(begun, time.Duration(sent.Load()))
			}
			s.mirror.came(int64(m))
			sink(buf[:m])
			got += int64(m)
		}
		if err == io.EOF && orLess {
			break
		}
		if err != nil && got < want {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return got, s.transportError(ctx, asked, err)
		}
	}
	return got, nil
}

// freshKey marks the context of a request whose answer must not come out of a cache.
type freshKey struct{}

// fresh returns a context whose requests ask all caches for what the server has now.
func fresh(ctx context.Context) context.Context { return context.WithValue(ctx, freshKey{}, true) }

// errReturned ends a request that was sent before the network went away.
var errReturned = errors.New("no answer, and the network was away meanwhile")

var errStalled = errors.New("no answer in time")

func (s *httpSource) transportError(ctx context.Context, asked string, err error) error {
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		err = cause
	}
	if errors.Is(err, errReturned) { // what is idle may not be
		s.client.CloseIdleConnections()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &NetworkError{URL: s.shown, RangeAsked: asked, Err: err}
}

// A NetworkError tells that an answer did not come, or not whole. Asking again may help.
type NetworkError struct {
	URL        string // redacted
	RangeAsked string // empty: the whole file
	Err        error
}

func (e *NetworkError) Error() string {
	return fmt.Sprintf("GET %s: %v", withRange(e.URL, e.RangeAsked), e.Err)
}

func (e *NetworkError) Unwrap() error { return e.Err }

// check compares an answer's head with what was asked and with the file's identity, and returns how many
// bytes its body has to give.
func (s *httpSource) check(resp *http.Response, asked string, off, n int64) (int64, error) {
	bad := func(why string) (int64, error) { return 0, s.httpError(resp, asked, why) }
	switch resp.StatusCode {
	case http.StatusPartialContent:
		s.hasRanges.Store(true)
		s.wholes.Store(0)
	case http.StatusOK:
		switch why := compressed(resp); {
		case isHTML(resp):
			return bad("the server sent an HTML page, not an image")
		case why != "":
			return bad(why)
		case resp.ContentLength < 0:
			return bad("the server gives neither ranges of this file nor its length; want one that does (nginx, Apache, bootprof serve)")
		}
		if size := s.pin.size(); size >= 0 && size != resp.ContentLength {
			return bad(fmt.Sprintf("the server sent a file of %d bytes instead of a range of one of %d", resp.ContentLength, size))
		}
		s.wholes.Add(1)
		err := s.httpError(resp, asked, "the server does not serve ranges of this file")
		err.whole, err.length = true, resp.ContentLength
		return 0, err
	case http.StatusRequestedRangeNotSatisfiable:
		if s.pin.size() < 0 && off == 0 {
			return bad("the file is empty")
		}
		return bad("")
	default:
		return bad("")
	}
	start, end, size, ok := parseContentRange(resp.Header.Get("Content-Range"))
	if !ok || start != off || end < start || end > off+n {
		return bad(fmt.Sprintf("answered with another range (Content-Range: %q)", resp.Header.Get("Content-Range")))
	}
	if why := compressed(resp); why != "" {
		return bad(why)
	}
	if err := s.pin.check(s.shown, size, resp.Header.Get("ETag")); err != nil {
		return 0, err
	}
	return end - start, s.pin.date(s.shown, resp.Header.Get("Last-Modified"))
}

// checkWhole looks at the head of an answer that has to be a whole file.
func (s *httpSource) checkWhole(resp *http.Response, limit int64) (want int64, orLess bool, err error) {
	why := compressed(resp)
	switch {
	case resp.StatusCode != http.StatusOK:
		return 0, false, s.httpError(resp, "", "")
	case isHTML(resp) && resp.ContentLength != limit: // a server that guesses may take a chunk of HTML for HTML
		why = "the server sent an HTML page"
	}
	if why != "" {
		return 0, false, s.httpError(resp, "", why)
	}
	if n := resp.ContentLength; n >= 0 && n <= limit {
		return n, false, nil
	}
	return limit + 1, true, nil
}

func (s *httpSource) httpError(resp *http.Response, asked, why string) *HTTPError {
	return &HTTPError{URL: s.shown, Status: resp.Status, Code: resp.StatusCode, RangeAsked: asked,
		ContentRange: resp.Header.Get("Content-Range"), ContentType: resp.Header.Get("Content-Type"), Why: why,
		RetryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

func isHTML(resp *http.Response) bool {
	return strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
}

// compressed tells what is wrong with an answer that is compressed, and "" of any other.
func compressed(resp *http.Response) string {
	if ce := resp.Header.Get("Content-Encoding"); ce != "" && ce != "identity" {
		return fmt.Sprintf("the server compresses the file (Content-Encoding: %s)", ce)
	}
	return ""
}

// parseContentRange reads "bytes 0-99/1234" (RFC 9110, section 14.4) as the half-open [start, end) of size.
func parseContentRange(v string) (start, end, size int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes ")
	span, total, ok2 := strings.Cut(v, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	size, err3 := strconv.ParseInt(total, 10, 64)
	ok = err1 == nil && err2 == nil && err3 == nil && start >= 0 && end >= start && end < size
	return start, end + 1, size, ok
}
