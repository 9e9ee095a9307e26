package mountclient

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"bootprof/internal/testrig"
)

// proxied is a host that no resolver knows: the proxy is to find it.
const proxied = "nowhere.invalid"

// A relay joins the two ends of a tunnel.
func relay(client io.ReadWriteCloser, server net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(server, client); server.Close() })
	wg.Go(func() { _, _ = io.Copy(client, server); client.Close() })
	wg.Wait()
}

// asks notes what a proxy was asked for.
type asks struct {
	mu   sync.Mutex
	seen []string
}

func (a *asks) add(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, fmt.Sprintf(format, args...))
}

func (a *asks) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.seen, "\n")
}

// connectProxy starts a proxy that knows CONNECT only (RFC 9110, section 9.3.6), and leads all tunnels to one address.
func connectProxy(t *testing.T, to string, secure bool) (*httptest.Server, *asks) {
	t.Helper()
	seen := &asks{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.add("%s %s %s", r.Method, r.Host, r.Header.Get("Proxy-Authorization"))
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			server.Close()
			return
		}
		_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
		relay(client, server)
	}))
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, seen
}

// socksProxy starts a SOCKS5 proxy (RFC 1928) that takes a name and a password (RFC 1929) if it is offered them, and leads
// all tunnels to one address.
func socksProxy(t *testing.T, to string) (address string, seen *asks) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen = &asks{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer client.Close()
				if server, err := socksAnswer(client, to, seen); err == nil {
					relay(client, server)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String(), seen
}

func socksAnswer(client net.Conn, to string, seen *asks) (net.Conn, error) {
	var err error
	take := func(n int) []byte {
		b := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(client, b)
		}
		return b
	}
	counted := func() string { return string(take(int(take(1)[0]))) }
	say := func(b ...byte) {
		if err == nil {
			_, err = client.Write(b)
		}
	}
	take(1) // version
	method, user := byte(0), ""
	if strings.ContainsRune(counted(), 2) {
		method = 2
	}
	if say(5, method); method == 2 {
		take(1)
		user = counted() + ":" + counted() + "@"
		say(1, 0)
	}
	var host string
	switch take(4)[3] {
	case 1:
		a, _ := netip.AddrFromSlice(take(4))
		host = a.String()
	case 3:
		host = counted()
	}
	port := binary.BigEndian.Uint16(take(2))
	if err != nil {
		return nil, err
	}
	seen.add("%s%s:%d", user, host, port)
	server, err := net.Dial("tcp", to)
	say(5, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	return server, err
}

// A server behind a proxy of each kind, by http and by https. The proxy is told the server's name, and does not see what
// is fetched by https.
func TestProxyKinds(t *testing.T) {
	file := testFile(40_000)
	ca := newTestCA(t)
	plain := newWebServer(t, file, nil, nil)
	secured := newWebServer(t, file, nil, func(s *httptest.Server) {
		with(ca.issueFor(t, proxied))(s)
	})
	address := func(s *webServer) string { return s.Listener.Addr().String() }
	tunnel, tunnelAsks := connectProxy(t, address(secured), false)
	secureTunnel, secureAsks := connectProxy(t, address(secured), true)
	socks, socksAsks := socksProxy(t, address(secured))
	plainSocks, plainAsks := socksProxy(t, address(plain))
	authorities := pemFile(t, ca.cert)
	both := newFile(t, "ca.pem", append(testrig.ReadFile(t, authorities), testrig.ReadFile(t, pemFile(t, secureTunnel.Certificate()))...))
	for _, c := range []struct {
		name, proxy, url string
		seen             *asks
		want             string
	}{
		{"CONNECT", "http://me:secret@" + tunnel.Listener.Addr().String(), "https://" + proxied + ":8443/image", tunnelAsks,
			"CONNECT " + proxied + ":8443 Basic bWU6c2VjcmV0"},
		{"CONNECT to a proxy by https", secureTunnel.URL, "https://" + proxied + "/image", secureAsks, "CONNECT " + proxied + ":443 "},
		{"socks5, https", "socks5://me:secret@" + socks, "https://" + proxied + "/image", socksAsks, "me:secret@" + proxied + ":443"},
		{"socks5, http", "socks5://" + plainSocks, "http://" + proxied + "/image", plainAsks, proxied + ":80"},
		{"socks5h", "socks5h://" + plainSocks, "http://" + proxied + ":81/image", plainAsks, proxied + ":80\n" + proxied + ":81"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := fetchVia(t, testAccess(t, Access{CAFile: both, Proxy: c.proxy}), c.url)
			wantBytes(t, file, got, err)
			if seen := c.seen.String(); seen != c.want {
				t.Errorf("the proxy was asked for\n%s\nwant\n%s", seen, c.want)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		closed, _ := connectProxy(t, "127.0.0.1:1", false)
		_, err := fetchVia(t, testAccess(t, Access{CAFile: both, Proxy: closed.URL}), "https://"+proxied+"/image")
		if err == nil || permanent(err) || !strings.Contains(err.Error(), "Bad Gateway") {
			t.Errorf("a proxy that does not reach the server: %v", err)
		}
	})
}

// roleProxy prints the digest of a range that is fetched by way of the proxy that the environment names: URL CA.
const roleProxy = "proxy"

func proxyMain(url, ca string) int {
	a, err := newAccess(Access{CAFile: ca}, nil)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	src, err := newSourceVia(a, url)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), testrig.Patience)
	defer cancel()
	var got []byte
	if _, err := src.get(ctx, 1000, 100, func(b []byte) { got = append(got, b...) }); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("%x\n", got)
	return 0
}

// Without --proxy the environment names it, in capitals or not, and the hosts that are reached without one.
func TestProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	file := testFile(40_000)
	ca := newTestCA(t)
	s := newWebServer(t, file, nil, func(s *httptest.Server) { with(ca.issueFor(t, proxied))(s) })
	tunnel, seen := connectProxy(t, s.Listener.Addr().String(), false)
	socks, socksSeen := socksProxy(t, s.Listener.Addr().String())
	plain := newWebServer(t, file, nil, nil)
	authorities, want := pemFile(t, ca.cert), fmt.Sprintf("%x\n", file[1000:1100])
	for _, c := range []struct {
		name, env, url string
		seen           *asks // nil: none of these is asked
	}{
		{"HTTPS_PROXY", "HTTPS_PROXY=" + tunnel.URL, "https://" + proxied + "/image", seen},
		{"https_proxy without a scheme", "https_proxy=" + tunnel.Listener.Addr().String(), "https://" + proxied + "/image", seen},
		{"HTTPS_PROXY, socks5", "HTTPS_PROXY=socks5://" + socks, "https://" + proxied + "/image", socksSeen},
		{"HTTP_PROXY", "HTTP_PROXY=" + plain.URL, "http://" + proxied + "/image", nil},
		{"NO_PROXY", "HTTP_PROXY=" + tunnel.URL + " NO_PROXY=0.0.0.0", strings.Replace(plain.URL, "127.0.0.1", "0.0.0.0", 1) + "/image", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := seen.String() + socksSeen.String()
			cmd, out := role(roleProxy, c.url, authorities)
			for _, v := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"} {
				cmd.Env = append(cmd.Env, v+"=", strings.ToLower(v)+"=")
			}
			cmd.Env = append(cmd.Env, strings.Fields(c.env)...)
			if err := cmd.Run(); out.String() != want {
				t.Errorf("%v: %s", err, out)
			}
			if asked := seen.String()+socksSeen.String() != before; asked != (c.seen != nil) {
				t.Errorf("the proxy was asked: %t", asked)
			}
		})
	}
}
