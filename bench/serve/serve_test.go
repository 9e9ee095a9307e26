package serve

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// needNginx looks where Start does.
func needNginx(t *testing.T) {
	t.Helper()
	if _, err := findNginx(); err != nil {
		testrig.Missing(t, "%v", err)
	}
}

func TestStats(t *testing.T) {
	needNginx(t)
	root := t.TempDir()
	testrig.WriteFile(t, filepath.Join(root, "image"), make([]byte, 1<<20))
	s, err := Start(Options{Root: root, Addr: "127.0.0.1", Port: testrig.FreePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", s.dir, err)
		}
	}()
	get := func(method, name, ranges string) {
		t.Helper()
		req, err := http.NewRequest(method, s.URL(name), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip")
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if enc := resp.Header.Get("Content-Encoding"); enc != "" {
			t.Errorf("answer is encoded as %q", enc)
		}
	}
	get("GET", "image", "")
	before := awaitRequests(t, s, 1)
	if before[0].Range != "" || before[0].BodyBytes != 1<<20 || before[0].Status != 200 {
		t.Errorf("first request: %+v", before[0])
	}
	time.Sleep(2 * time.Millisecond) // the log counts milliseconds
	mark := time.Now()
	get("GET", "image", "bytes=0-99")
	get("GET", "image", "bytes=100-199,300-399")
	get("HEAD", "image", "")
	get("GET", "none", "")
	all := awaitRequests(t, s, 5)
	if r := all[1]; r.Range != "bytes=0-99" || r.Status != 206 || r.BodyBytes != 100 || r.Path != "/image" {
		t.Errorf("range request: %+v", r)
	}
	got, err := s.Stats(mark, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	bodies := all[1].BodyBytes + all[2].BodyBytes + all[4].BodyBytes
	if want := (Stats{GETs: 3, Heads: 1, Errors: 1, BodyBytes: bodies}); got != want {
		t.Errorf("since the mark: %+v, want %+v", got, want)
	}
	if got, err := s.Stats(time.Time{}, mark); err != nil || got.GETs != 1 || got.BodyBytes != 1<<20 {
		t.Errorf("before the mark: %+v, %v", got, err)
	}
}

// awaitRequests waits until the log has n lines: nginx writes a line after the client has its answer.
func awaitRequests(t *testing.T, s *Server, n int) []Request {
	t.Helper()
	var all []Request
	testrig.Eventually(t, fmt.Sprintf("%d requests in the log", n), func() bool {
		var err error
		all, err = s.Requests(time.Time{}, time.Time{})
		testrig.Must(t, err)
		return len(all) >= n
	})
	return all
}

func TestStartFails(t *testing.T) {
	needNginx(t)
	_, err := Start(Options{Root: t.TempDir(), Addr: "203.0.113.7", Port: 18474, Probe: func() error { return os.ErrClosed }})
	if err == nil || !strings.Contains(err.Error(), "203.0.113.7:18474") {
		t.Errorf("error %v, want one with the address", err)
	}
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "bench-serve-*"))
	for _, dir := range left {
		b, _ := os.ReadFile(filepath.Join(dir, "nginx.conf"))
		if strings.Contains(string(b), "203.0.113.7") {
			t.Errorf("%s is left", dir)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add(`1700000000.123 0.004 206 100 400 "bytes=0-99" "GET /image HTTP/1.1"`)
	f.Add(`1700000000.123 0.004 400 0 0 "-" ""`)
	f.Add(`1e309 NaN 206 -1 400 "" ""`)
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parseLine(line)
		if err == nil && strings.Contains(r.Method, " ") {
			t.Errorf("method %q", r.Method)
		}
	})
}

// TestFreezeKillRestart looks at a server that is frozen, then killed, from a client's side.
func TestFreezeKillRestart(t *testing.T) {
	needNginx(t)
	root := t.TempDir()
	testrig.WriteFile(t, filepath.Join(root, "f"), "content")
	s, err := Start(Options{Root: root, Addr: "127.0.0.1", Port: testrig.FreePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(bad string) error {
		client.Timeout = testrig.Patience
		if bad == "exceeded" {
			client.Timeout = 300 * time.Millisecond
		}
		resp, err := client.Get(s.URL("f"))
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	steps := []struct {
		name string
		do   func() error
		bad  string // part of the error that a client gets; "" for none
	}{
		{"started", func() error { return nil }, ""},
		{"frozen", s.Freeze, "exceeded"},
		{"thawed", s.Thaw, ""},
		{"killed", s.Kill, "refused"},
		{"started again", s.Restart, ""},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		err := get(step.bad)
		if step.bad == "" && err != nil || step.bad != "" && (err == nil || !strings.Contains(err.Error(), step.bad)) {
			t.Errorf("%s: %v, want %q", step.name, err, step.bad)
		}
	}
}
