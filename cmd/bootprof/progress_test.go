package main

import (
	"bytes"
	"testing"
	"time"
)

func TestProgressLine(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		spent       time.Duration
		want        string
	}{
		{0, 0, 61 * time.Second, "packing: 1m1s"},
		{0, 10e6, time.Second, "packing: 1s"},
		{4e6, 10e6, 2 * time.Second, "packing: 40 %, 4.0 MB of 10.0 MB, 2.0 MB/s, 3s left"},
		{1e6, 7e12, time.Second, "packing: 0 %, 1.0 MB of 7.0 TB, 1.0 MB/s, 1944h26m39s left"},
		{10e6, 10e6, 5 * time.Second, "packing: 100 % of 10.0 MB, finishing: 5s"},
		{1, 10, 0, "packing: 10 %, 1 B of 10 B, 1.0 kB/s, 0s left"},
	} {
		if got := progressLine("packing", c.done, c.total, c.spent); got != c.want {
			t.Errorf("%d of %d after %v: %q, want %q", c.done, c.total, c.spent, got, c.want)
		}
	}
}

// A line for people goes above the progress, and nothing of that is left at the end.
func TestProgressLeavesNothing(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "packing")
	p.set(1, 2)
	p.draw(p.began)
	p.line("told")
	p.step("signing")
	p.draw(p.began.Add(3 * time.Second))
	p.close()
	p.draw(time.Now())
	p.close()
	want := "\rpacking: 50 %, 1 B of 2 B, 1.0 kB/s, 0s left\x1b[K\r\x1b[Ktold\n\rsigning: 3s\x1b[K\r\x1b[K"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
