package mountclient

import (
	"strings"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// Mirrors are seen with what they did, causes add up to all bytes, and the last error is told.
func TestStatusOfMirrors(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	good, bad := p.serve(t), p.serve(t)
	good.Script(faultserver.Always(faultserver.Slow(8 << 20))) // or else it is too fast to be measured
	bad.Script(faultserver.Always(faultserver.Status(404)))
	c, _ := openMirrors(t, nil, good, bad)
	c.fetch.setInUse()
	checkImage(t, c, p.image, 128<<10)
	s := (&Mounted{Client: c}).Status()
	if len(s.Mirrors) != 2 || s.Mirrors[0].Name == s.Mirrors[1].Name {
		t.Fatalf("%+v", s.Mirrors)
	}
	a, b := s.Mirrors[0], s.Mirrors[1]
	if a.State != "used" || a.Bytes == 0 || a.Throughput == 0 || a.LatencySeconds == 0 {
		t.Errorf("the good one: %+v", a)
	}
	if b.State != "resting" || b.Bytes != 0 || b.Faults == 0 {
		t.Errorf("the bad one: %+v", b)
	}
	if a.Requests+b.Requests != s.Requests || a.Bytes+b.Bytes != s.Bytes {
		t.Errorf("%d requests and %d bytes, by mirrors: %+v", s.Requests, s.Bytes, s.Mirrors)
	}
	if by := s.ByCause; by.Boot+by.Demand+by.Readahead+by.Damaged+by.Fill != s.Bytes || by.Boot == 0 || by.Demand == 0 {
		t.Errorf("%d bytes by causes %+v", s.Bytes, by)
	}
	if !strings.Contains(s.LastError, "404") || s.LastErrorSeconds <= 0 || s.LastErrorSeconds > s.UpSeconds {
		t.Errorf("last error %q at %v", s.LastError, s.LastErrorSeconds)
	}
}

// A single server is seen, too; so are bytes that came again because they were damaged.
func TestStatusOfOneServer(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	server := p.serve(t)
	c := openClient(t, server, nil)
	t.Cleanup(func() { c.Close() })
	c.fetch.setInUse()
	testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
	server.Script(faultserver.First(1, faultserver.FlipMiddle()))
	checkImage(t, c, p.image, 128<<10)
	s := (&Mounted{Client: c}).Status()
	if len(s.Mirrors) != 1 || s.Mirrors[0].Bytes != s.Bytes || s.Mirrors[0].State != "used" {
		t.Errorf("%+v", s.Mirrors)
	}
	if by := s.ByCause; by.Damaged == 0 || by.Boot+by.Demand+by.Readahead+by.Damaged+by.Fill != s.Bytes {
		t.Errorf("%d bytes by causes %+v", s.Bytes, by)
	}
	if s.LastError == "" {
		t.Error("no last error after a damaged chunk")
	}
}

// The misses are all pages outside the boot zone that were read, each once, and no boot page.
func TestMissesAreColdPages(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	c := openClient(t, p.serve(t), nil)
	t.Cleanup(func() { c.Close() })
	checkImage(t, c, p.image, 128<<10)
	m := c.Misses()
	seen := make(map[int64]bool)
	last := int64(0)
	for _, miss := range m.List {
		if miss.AfterNS < last {
			t.Fatalf("%+v is out of order", miss)
		}
		last = miss.AfterNS
		for page := miss.Page; page < miss.Page+miss.Pages; page++ {
			if _, hot := c.index.Position(page); hot || seen[page] {
				t.Fatalf("page %d is in the boot zone, or a miss twice", page)
			}
			seen[page] = true
		}
	}
	if want := c.head.ImageSize/bpk.PageSize - c.head.BootPages; int64(len(seen)) != want || m.Dropped != 0 {
		t.Errorf("%d pages missed, want %d; %d dropped", len(seen), want, m.Dropped)
	}
}

// The list of misses is bounded, and says what it leaves out.
func TestMissesBounded(t *testing.T) {
	t.Parallel()
	c := openClient(t, packOf(t, hotAndCold).serve(t), nil)
	t.Cleanup(func() { c.Close() })
	var l missLog
	var cold []*flight
	for i := range int64(maxMisses + 10) {
		cold = append(cold, &flight{entry: bpk.Entry{Page: c.head.ImageSize/bpk.PageSize + i, Pages: 1}})
	}
	l.add(c.index, c.started, cold, false)
	l.add(c.index, c.started, cold[:5], false)
	if len(l.list) != maxMisses || l.dropped != 10 {
		t.Errorf("%d misses kept, %d dropped", len(l.list), l.dropped)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	c, log := openMirrors(t, nil, s)
	checkImage(t, c, p.image, 128<<10)
	(&Mounted{Client: c, opts: MountOptions{Options: c.opts}}).report()
	said := log.String()
	for _, want := range []string{"boot is over", "coverage=", "ready=", "hot=", "stalled=", "misses="} {
		if !strings.Contains(said, want) || strings.Count(said, "\n") != 1 {
			t.Errorf("%q has no %s, or more than one line", said, want)
		}
	}
}
