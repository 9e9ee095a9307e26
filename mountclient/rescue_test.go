package mountclient

import (
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// One of two mirrors that is ill from the start does not hold up the boot zone: what it had to bring is brought by the
// other one, long before the mirror's own time-outs, and within the bytes that this may cost.
func TestMirrorsRescue(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	late := watchLateness(t)
	zone := p.pack.Header.Boot.PackOff + p.pack.Header.Boot.Len
	for name, c := range map[string]struct {
		ill  *faultserver.Fault
		most int64 // bytes that the other one may have to give, beside the zone
	}{
		"slow":           {faultserver.Slow(50 << 10), 64 << 10},
		"never answers":  {faultserver.Hang(), 64 << 10},
		"stalls in body": {faultserver.Stall(3000), 64 << 10},
		"lies":           {faultserver.FlipMiddle(), zone}, // a piece is 40 ms of a mirror's throughput: on loopback, all of it
	} {
		for _, first := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", first", false: ", second"}[first], func(t *testing.T) {
				t.Parallel()
				begin := late.outageEnds()
				good, bad := p.serve(t), p.serve(t)
				bad.Script(faultserver.Always(c.ill))
				servers := []*faultserver.Server{good, bad}
				if first {
					servers = []*faultserver.Server{bad, good}
				}
				client, _ := openMirrors(t, nil, servers...)
				client.fetch.setInUse()
				testrig.Eventually(t, "the boot zone", func() bool { return client.hot.Load() > 0 })
				if hot, bound := time.Duration(client.hot.Load()), begin.bound(bodyPatience); hot > bound {
					t.Errorf("the boot zone took %v, bound %v", hot, bound)
				} else {
					t.Logf("%v", hot)
				}
				if n := sent(good); n > zone+openingBytes+c.most {
					t.Errorf("%d bytes from the good mirror, the zone is %d", n, zone)
				}
				checkImage(t, client, p.image, 128<<10)
			})
		}
	}
}

// After the first damaged chunk, what the mirror has given besides is asked for elsewhere in few requests, not chunk by chunk.
func TestMirrorsDistrust(t *testing.T) {
	p := packOf(t, hotAndCold)
	good, bad := p.serve(t), p.serve(t)
	bad.Script(faultserver.Always(faultserver.FlipMiddle()))
	c, log := openMirrors(t, nil, bad, good)
	c.fetch.setInUse()
	testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
	if n := strings.Count(log.String(), "damaged chunk"); n > len(c.index.Chunks)/2 {
		t.Errorf("%d of %d chunks were found damaged one after the other", n, len(c.index.Chunks))
	}
	if n := len(good.Requests()); n > 3*len(openingSegments) {
		t.Errorf("%d requests to the good mirror", n)
	}
	checkImage(t, c, p.image, 128<<10)
}

// Cutting, moving and distrusting segments in any order leaves every byte with one segment, which knows its worker.
func TestSegmentsStayDisjoint(t *testing.T) {
	f := &fetcher{network: &network{log: testLog(t)}}
	for range 2 {
		f.mirrors = append(f.mirrors, &httpSource{mirror: &mirror{rate: 1e6, shared: true}})
	}
	p := &preload{fetch: f, left: make(map[*httpSource]int64)}
	p.come, p.free = sync.NewCond(&p.mu), sync.NewCond(&p.mu)
	p.need(span{0, 1 << 20})
	check := func(step string) {
		t.Helper()
		end := int64(0)
		for _, s := range p.sorted {
			if s.off != end || s.end < s.off || s.filled > s.end-s.off {
				t.Fatalf("%s: segment [%d %d) with %d bytes behind %d", step, s.off, s.end, s.filled, end)
			}
			end = s.end
		}
		if end != 1<<20 || len(p.segs) != len(p.sorted) {
			t.Fatalf("%s: segments up to %d; %d in order of need, %d by offset", step, end, len(p.segs), len(p.sorted))
		}
	}
	take := func(src *httpSource, n, filled int64) {
		s := p.segs[p.next]
		if s.end-s.off > n {
			p.split(s, n, p.next+1)
		}
		s.src, s.filled = src, min(filled, s.end-s.off)
		p.left[src] += s.end - s.off - s.filled
		p.next++
	}
	a, b := f.mirrors[0], f.mirrors[1]
	take(a, 100_000, 100_000)
	take(b, 100_000, 40_000)
	take(a, 100_000, 0)
	take(b, 100_000, 100_000)
	check("taken")
	p.distrust(b, 150_000)
	check("distrusted in the middle")
	if got := p.have(0); got != 140_000 {
		t.Errorf("%d bytes are there, want 140000", got)
	}
	for i := p.next; i < len(p.segs) && p.segs[i].opening; i++ {
		if p.segs[i].src != a {
			t.Errorf("[%d %d) is not asked for from the other mirror", p.segs[i].off, p.segs[i].end)
		}
	}
	b.mirror.forgive()
	p.distrust(a, 0)
	check("distrusted wholly")
	if got := p.have(0); got != 0 {
		t.Errorf("%d bytes are there of those that are not trusted", got)
	}
}
