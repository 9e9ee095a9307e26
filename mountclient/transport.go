package mountclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	maxRedirects = 10
	maxFinals    = 256 // redirects remembered by one transport
)

// Access is how servers are reached. The zero value is right for a public server.
type Access struct {
	CAFile          string // PEM; certificates that are trusted besides those of the system
	CertFile        string // PEM; the client's certificate and its chain; empty: none
	KeyFile         string // PEM; its key; empty: in CertFile, too
	CredentialsFile string // one line: "user:password" or "Bearer TOKEN"; read again when the server refuses it
	Proxy           string // http, https, socks5 or socks5h; empty: the environment says (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)
}

// An AccessError tells that a field of Access cannot be used.
type AccessError struct{ Flag, Value, Why string }

func (e *AccessError) Error() string { return fmt.Sprintf("%s %s: %s", e.Flag, e.Value, e.Why) }

// An access is what the transports of one client share. Safe for concurrent use.
type access struct {
	roots func() *x509.CertPool
	certs []tls.Certificate
	creds *credentials // nil: none
	proxy func(*http.Request) (*url.URL, error)
	clock *clock
	names *resolver // nil: names are Go's business
}

// newAccess reads the files that o names.
func newAccess(o Access, log *slog.Logger) (*access, error) {
	a := &access{proxy: http.ProxyFromEnvironment, clock: &clock{wall: time.Now}}
	var own []byte
	if o.CAFile != "" {
		var err error
		if own, err = os.ReadFile(o.CAFile); err != nil {
			return nil, &AccessError{"--ca", o.CAFile, why(err)}
		}
		if !x509.NewCertPool().AppendCertsFromPEM(own) {
			return nil, &AccessError{"--ca", o.CAFile, "no certificate in PEM form in it"}
		}
	}
	a.roots = sync.OnceValue(func() *x509.CertPool {
		pool, err := x509.SystemCertPool() // from /etc/ssl/certs and the like
		if err != nil || pool.Equal(x509.NewCertPool()) {
			pool = builtInRoots()
		}
		pool.AppendCertsFromPEM(own)
		return pool
	})
	if o.CertFile != "" {
		key := o.KeyFile
		if key == "" {
			key = o.CertFile
		}
		pair, err := tls.LoadX509KeyPair(o.CertFile, key)
		if err != nil {
			return nil, &AccessError{"--cert", o.CertFile, "with the key in " + key + ": " + why(err)}
		}
		a.certs = []tls.Certificate{pair}
	} else if o.KeyFile != "" {
		return nil, &AccessError{"--key", o.KeyFile, "is of no use without --cert"}
	}
	if o.Proxy != "" {
		u, err := parseProxy(o.Proxy)
		if err != nil {
			return nil, err
		}
		a.proxy = http.ProxyURL(u)
	}
	if o.CredentialsFile != "" {
		var err error
		if a.creds, err = openCredentials(o.CredentialsFile, log); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func parseProxy(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, &AccessError{"--proxy", withoutUser(s), "not a URL"}
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		if u.Host != "" {
			return u, nil
		}
	}
	return nil, &AccessError{"--proxy", u.Redacted(), "want http://, https://, socks5:// or socks5h://HOST:PORT"}
}

func (a *access) close() {
	if a.creds != nil {
		a.creds.dir.Close()
	}
	if a.names != nil {
		a.names.close()
	}
}

// A transport sends the requests for one URL and its siblings, and the redirects that follow. Credentials and client
// certificate go to the URL's own host only. It remembers where redirects lead, so that not each range pays for
// them; an address that does not give the file any more (signed URLs expire) is forgotten, and the URL itself asked
// again at once. Safe for concurrent use.
type transport struct {
	access  *access
	origin  *url.URL
	plain   *http.Transport        // http, and file if that is what origin is
	ownTLS  func() *http.Transport // https, of the own host
	restTLS func() *http.Transport // https, of others
	made    []*http.Transport      // all that exist; guarded by mu
	mu      sync.Mutex
	finals  map[string]*url.URL // by URL: where its redirects lead
	silence watch
	dial    dialFunc
}

// newClient returns the client for what is below u.
func (a *access) newClient(u *url.URL) *http.Client {
	t := &transport{access: a, origin: u, finals: make(map[string]*url.URL)}
	t.dial = t.access.dialer(&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second})
	t.plain = t.newTransport(nil)
	if u.Scheme == "file" {
		t.plain.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	}
	secure := func(certs []tls.Certificate) func() *http.Transport {
		return sync.OnceValue(func() *http.Transport {
			return t.newTransport(&tls.Config{RootCAs: a.roots(), Certificates: certs, Time: a.clock.now})
		})
	}
	t.ownTLS = secure(a.certs)
	t.restTLS = secure(nil)
	if u.Scheme == "https" {
		t.ownTLS() // the roots are read while nothing else can be done
	}
	return &http.Client{Transport: t, CheckRedirect: checkRedirect}
}

func (t *transport) newTransport(secure *tls.Config) *http.Transport {
	h := &http.Transport{
		Proxy:                  t.access.proxy,
		DialContext:            t.silence.dials(t.dial),
		TLSClientConfig:        secure,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // ranges are of the bytes as they lie there
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         64 << 10,
		// A connection that carries all requests must not be trusted for long when it is silent.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 3 * time.Second, PingTimeout: 3 * time.Second},
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made = append(t.made, h)
	return h
}

// dialer returns what connects.
func (a *access) dialer(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	if a.names == nil {
		return d.DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return a.names.dial(ctx, d, network, address)
	}
}

// CloseIdleConnections is what http.Client calls.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.made {
		h.CloseIdleConnections()
	}
}

// RoundTrip sends one request, which may be one that follows a redirect.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Response != nil {
		resp, err := t.send(req, req.URL)
		if err == nil && resp.StatusCode/100 == 2 {
			t.remember(req)
		}
		return resp, err
	}
	key := req.URL.String()
	if final := t.final(key); final != nil {
		resp, err := t.send(req, final)
		if err == nil {
			switch resp.StatusCode {
			case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable, http.StatusTooManyRequests:
				return resp, nil
			}
		}
		t.forget(key, final)
		if err != nil {
			return nil, err
		}
		discard(resp)
	}
	return t.send(req, req.URL)
}

// send sends req to u.
func (t *transport) send(req *http.Request, u *url.URL) (*http.Response, error) {
	r := req.Clone(req.Context())
	if u != req.URL {
		r.URL, r.Host = u, u.Host
	}
	r.Header.Del("Referer") // the query of a URL may be what lets the client in
	used := t.authorize(r)
	via := t.plain
	switch {
	case u.Scheme == "https" && t.isOwn(u):
		via = t.ownTLS()
	case u.Scheme == "https":
		via = t.restTLS()
	}
	resp, err := via.RoundTrip(r)
	if err != nil && t.access.clock.learn(err, t.access.roots) {
		resp, err = via.RoundTrip(r)
	}
	if err != nil {
		return nil, t.access.tlsError(u.Hostname(), err)
	}
	if refused := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden; refused && used != "" && t.access.creds.renewed(used) {
		discard(resp)
		r = r.Clone(r.Context())
		t.authorize(r)
		if resp, err = via.RoundTrip(r); err != nil {
			return nil, t.access.tlsError(u.Hostname(), err)
		}
	}
	return resp, nil
}

// authorize gives a request the credentials of its host, and returns those that came out of the file. Those in a URL
// go before the file's.
func (t *transport) authorize(r *http.Request) (used string) {
	r.Header.Del("Authorization") // of the URL that led here
	user := r.URL.User
	own := t.isOwn(r.URL)
	if user == nil && own {
		user = t.origin.User
	}
	switch {
	case user != nil:
		password, _ := user.Password()
		r.SetBasicAuth(user.Username(), password)
	case own && t.access.creds != nil:
		used = t.access.creds.header()
		r.Header.Set("Authorization", used)
	}
	return used
}

// isOwn tells whether u is on the host that the transport is for: the same scheme and port, or https instead of http.
func (t *transport) isOwn(u *url.URL) bool {
	o := t.origin
	if !strings.EqualFold(o.Hostname(), u.Hostname()) {
		return false
	}
	upgrade := o.Scheme == "http" && port(o) == "80" && u.Scheme == "https" && port(u) == "443"
	return upgrade || o.Scheme == u.Scheme && port(o) == port(u)
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

func (t *transport) final(key string) *url.URL {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finals[key]
}

// remember notes where the redirects led of which req follows the last.
func (t *transport) remember(req *http.Request) {
	first := req
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.finals) >= maxFinals {
		clear(t.finals)
	}
	t.finals[first.URL.String()] = req.URL
}

func (t *transport) forget(key string, final *url.URL) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.finals[key] == final {
		delete(t.finals, key)
	}
}

// discard ends an answer so that its connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	resp.Body.Close()
}

// A RedirectError tells that a redirect leads where none is followed to.
type RedirectError struct{ Why string }

func (e *RedirectError) Error() string { return e.Why }

func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return &RedirectError{fmt.Sprintf("redirected to %s: want http or https", req.URL.Redacted())}
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects, the last to %s", maxRedirects, req.URL.Redacted()) // it may pass, as of a login page
	}
	return nil
}
