package mountclient

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

func TestParseResolvConf(t *testing.T) {
	for _, c := range []struct {
		conf            string
		servers, search []string
	}{
		{"", nil, nil},
		{"nameserver 10.0.2.3\n", []string{"10.0.2.3"}, nil},
		{"# nameserver 1.1.1.1\n; x\noptions ndots:2\nnameserver\t::1  # own\nnameserver fe80::1%eth0", []string{"::1", "fe80::1%eth0"}, nil},
		{"domain a.test\nsearch b.test c.test\nnameserver 10.0.0.1\nnameserver x\n", []string{"10.0.0.1"}, []string{"b.test", "c.test"}},
		{"nameserver", nil, nil},
	} {
		servers, search := parseResolvConf(c.conf)
		if !reflect.DeepEqual(servers, c.servers) || len(search)+len(c.search) > 0 && !reflect.DeepEqual(search, c.search) {
			t.Errorf("%q: %q, %q, want %q, %q", c.conf, servers, search, c.servers, c.search)
		}
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("search a.test\nnameserver 10.0.2.3\n10.0.0.1 a b # c\n")
	f.Fuzz(func(t *testing.T, s string) {
		servers, search := parseResolvConf(s)
		if len(servers) > mostServers || len(search) > mostSearches {
			t.Errorf("%d servers, %d to search", len(servers), len(search))
		}
		for _, addr := range servers {
			if _, err := netip.ParseAddr(addr); err != nil {
				t.Error(err)
			}
		}
		parseHosts(s)
	})
}

func TestSearched(t *testing.T) {
	for _, c := range []struct {
		host   string
		search []string
		want   string
	}{
		{"boot.test", nil, "boot.test."},
		{"boot.test", []string{"a.test"}, "boot.test. boot.test.a.test."},
		{"boot", []string{"a.test", "b.test.", "a.test"}, "boot.a.test. boot.b.test. boot."},
		{"boot.", []string{"a.test"}, "boot."},
	} {
		if got := strings.Join(searched(c.host, c.search), " "); got != c.want {
			t.Errorf("%s with %q: %s, want %s", c.host, c.search, got, c.want)
		}
	}
}

// testResolver makes a resolver of files in a new directory, and returns where its /run is. Name servers listen at
// the port of s.
func testResolver(t *testing.T, s *nameServer, files map[string]string) (r *resolver, run string, log *syncBuffer) {
	t.Helper()
	etc, run := t.TempDir(), t.TempDir()
	for name, content := range files {
		testrig.WriteFile(t, filepath.Join(etc, name), content)
	}
	log = &syncBuffer{}
	r = newResolver(etc, run, NewLog(log, 0))
	t.Cleanup(r.close)
	_, r.port, _ = net.SplitHostPort(s.conn.LocalAddr().String())
	return r, run, log
}

func (r *resolver) mustFind(t *testing.T, host, want string, since time.Time) {
	t.Helper()
	addrs, _, err := r.lookup(t.Context(), host, since)
	if got := strings.Trim(fmt.Sprint(addrs), "[]"); err != nil || got != want {
		t.Errorf("%s: %q, %v; want %s", host, got, err, want)
	}
}

func TestResolver(t *testing.T) {
	s := startNames(t, "127.84.0.1:0", net.IPv4(10, 1, 1, 1))
	r, _, log := testResolver(t, s, map[string]string{
		"hosts":       "127.0.0.9 files.test alias # not.this\nfd00::9 Files.test\nbad line\n",
		"resolv.conf": "nameserver 127.84.0.9\nnameserver 127.84.0.1\n", // nobody is at the first
	})
	r.mustFind(t, "FILES.test", "127.0.0.9 fd00::9", time.Now())
	r.mustFind(t, "alias.", "127.0.0.9", time.Now())
	if n := s.asked.Load(); n != 0 {
		t.Errorf("%d questions for names in the hosts file", n)
	}
	r.mustFind(t, "boot.test", "10.1.1.1", time.Now())
	if r.last != "127.84.0.1" {
		t.Errorf("the name server that answered is %q", r.last)
	}
	asked := s.asked.Load()
	r.mustFind(t, "boot.test", "10.1.1.1", time.Now().Add(-namesFor))
	if s.asked.Load() != asked {
		t.Error("a young answer was asked for again")
	}
	moved := net.IPv4(10, 1, 1, 2)
	s.addr.Store(&moved)
	r.mustFind(t, "boot.test", "10.1.1.2", time.Now())
	s.conn.Close()
	for range 2 { // told once
		r.mustFind(t, "boot.test", "10.1.1.2", time.Now())
	}
	if n := strings.Count(log.String(), "its last addresses are used"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log)
	}
	if _, _, err := r.lookup(t.Context(), "never.test", time.Now()); err == nil || !strings.Contains(err.Error(), "never.test") {
		t.Errorf("a name that was never found: %v", err)
	}
}

func TestResolverUnknownName(t *testing.T) {
	s := startNames(t, "127.84.0.2:0", net.IPv4(10, 1, 1, 1))
	r, _, _ := testResolver(t, s, map[string]string{"resolv.conf": "nameserver 127.84.0.2\n"})
	if _, _, err := r.lookup(t.Context(), "missing.test", time.Now()); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("%v", err)
	}
	r, _, _ = testResolver(t, s, nil)
	if _, _, err := r.lookup(t.Context(), "boot.test", time.Now()); err == nil || !strings.Contains(err.Error(), "no name server is known") {
		t.Errorf("%v", err)
	}
}

// What comes up below /run is seen; what could wait there for somebody, or lead out of it, is left alone.
func TestRunServers(t *testing.T) {
	s := startNames(t, "127.84.0.3:0", net.IPv4(10, 1, 1, 1))
	r, run, _ := testResolver(t, s, map[string]string{"resolv.conf": "nameserver 10.9.9.9\n"})
	if servers, _ := r.runServers(); len(servers) > 0 {
		t.Errorf("%q of an empty directory", servers)
	}
	for _, dir := range []string{"systemd/resolve", "NetworkManager", "resolvconf", "connman"} {
		if err := os.MkdirAll(filepath.Join(run, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	testrig.WriteFile(t, run+"/net-eth0.conf", "DEVICE='eth0'\nIPV4DNS0='10.0.2.3'\nIPV4DNS1='0.0.0.0'\nDNSDOMAIN='lab.test'\n")
	servers, search := r.runServers()
	if fmt.Sprint(servers, search) != "[10.0.2.3] [lab.test]" {
		t.Errorf("of ipconfig: %q, %q", servers, search)
	}
	testrig.WriteFile(t, run+"/NetworkManager/resolv.conf", "nameserver 127.0.0.53\n") // a program on the root
	testrig.WriteFile(t, run+"/systemd/resolve/resolv.conf", "nameserver 10.0.0.1\nnameserver fd00::1\nsearch new.test\n")
	outside := newFile(t, "resolv.conf", "nameserver 10.6.6.6\n")
	err := os.Symlink(outside, run+"/resolvconf/resolv.conf")
	if err == nil {
		err = unix.Mkfifo(run+"/connman/resolv.conf", 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	servers, search = r.runServers()
	if fmt.Sprint(servers, search) != "[10.0.0.1 fd00::1] [new.test]" {
		t.Errorf("%q, %q", servers, search)
	}
}

// A connection goes to the address that answers, and to a new one when none of those known does.
func TestResolverDial(t *testing.T) {
	s := startNames(t, "127.84.0.4:0", net.IPv4(127, 84, 0, 5))
	l, err := net.Listen("tcp", "127.84.0.6:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r, _, _ := testResolver(t, s, map[string]string{"resolv.conf": "nameserver 127.84.0.4\n", "hosts": "127.84.0.5 two.test\n127.84.0.6 two.test\n"})
	dialer := &net.Dialer{Timeout: dialTimeout}
	reach := func(host string) error {
		conn, err := r.dial(t.Context(), dialer, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := reach("two.test"); err != nil {
		t.Errorf("with two addresses: %v", err)
	}
	if err := reach("boot.test"); err == nil {
		t.Error("reached where nobody listens")
	}
	moved := net.IPv4(127, 84, 0, 6)
	s.addr.Store(&moved)
	if err := reach("boot.test"); err != nil {
		t.Errorf("after the move: %v", err)
	}
	if err := reach("127.84.0.6"); err != nil {
		t.Errorf("by address: %v", err)
	}
}
