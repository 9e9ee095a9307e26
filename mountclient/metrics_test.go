package mountclient

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The text of every metric is HELP, TYPE, sample, in that order, under one name; net/http reads the answer.
func TestMetricsOverSocket(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			answer(conn, Status{Misses: 7, StalledSeconds: 0.25})
		}
	}()
	client := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) {
		return net.Dial("unix", l.Addr().String())
	}}}
	resp, err := client.Get("http://x/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	group := regexp.MustCompile(`\A# HELP (bootprof_[a-z_]+) [^\n]+\n# TYPE (bootprof_[a-z_]+) (counter|gauge)\n(bootprof_[a-z_]+) ([0-9.e+-]+)\n`)
	values := map[string]string{}
	for rest := string(text); rest != ""; {
		f := group.FindStringSubmatch(rest)
		if f == nil || f[1] != f[2] || f[1] != f[4] || values[f[1]] != "" || strings.HasSuffix(f[1], "_total") != (f[3] == "counter") {
			t.Fatalf("not a metric: %.200q", rest)
		}
		values[f[1]], rest = f[5], rest[len(f[0]):]
	}
	if values["bootprof_misses_total"] != "7" || values["bootprof_stalled_seconds_total"] != "0.25" {
		t.Fatal(values)
	}
}
