package mountclient

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// soakEnv is how long TestSoak reads: see make soak. Without it, a few seconds.
const soakEnv = "SOAK"

// soakRound is the length of one mount. A mirror that lied is dropped for good: the next mount has both again.
const soakRound = 20 * time.Second

// soakFaults are what happens to a mirror for a time.
func soakFaults(p *testPack, other []byte) map[string]func(*faultserver.Server) {
	always := func(f func() *faultserver.Fault) func(*faultserver.Server) {
		return func(s *faultserver.Server) { s.Script(faultserver.Always(f())) }
	}
	return map[string]func(*faultserver.Server){
		"stop":    func(s *faultserver.Server) { s.Stop() },
		"freeze":  always(faultserver.Hang),
		"cut":     always(func() *faultserver.Fault { return faultserver.Cut(rand.Int64N(100_000)) }),
		"503":     always(func() *faultserver.Fault { return faultserver.Status(503) }),
		"corrupt": always(faultserver.FlipMiddle),
		"slow":    always(func() *faultserver.Fault { return faultserver.Slow(20_000) }),
		"other":   func(s *faultserver.Server) { s.Replace(other, `"other"`) },
	}
}

// A soak counts what was done.
type soak struct {
	Reads, Bytes int64
	Longest      time.Duration // read
	faults       map[string]int
	mounts       int
	moved        int64 // bytes that came from the servers
}

// Random reads through real mounts see the image's bytes and no error, whatever happens to one or both mirrors.
func TestSoak(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	total, round := 5*time.Second, 2500*time.Millisecond
	if v := os.Getenv(soakEnv); v != "" {
		var err error
		if total, err = time.ParseDuration(v); err != nil || total <= 0 {
			t.Fatalf("%s=%s: want a duration such as 10m", soakEnv, v)
		}
		round = min(total, soakRound)
	}
	p, other := packOf(t, hotAndCold), packOf(t, noZone).raw
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, p.image, 0o600); err != nil {
		t.Fatal(err)
	}
	all := &soak{faults: map[string]int{}}
	begin := time.Now()
	for time.Since(begin) < total && !t.Failed() {
		kind := []string{"raw", "file system", "raw", "loop device"}[all.mounts%4]
		all.mounts++
		// A test of its own, so that its watchdog and servers end with it.
		t.Run(fmt.Sprintf("%d, %s", all.mounts, kind), func(t *testing.T) {
			all.round(t, p, other, image, kind, min(round, max(total-time.Since(begin), time.Second)))
		})
		if os.Getenv(soakEnv) != "" {
			t.Logf("after %v: %v", time.Since(begin).Round(time.Second), all)
		}
	}
	t.Logf("%v in all: %v", time.Since(begin).Round(time.Second), all)
	if all.Reads == 0 || len(all.faults) == 0 {
		t.Error("nothing was done")
	}
}

func (s *soak) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d mounts, %d reads of %d MB, %d MB of the network, longest read %v, faults:", s.mounts, s.Reads, s.Bytes>>20, s.moved>>20, s.Longest.Round(time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(s.faults)) {
		fmt.Fprintf(&b, " %s %d", name, s.faults[name])
	}
	return b.String()
}

// round mounts the image, reads for a time while faults come and go, and unmounts it.
func (s *soak) round(t *testing.T, p *testPack, other []byte, image, kind string, d time.Duration) {
	watchdogAfter(t, d+hangs)
	a, b := p.serve(t), p.serve(t)
	o := mountOptions(t, a.URL("pack.bpk")+","+b.URL("pack.bpk"), func(o *MountOptions) {
		o.Raw, o.Loop, o.MemoryBytes, o.StartTimeout = kind == "raw", kind == "loop device", bpk.PageSize, 0
	})
	m, err := Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Mounted: m, t: t, dir: o.Dir, run: o.RunDir, loop: -1}
	source, mounted := p.source, r.dir
	if o.Raw {
		source, mounted = image, filepath.Join(r.dir, "image")
	}
	cmd, out := role(roleSoak, source, mounted, d.String())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		over.Store(true)
	}()
	s.trouble(p, other, []*faultserver.Server{a, b}, d, over.Load)
	if err := <-ended; err != nil {
		t.Errorf("%s: %v\n%s", kind, err, out)
	} else {
		var one soak
		if err := json.Unmarshal([]byte(out.String()), &one); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		s.Reads, s.Bytes, s.Longest = s.Reads+one.Reads, s.Bytes+one.Bytes, max(s.Longest, one.Longest)
	}
	s.moved += m.Client.fetch.src.count.bytes.Load()
	r.unmount()
}

// trouble makes faults for d, or until over, and heals them.
func (s *soak) trouble(p *testPack, other []byte, servers []*faultserver.Server, d time.Duration, over func() bool) {
	faults := soakFaults(p, other)
	names := slices.Sorted(maps.Keys(faults))
	pause := func(most time.Duration) { // at random, so that faults meet the client in any state
		for end := time.Now().Add(most/4 + rand.N(most)); time.Now().Before(end) && !over(); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	for begin := time.Now(); time.Since(begin) < d && !over(); {
		pause(d / 10)
		name := names[rand.IntN(len(names))]
		hit := servers[:]
		if only := rand.IntN(3); only < len(servers) {
			hit = servers[only : only+1]
		} else {
			name += " of both"
		}
		s.faults[name]++
		for _, server := range hit {
			faults[strings.TrimSuffix(name, " of both")](server)
		}
		pause(d / 10)
		for _, server := range hit {
			server.Replace(p.raw, `"v1"`)
			server.Script(nil)
			if err := server.Start(); err != nil {
				panic(err)
			}
		}
	}
}
