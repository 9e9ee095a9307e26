package mountclient

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// statusSocket answers on a socket as a client does.
func statusSocket(t *testing.T, s Status) (path string) {
	t.Helper()
	path = socketPath(runDir(t), 1)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Mounted{}
	m.parts.Go(func() {
		m.answerAll(ctx, l, func(path string) ([]byte, string) {
			switch path {
			case "/status":
				return asJSON(&s)
			case "/metrics":
				return s.Metrics(), "text/plain"
			}
			return nil, ""
		})
	})
	t.Cleanup(func() { stop(); m.parts.Wait() })
	return path
}

// Every metric is HELP, TYPE and its samples, in that order, under one name; net/http reads the answer.
func TestMetricsOverSocket(t *testing.T) {
	t.Parallel()
	path := statusSocket(t, Status{Phase: phaseFilling, FillPages: 3, LastErrorSeconds: 1.5, Misses: 7, StalledSeconds: 0.25, ByCause: ByteCauses{Demand: 9},
		Mirrors: []MirrorStatus{{Name: `http://a\"` + "\n", State: "used", Bytes: 5}, {Name: "http://b", State: "dropped"}}})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}
	if resp, err := client.Get("http://x/other"); err != nil || resp.StatusCode != 404 {
		t.Fatal(resp, err)
	}
	resp, err := client.Get("http://x/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	head := regexp.MustCompile(`\A# HELP (bootprof_[a-z_]+) [^\n]+\n# TYPE (bootprof_[a-z_]+) (counter|gauge)\n`)
	sample := regexp.MustCompile(`\A(bootprof_[a-z_]+)(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"\})? ([0-9.e+-]+)\n`)
	values, heads := map[string]string{}, map[string]bool{}
	for rest := string(text); rest != ""; {
		f := head.FindStringSubmatch(rest)
		if f == nil || f[1] != f[2] || heads[f[1]] || strings.HasSuffix(f[1], "_total") != (f[3] == "counter") {
			t.Fatalf("not the head of a metric: %.200q", rest)
		}
		heads[f[1]], rest = true, rest[len(f[0]):]
		n := 0
		for v := sample.FindStringSubmatch(rest); v != nil; v = sample.FindStringSubmatch(rest) {
			if v[1] != f[1] || values[v[1]+v[2]] != "" {
				t.Fatalf("a sample of another metric, or twice: %.200q", rest)
			}
			values[v[1]+v[2]], rest = v[3], rest[len(v[0]):]
			n++
		}
		if n == 0 {
			t.Fatalf("%s has no sample", f[1])
		}
	}
	for name, want := range map[string]string{
		"bootprof_misses_total": "7", "bootprof_stalled_seconds_total": "0.25",
		`bootprof_received_bytes_total{cause="demand"}`:                 "9",
		`bootprof_mirror_received_bytes_total{mirror="http://a\\\"\n"}`: "5",
		`bootprof_mirror_used{mirror="http://b"}`:                       "0",
		`bootprof_phase{phase="filling"}`:                               "1",
		`bootprof_phase{phase="local"}`:                                 "0",
		"bootprof_fill_pages":                                           "3",
		"bootprof_last_error_seconds":                                   "1.5",
	} {
		if values[name] != want {
			t.Errorf("%s is %q, want %s", name, values[name], want)
		}
	}
}

// Peers that send nothing get their JSON, and hold up nobody who asks.
func TestSocketQuietPeers(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	path := statusSocket(t, Status{Dir: "/here"})
	var quiet []net.Conn
	for range socketPeers - 1 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		quiet = append(quiet, c)
	}
	var s Status
	if err := askSocket(path, "/status", &s); err != nil || s.Dir != "/here" {
		t.Fatal(s.Dir, err)
	}
	for _, c := range quiet {
		_ = c.SetReadDeadline(time.Now().Add(testrig.Patience))
		if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), `"dir":"/here"`) {
			t.Fatalf("%q %v", b, err)
		}
	}
}

// The socket of a client that hangs up stays; that of one that was killed goes.
func TestReadStatusKeepsLiveSockets(t *testing.T) {
	t.Parallel()
	run := runDir(t)
	live, dead := socketPath(run, 1), socketPath(run, 2)
	l, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close() // unread bytes make it ECONNRESET, none make it EOF
		}
	}()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: dead}); err != nil {
		t.Fatal(err)
	}
	syscall.Close(fd)
	if all, err := ReadStatus(run); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	if _, err := os.Stat(live); err != nil {
		t.Error("the socket of a client that lives is gone:", err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket of a client that was killed stays")
	}
}
