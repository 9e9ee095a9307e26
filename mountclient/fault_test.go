package mountclient

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"time"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// passing are the faults of a network or a server that pass by themselves, after a few requests.
func passing() []*faultserver.Fault {
	return []*faultserver.Fault{
		nil,
		faultserver.Cut(0), faultserver.Cut(10_000),
		faultserver.Status(500), faultserver.Status(503, "Retry-After", "1"), faultserver.Status(429),
		faultserver.Headers(100_000), faultserver.ShortRange(9000), faultserver.Slow(2 << 20), faultserver.Redirect("/loop"),
	}
}

// onceInUse are those that end a start, but not a mount in use.
func onceInUse() []*faultserver.Fault {
	return []*faultserver.Fault{
		faultserver.Status(404), faultserver.Status(403), faultserver.NotSatisfiable(), faultserver.HTML(), faultserver.FullBody(),
		faultserver.WrongRange(4096), faultserver.ContentRange(""), faultserver.Gzip(), faultserver.ETag(`"v2"`), faultserver.FlipMiddle(),
	}
}

func faultName(f *faultserver.Fault) string {
	if f == nil {
		return "no fault"
	}
	return f.Name
}

// At the start, what passes is waited out.
func TestFaultAtTheStart(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	for _, f := range append(passing(), faultserver.Stall(100), faultserver.Hang()) {
		t.Run(faultName(f), func(t *testing.T) {
			t.Parallel()
			watchdog(t)
			s := p.serve(t)
			if f != nil {
				s.Script(faultserver.First(5, f))
			}
			if faultName(f) == "stall" || faultName(f) == "hang" { // ends when the network returns
				time.AfterFunc(300*time.Millisecond, func() { s.Script(nil) })
			}
			r := mountPack(t, s, nil)
			r.compare(p)
			r.unmount()
		})
	}
}

// A server that is not there yet is waited for.
func TestServerComesLater(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	s.Stop()
	time.AfterFunc(500*time.Millisecond, func() {
		if err := s.Start(); err != nil {
			t.Error(err)
		}
	})
	r := mountPack(t, s, nil)
	r.compare(p)
	r.unmount()
}

// While the boot zone is still coming, no fault reaches a reader, and the zone is completed.
func TestFaultWhilePreloading(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	for _, f := range append(passing(), onceInUse()...) {
		t.Run(faultName(f), func(t *testing.T) {
			t.Parallel()
			watchdog(t)
			s := p.serve(t)
			s.Script(beyondOpening)
			r := mountPack(t, s, nil)
			if r.Client.hot.Load() > 0 {
				t.Fatal("the boot zone is complete before its bytes came")
			}
			if f == nil {
				s.Script(nil)
			} else {
				s.Script(faultserver.First(6, f))
			}
			r.compare(p)
			r.hot()
			if st := r.Status(); st.BootPagesLoaded != st.BootPages {
				t.Errorf("%d of %d boot pages", st.BootPagesLoaded, st.BootPages)
			}
			r.unmount()
		})
	}
}

// After the preload, no fault reaches a reader of cold pages.
func TestFaultAfterwards(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	for _, f := range append(passing(), onceInUse()...) {
		t.Run(faultName(f), func(t *testing.T) {
			t.Parallel()
			watchdog(t)
			s := p.serve(t)
			r := mountPack(t, s, nil)
			r.hot()
			if f != nil {
				s.Script(faultserver.First(4, f))
			}
			r.compare(p)
			if f != nil && f.Name == "flip" && r.Status().DamagedChunks == 0 {
				t.Error("no damaged chunk counted")
			}
			r.unmount()
		})
	}
}

// An outage of any kind makes readers wait, and lets them go on when it is over.
func TestOutage(t *testing.T) {
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	other := bytes.Clone(p.raw)
	other[len(other)-1] ^= 1
	for name, out := range map[string]func(s *faultserver.Server){
		"refused, loop": func(s *faultserver.Server) { outage(s, 700*time.Millisecond) },
		"refused":       func(s *faultserver.Server) { outage(s, 700*time.Millisecond) },
		"hangs": func(s *faultserver.Server) {
			s.Script(faultserver.Always(faultserver.Hang()))
			time.Sleep(500 * time.Millisecond)
			s.Script(nil)
		},
		"stalls": func(s *faultserver.Server) {
			s.Script(faultserver.Always(faultserver.Stall(100)))
			time.Sleep(500 * time.Millisecond)
			s.Script(nil)
		},
		"file gone": func(s *faultserver.Server) {
			s.Script(faultserver.Always(faultserver.Status(404)))
			time.Sleep(500 * time.Millisecond)
			s.Script(nil)
		},
		"file replaced by one of the same size": func(s *faultserver.Server) {
			s.Replace(other, `"v2"`)
			time.Sleep(500 * time.Millisecond)
			s.Replace(p.raw, `"v1"`)
		},
		"file replaced by a shorter one": func(s *faultserver.Server) {
			s.Replace(other[:len(other)/2], "")
			time.Sleep(500 * time.Millisecond)
			s.Replace(p.raw, `"v1"`)
		},
		"damaged bytes": func(s *faultserver.Server) {
			s.Script(faultserver.Always(faultserver.FlipMiddle()))
			time.Sleep(500 * time.Millisecond)
			s.Script(nil)
		},
	} {
		for _, hot := range []bool{false, true} {
			for _, procs := range []int{0, 1} {
				if procs == 1 && name != "refused" {
					continue
				}
				t.Run(name, func(t *testing.T) {
					if procs == 0 {
						t.Parallel()
					} else {
						defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
					}
					watchdog(t)
					s := p.serve(t)
					r := mountPack(t, s, func(o *MountOptions) { o.Loop = strings.HasSuffix(name, "loop") })
					if hot {
						r.hot()
					}
					r.compareDuring(p, func() { out(s) })
					r.hot()
					r.unmount()
				})
			}
		}
	}
}

// With --raw the same holds for the image file.
func TestOutageRaw(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, noZone)
	s := p.serve(t)
	r := mountPack(t, s, func(o *MountOptions) { o.Raw = true })
	cmd, out := role(roleSum, r.dir+"/image")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	outage(s, 500*time.Millisecond)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	r.unmount()
}

// With Options.Timeout a reader gets an error after it, and the mount lives on.
func TestTimeoutReachesTheReader(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, noZone)
	s := p.serve(t)
	r := mountPack(t, s, func(o *MountOptions) { o.Timeout = 200 * time.Millisecond })
	s.Script(faultserver.Always(faultserver.Hang()))
	if code, out := runRole(t, roleTouch, r.dir+"/big/file-0"); code == 0 {
		t.Errorf("reading without a server: %s", out)
	}
	s.Script(nil)
	testrig.Eventually(t, "the tree with the server back", func() bool { // a busy machine may miss the time-out again
		code, _ := runRole(t, roleCompare, p.source, r.dir)
		return code == 0
	})
	r.unmount()
}

// A cache disk that fills up is no fault for a reader.
func TestMountWithFullCacheDisk(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	dir := tmpfs(t, 2000)
	s := p.serve(t)
	for range 2 {
		r := mountPack(t, s, func(o *MountOptions) { o.CacheDir = dir })
		r.compare(p)
		r.unmount()
	}
}
