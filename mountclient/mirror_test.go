package mountclient

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// openMirrors opens a client of several servers and returns what it logs.
func openMirrors(t *testing.T, change func(*Options), servers ...*faultserver.Server) (*Client, *syncBuffer) {
	t.Helper()
	log := &syncBuffer{}
	c := openClient(t, servers[0], func(o *Options) {
		var urls []string
		for _, s := range servers {
			urls = append(urls, s.URL("pack.bpk"))
		}
		o.URL, o.Log = strings.Join(urls, ","), NewLog(log, 0)
		if change != nil {
			change(o)
		}
	})
	t.Cleanup(func() { c.Close() })
	return c, log
}

func sent(s *faultserver.Server) (n int64) {
	for _, r := range s.Requests() {
		n += r.Sent
	}
	return n
}

func TestSplitURLs(t *testing.T) {
	for list, want := range map[string][]string{
		"http://a/x":                          {"http://a/x"},
		"http://a/x,https://b/y,file:///z":    {"http://a/x", "https://b/y", "file:///z"},
		"http://a/x,y?z=1,2,http://b/c":       {"http://a/x,y?z=1,2", "http://b/c"},
		"http://a/x?from=1,2/http://c/d":      {"http://a/x?from=1,2/http://c/d"},
		"":                                    {""},
		"http://me:secret,https@a/x,http://b": {"http://me:secret,https@a/x", "http://b"},
	} {
		if got := SplitURLs(list); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
}

// The preload is given out by throughput, and in pieces that end at about the same time.
func TestPiecesByThroughput(t *testing.T) {
	synctest.Test(t, testPiecesByThroughput) // no time passes while it computes
}

func testPiecesByThroughput(t *testing.T) {
	f := &fetcher{network: &network{log: testLog(t)}}
	rates := []float64{8e6, 2e6, 0.5e6} // the last is too slow to have a part
	for _, rate := range rates {
		f.mirrors = append(f.mirrors, &httpSource{mirror: &mirror{rate: rate, tried: time.Now()}})
	}
	left, got := map[*httpSource]int64{}, map[*httpSource]int64{}
	step := 5 * time.Millisecond
	for range 2 * time.Second / step {
		for s, n := f.freest(left); s != nil; s, n = f.freest(left) {
			left[s] += n
			got[s] += n
		}
		for i, s := range f.mirrors {
			left[s] = max(0, left[s]-int64(rates[i]*step.Seconds()))
			s.mirror.tried = time.Now()
		}
	}
	fast, slow, none := got[f.mirrors[0]], got[f.mirrors[1]], got[f.mirrors[2]]
	if fast < slow*3 || fast > slow*5 || none != 0 {
		t.Errorf("%d bytes from 8 MB/s, %d from 2 MB/s, %d from 0.5 MB/s", fast, slow, none)
	}
	f.mirrors[2].mirror.tried = time.Now().Add(-2 * probeAfter)
	if s, n := f.freest(left); s != f.mirrors[2] || n != leastPiece {
		t.Errorf("a mirror that was slow long ago is not tried again: %d bytes are given out", n)
	}
}

// Two healthy mirrors share the work, and a byte is fetched twice only where one was late. How evenly they share it
// is up to a busy machine.
func TestMirrorsShare(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	a, b := p.serve(t), p.serve(t)
	for _, s := range []*faultserver.Server{a, b} {
		s.Script(faultserver.Always(faultserver.Slow(8 << 20)))
	}
	c, _ := openMirrors(t, nil, a, b)
	checkImage(t, c, p.image, 256<<10)
	if fromA, fromB := sent(a), sent(b); fromA == 0 || fromB == 0 {
		t.Errorf("%d bytes from one and %d from the other of two equal mirrors", fromA, fromB)
	}
	if n := c.fetch.wasted.Load(); n > c.fetch.src.count.bytes.Load()/hedgeShare+hedgeFloor {
		t.Errorf("%d bytes thrown away of %d", n, c.fetch.src.count.bytes.Load())
	}
}

// illWithin bounds the reading of a whole image from two mirrors one of which is ill.
const illWithin = 15 * time.Second

// With one mirror ill in any way, from the start or later, readers get the other's bytes, soon.
func TestMirrorIll(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, lean)
	late := watchLateness(t)
	other := bytes.Clone(p.raw)
	other = append(other, make([]byte, 4096)...)
	ills := map[string]func(s *faultserver.Server){
		"gone":           func(s *faultserver.Server) { s.Stop() },
		"frozen":         func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.Hang())) },
		"frozen in body": func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.Stall(5000))) },
		"cut":            func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.Cut(5000))) },
		"not found":      func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.Status(404))) },
		"overloaded": func(s *faultserver.Server) {
			s.Script(faultserver.Always(faultserver.Status(503, "Retry-After", "60")))
		},
		"portal":          func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.HTML())) },
		"without ranges":  func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.FullBody())) },
		"other file":      func(s *faultserver.Server) { s.Replace(other, `"other"`) },
		"lying":           func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.FlipMiddle())) },
		"wrong range":     func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.WrongRange(4096))) },
		"redirects round": func(s *faultserver.Server) { s.Script(faultserver.Always(faultserver.Redirect("/loop"))) },
	}
	for name, ill := range ills {
		for _, first := range []bool{true, false} {
			for _, phase := range []string{"start", "later"} {
				if phase == "start" && first && name == "other file" {
					continue // then the first answer decides which is the other one; see TestMirrorOfAnotherVersion
				}
				t.Run(name+", "+map[bool]string{true: "first", false: "second"}[first]+", "+phase, func(t *testing.T) {
					t.Parallel()
					watchdog(t)
					good, bad := p.serve(t), p.serve(t)
					servers := []*faultserver.Server{good, bad}
					if first {
						servers = []*faultserver.Server{bad, good}
					}
					if name == "other file" { // its first answer comes second
						bad.Script(faultserver.Always(faultserver.Delay(100 * time.Millisecond)))
					}
					if phase == "start" {
						ill(bad)
					}
					begin := late.outageEnds()
					c, log := openMirrors(t, nil, servers...)
					c.fetch.setInUse()
					if phase == "later" {
						checkImage(t, c, p.image[:1<<20], 64<<10)
						ill(bad)
					}
					checkImage(t, c, p.image, 128<<10)
					if took := time.Since(begin.at); took > begin.bound(illWithin) {
						t.Errorf("took %v, bound %v", took, begin.bound(illWithin))
					}
					if name == "other file" && !strings.Contains(log.String(), "mirror dropped") && sent(bad) > 0 && phase == "start" {
						t.Errorf("the log does not tell of the mirror with another file:\n%s", log)
					}
					if strings.Contains(log.String(), "read fails") {
						t.Errorf("log:\n%s", log)
					}
				})
			}
		}
	}
}

// When all mirrors are gone, at the start, while booting or afterwards, readers wait, and go on with the first that is back.
func TestMirrorsAllGone(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	late := watchLateness(t)
	for _, phase := range matrixPhases {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			watchdog(t)
			a, b := p.serve(t), p.serve(t)
			gone := func() { a.Stop(); b.Stop() }
			opened := make(chan *Client, 1)
			switch phase {
			case "start":
				gone()
				go func() {
					c, _ := openMirrors(t, nil, a, b)
					opened <- c
				}()
			case "booting":
				a.Script(beyondOpening)
				b.Script(beyondOpening)
				fallthrough
			case "after":
				c, _ := openMirrors(t, func(o *Options) { o.MemoryBytes = bpk.PageSize }, a, b)
				c.fetch.setInUse()
				if phase == "after" {
					testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
				} else if c.hot.Load() > 0 {
					t.Fatal("the boot zone is complete before its bytes came")
				}
				gone()
				opened <- c
			}
			b.Script(nil)
			done := make(chan struct{})
			go func() {
				defer close(done)
				c := <-opened
				c.fetch.setInUse()
				checkImage(t, c, p.image, 128<<10)
			}()
			time.Sleep(2500 * time.Millisecond) // the length of the outage
			back := late.outageEnds()
			if err := b.Start(); err != nil {
				t.Fatal(err)
			}
			back.resumed(t, phase, waitAnswer(t, b, back.at), resumeWithin)
			<-done
		})
	}
}

// With a digest, the mirror that has its pack is found, whichever answers first.
func TestMirrorOfAnotherVersion(t *testing.T) {
	v1, v2 := packOf(t, hotAndCold), packOf(t, noZone)
	for _, order := range []string{"old first", "new first"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			servers := []*faultserver.Server{v1.serve(t), v2.serve(t)}
			if order == "new first" {
				slices.Reverse(servers)
			}
			c, _ := openMirrors(t, func(o *Options) { o.Digest = fmt.Sprintf("sha256:%x", v2.pack.Digest) }, servers...)
			checkImage(t, c, v2.image, 256<<10)
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "0": 0, "3": 3 * time.Second, "86400": longRest, "-5": 0, "soon": 0, "1e400": 0,
		"Fri, 02 Jan 2026 03:04:10 GMT": 5 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "Fri, 02 Jan 2099 03:04:00 GMT": longRest,
	} {
		if got := parseRetryAfter(v, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

// A file on a disk is a source like any other, and a mirror of a server.
func TestFileSource(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	path := filepath.Join(t.TempDir(), "lab 1.bpk")
	if err := os.WriteFile(path, p.raw, 0o644); err != nil {
		t.Fatal(err)
	}
	s := p.serve(t)
	for _, url := range []string{"file://" + path, "file://" + path + "," + s.URL("pack.bpk"), s.URL("pack.bpk") + ",file://" + path} {
		c := openClient(t, s, func(o *Options) { o.URL = url })
		checkImage(t, c, p.image, 256<<10)
		c.Close()
	}
	if _, err := Open(t.Context(), Options{URL: "file://" + path + ".none", Log: testLog(t)}); ExitCode(err) != ExitNetwork || !strings.Contains(err.Error(), "404") {
		t.Errorf("a file that is not there: %v, exit code %d", err, ExitCode(err))
	}
}
