package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/bench"
	"bootprof/bench/link"
	"bootprof/bench/serve"
	"bootprof/internal/testrig"
)

func TestCorrupt(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	old := time.Unix(1e9, 0)
	sizes := map[string]int{"image": 3 << 20, "index.caibx": 1000, "store/ab/chunk": 1000, "store/ab/empty": 0}
	for name, size := range sizes {
		path := filepath.Join(dir, name)
		testrig.WriteFile(t, path, make([]byte, size))
		testrig.Must(t, os.Chtimes(path, old, old))
	}
	lying := filepath.Join(dir, "lying")
	copies, err := corruptAll([]string{filepath.Join(dir, "image"), filepath.Join(dir, "index.caibx"), store}, lying)
	if err != nil || len(copies) != 3 || copies[0] != filepath.Join(lying, "image") {
		t.Fatalf("%v, %v", copies, err)
	}
	for name, wrong := range map[string]int{"image": (3<<20 - intact) / corruptEvery, "index.caibx": 0, "store/ab/chunk": 1, "store/ab/empty": 0} {
		b := testrig.ReadFile(t, filepath.Join(lying, name))
		info, err := os.Stat(filepath.Join(lying, name))
		if err != nil || len(b) != sizes[name] || !info.ModTime().Equal(old) {
			t.Errorf("%s: %d bytes of %v, %v", name, len(b), info.ModTime(), err)
		}
		if got := len(b) - bytes.Count(b, []byte{0}); got != wrong {
			t.Errorf("%s: %d bytes wrong, want %d", name, got, wrong)
		}
	}
}

// TestOutcome reads files that stand for images: a right one, a wrong one, one that is too short.
func TestOutcome(t *testing.T) {
	dir := t.TempDir()
	truth := bytes.Repeat([]byte{1, 2, 3, 4}, 10*blockBytes/4)
	wrong := bytes.Clone(truth)
	wrong[5*blockBytes] ^= 1
	for _, c := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"right", truth, "survives"},
		{"wrong", wrong, "wrong bytes in 1 of 10 reads, no error"},
		{"short", truth[:9*blockBytes], "1 reads fail (EOF)"},
		{"short and wrong", wrong[:9*blockBytes], "wrong bytes in 1 of 10 reads, and 1 reads fail (EOF)"},
	} {
		image, right := filepath.Join(dir, "image"), filepath.Join(dir, "truth")
		testrig.WriteFile(t, image, c.image)
		testrig.WriteFile(t, right, truth)
		r, err := startReader(image, right)
		testrig.Must(t, err)
		<-r.done
		if r.end(time.Now()) {
			t.Errorf("%s: hung", c.name)
		}
		if got := r.outcome(time.Now(), false).String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	for want, o := range map[string]Outcome{
		"does not start: no": {Client: "no"},
		"hangs":              {Hung: true, Reads: 3},
		"survives, longest read 8.5 s, goes on after 0.5 s": {Reads: 3, Longest: 8500 * time.Millisecond, After: 500 * time.Millisecond},
	} {
		if !strings.HasPrefix(o.String(), want) {
			t.Errorf("%+v is %q, want %q", o, o.String(), want)
		}
	}
}

// A download with a fault in it goes on where packets were lost, ends where its connection was, and is not verified.
func TestFetchAll(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedDevices(t, "/dev/net/tun")
	testrig.NeedProgram(t, "nginx", "curl", "ip")
	image := filepath.Join(t.TempDir(), "image")
	testrig.WriteFile(t, image, bytes.Repeat([]byte{1, 2, 3, 4}, 2<<20/4))
	want := map[string]string{
		"8 s outage": "survives", "server down": "does not start: curl", "frozen server": "survives", "lying mirror": "wrong bytes in 28 of 32 reads, no error",
	}
	// At 8 Mbit/s the download takes two seconds at least, of which the fault comes in the first. What
	// follows is read to its end.
	var outcomes sync.Map
	var wg sync.WaitGroup
	for _, f := range All() {
		f.before, f.length, f.after = 0, time.Second/2, testrig.Patience
		if begin := f.begin; begin != nil {
			f.begin = func(l *link.Link, s *serve.Server) error {
				testrig.Await(testrig.Patience, func() bool { return l.Stats().Down.Bytes > 100_000 })
				return begin(l, s)
			}
		}
		wg.Go(func() {
			o := Try(t.Context(), bench.FetchAllSource("fetch-all", image), link.Params{Bits: 8e6}, f)
			outcomes.Store(f.Name, o.String())
		})
	}
	wg.Wait()
	for name, want := range want {
		if got, _ := outcomes.Load(name); got == nil || !strings.HasPrefix(got.(string), want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A source that does not start is told, and leaves nothing.
func TestTryDoesNotStart(t *testing.T) {
	testrig.NeedDevices(t, "/dev/net/tun")
	testrig.NeedProgram(t, "nginx", "ip")
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	image := filepath.Join(t.TempDir(), "image")
	testrig.WriteFile(t, image, make([]byte, 10*blockBytes))
	p := bench.Peer{Name: "none", Served: image, Commands: func(m bench.PeerMount) []bench.PeerCommand {
		return []bench.PeerCommand{{Args: []string{"sh", "-c", "echo no luck with " + m.Name + " >&2; exit 3"}}}
	}}
	for _, f := range All() {
		o := Try(t.Context(), bench.PeerSource(p, image), link.Params{Bits: 1e9}, f)
		if !strings.Contains(o.Client, "no luck with image") {
			t.Errorf("%s: %+v", f.Name, o)
		}
	}
	for _, m := range testrig.Mounts() {
		if strings.HasPrefix(m.Path, temp) {
			t.Errorf("a mount is left: %+v", m)
		}
	}
}
