package mountclient

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// A webServer serves a file as net/http does, and notes the requests.
type webServer struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

// newWebServer starts a server of file; guard, if any, answers first and tells whether that was all. change is for what
// must be set before the start; nil: plain HTTP.
func newWebServer(t *testing.T, file []byte, guard func(http.ResponseWriter, *http.Request) bool, change func(*httptest.Server)) *webServer {
	t.Helper()
	s := &webServer{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		if guard != nil && guard(w, r) {
			return
		}
		http.ServeContent(w, r, "image", time.Unix(1_700_000_000, 0), bytes.NewReader(file))
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if change == nil {
		s.Start()
	} else {
		s.EnableHTTP2 = true
		change(s.Server)
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}

func (s *webServer) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.seen...)
}

func secure(*httptest.Server) {}

// testAccess makes what o says, and closes it with the test.
func testAccess(t *testing.T, o Access) *access {
	t.Helper()
	a, err := newAccess(o, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

// fetchVia reads 100 bytes of a URL, without repeating anything.
func fetchVia(t *testing.T, a *access, url string) ([]byte, error) {
	t.Helper()
	src, err := newSourceVia(a, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.client.CloseIdleConnections)
	return getFrom(t, src)
}

func getFrom(t *testing.T, src *httpSource) (got []byte, err error) {
	_, err = src.get(soon(t), 1000, 100, func(b []byte) { got = append(got, b...) })
	return got, err
}

// newFile writes a file of that name into a new directory and returns its path.
func newFile[T ~string | ~[]byte](t *testing.T, name string, content T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	testrig.WriteFile(t, path, content)
	return path
}

func wantBytes(t *testing.T, file, got []byte, err error) {
	t.Helper()
	if err != nil || !bytes.Equal(got, file[1000:1100]) {
		t.Fatalf("got %q, %v", got, err)
	}
}

// The server sees the credentials, from the file or the URL, and a renewed token is picked up.
func TestCredentials(t *testing.T) {
	file := testFile(40_000)
	var mu sync.Mutex
	wanted := ""
	s := newWebServer(t, file, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") == wanted {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}, nil)
	path := filepath.Join(t.TempDir(), "login")
	for _, c := range []struct{ name, line, user, header string }{
		{"basic", "me:se:cret\n", "", "Basic bWU6c2U6Y3JldA=="},
		{"bearer", "Bearer tok.en\r\n", "", "Bearer tok.en"},
		{"URL", "", "me:secret@", "Basic bWU6c2VjcmV0"},
		{"URL before file", "Bearer x", "me:secret@", "Basic bWU6c2VjcmV0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mu.Lock()
			wanted = c.header
			mu.Unlock()
			var o Access
			if c.line != "" {
				testrig.WriteFile(t, path, c.line)
				o.CredentialsFile = path
			}
			got, err := fetchVia(t, testAccess(t, o), strings.Replace(s.URL, "//", "//"+c.user, 1)+"/image")
			wantBytes(t, file, got, err)
		})
	}
	t.Run("renewed", func(t *testing.T) {
		want := func(v string) {
			mu.Lock()
			defer mu.Unlock()
			wanted = v
		}
		want("Bearer one")
		testrig.WriteFile(t, path, "Bearer one")
		src, err := newSourceVia(testAccess(t, Access{CredentialsFile: path}), s.URL+"/image")
		if err != nil {
			t.Fatal(err)
		}
		got, err := getFrom(t, src)
		wantBytes(t, file, got, err)
		want("Bearer two")
		if _, err := getFrom(t, src); err == nil || !permanent(err) {
			t.Errorf("with a token that is refused: %v", err)
		}
		testrig.WriteFile(t, path+".new", "Bearer two")
		testrig.Must(t, os.Rename(path+".new", path))
		got, err = getFrom(t, src)
		wantBytes(t, file, got, err)
	})
	for _, bad := range []string{"", "secret", "Bearer ", "a:secret\nb:c", "Bearer secret x"} {
		testrig.WriteFile(t, path, bad)
		_, err := newAccess(Access{CredentialsFile: path}, testLog(t))
		if err == nil || strings.Contains(err.Error(), "secret") || ExitCode(err) != ExitUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A redirect to another host takes neither credentials nor referrer along; it is remembered, and forgotten when it expires.
func TestRedirects(t *testing.T) {
	file := testFile(40_000)
	var mu sync.Mutex
	valid := "1" // of the signed URL
	sign := func(v string) { mu.Lock(); valid = v; mu.Unlock() }
	store := newWebServer(t, file, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Query().Get("signed") == valid {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	}, nil)
	own := newWebServer(t, file, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/image" {
			http.Redirect(w, r, "/next", http.StatusFound)
		} else {
			http.Redirect(w, r, strings.Replace(store.URL, "127.0.0.1", "localhost", 1)+"/x?signed="+valid, http.StatusTemporaryRedirect)
		}
		return true
	}, nil)
	for _, user := range []string{"", "me:secret@"} {
		path := newFile(t, "login", "Bearer token")
		src, err := newSourceVia(testAccess(t, Access{CredentialsFile: path}), strings.Replace(own.URL, "//", "//"+user, 1)+"/image?token=1")
		if err != nil {
			t.Fatal(err)
		}
		before := len(own.requests())
		for _, c := range []struct {
			signed   string
			requests int // to the own server until then
		}{{"1", 2}, {"1", 2}, {"2", 4}, {"2", 4}} {
			sign(c.signed)
			got, err := getFrom(t, src)
			wantBytes(t, file, got, err)
			if n := len(own.requests()) - before; n != c.requests {
				t.Errorf("%d requests to the redirecting server, want %d", n, c.requests)
			}
		}
		for _, r := range own.requests()[before:] {
			if r.Header.Get("Authorization") == "" {
				t.Errorf("%s without credentials", r.URL)
			}
		}
		sign("1")
	}
	for _, r := range store.requests() {
		if a, ref := r.Header.Get("Authorization"), r.Header.Get("Referer"); a != "" || ref != "" || r.Host != strings.TrimPrefix(strings.Replace(store.URL, "127.0.0.1", "localhost", 1), "http://") {
			t.Errorf("the other host saw Authorization %q, Referer %q, Host %q", a, ref, r.Host)
		}
	}
	loop := newWebServer(t, file, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		return true
	}, nil)
	if _, err := fetchVia(t, nil, loop.URL+"/"); err == nil || permanent(err) || len(loop.requests()) != maxRedirects+1 {
		t.Errorf("a chain without end: %v after %d requests", err, len(loop.requests()))
	}
	passwd := newWebServer(t, file, func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Location", "file:///etc/passwd")
		w.WriteHeader(http.StatusFound)
		return true
	}, nil)
	if _, err := fetchVia(t, nil, passwd.URL+"/"); err == nil || !permanent(err) || !strings.Contains(err.Error(), "want http") {
		t.Errorf("a redirect to a file: %v", err)
	}
}

func TestOwnHost(t *testing.T) {
	for _, c := range []struct {
		origin, other string
		own           bool
	}{
		{"http://h/x", "http://H:80/y", true},
		{"http://h/x", "https://h/y", true},
		{"https://h/x", "https://h:443/y", true},
		{"https://h/x", "http://h/y", false},
		{"http://h:8080/x", "https://h/y", false},
		{"http://h:8080/x", "http://h/y", false},
		{"http://h/x", "http://a.h/y", false},
	} {
		origin, _ := url.Parse(c.origin)
		other, _ := url.Parse(c.other)
		if got := (&transport{origin: origin}).isOwn(other); got != c.own {
			t.Errorf("%s is own for %s: %t", c.other, c.origin, got)
		}
	}
}

// All requests go to the proxy that was named, which sees its own credentials.
func TestProxy(t *testing.T) {
	file := testFile(40_000)
	proxy := newWebServer(t, file, nil, nil)
	got, err := fetchVia(t, testAccess(t, Access{Proxy: strings.Replace(proxy.URL, "//", "//me:secret@", 1)}), "http://nowhere.invalid/image")
	wantBytes(t, file, got, err)
	r := proxy.requests()[0]
	if r.RequestURI != "http://nowhere.invalid/image" || r.Header.Get("Proxy-Authorization") != "Basic bWU6c2VjcmV0" || r.Header.Get("Authorization") != "" {
		t.Errorf("the proxy got %s with %v", r.RequestURI, r.Header)
	}
	for _, bad := range []string{"host:3128", "ftp://me:secret@h", "http://", "http://me:secret@h:x"} {
		if _, err := newAccess(Access{Proxy: bad}, nil); err == nil || strings.Contains(err.Error(), "secret") || ExitCode(err) != ExitUsage {
			t.Errorf("proxy %q: %v", bad, err)
		}
	}
}

// An answer may have headers of 16 KB.
func TestLargeHeaders(t *testing.T) {
	file := testFile(40_000)
	for _, change := range []func(*httptest.Server){nil, secure} {
		s := newWebServer(t, file, func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("X-Large", strings.Repeat("x", 16<<10))
			return false
		}, change)
		got, err := fetchVia(t, testAccess(t, Access{CAFile: caFile(t, s)}), s.URL+"/image")
		wantBytes(t, file, got, err)
	}
}

// caFile writes a server's certificate to a file that can be named as CA.
func caFile(t *testing.T, s *webServer) string {
	if s.TLS == nil {
		return ""
	}
	return pemFile(t, s.Certificate())
}

// A mount through HTTP/2 over TLS, with a CA of its own.
func TestMountHTTP2(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	testrig.NeedMounts(t)
	p := packOf(t, hotAndCold)
	s := newWebServer(t, p.raw, nil, secure)
	o := mountOptions(t, s.URL+"/pack.bpk", func(o *MountOptions) { o.CAFile = caFile(t, s) })
	m, err := Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Mounted: m, t: t, dir: o.Dir, run: o.RunDir, loop: -1}
	r.compare(p)
	r.unmount()
	conns := map[string]bool{}
	for _, q := range s.requests() {
		conns[q.RemoteAddr] = true
		if q.ProtoMajor != 2 {
			t.Errorf("%s by %s", q.Header.Get("Range"), q.Proto)
		}
	}
	t.Logf("%d requests by %d connections", len(s.requests()), len(conns))
}
