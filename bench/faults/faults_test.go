package faults

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/bench"
	"bootprof/bench/link"
)

func TestCorrupt(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	if err := os.MkdirAll(filepath.Join(store, "ab"), 0o755); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1e9, 0)
	sizes := map[string]int{"image": 3 << 20, "index.caibx": 1000, "store/ab/chunk": 1000, "store/ab/empty": 0}
	for name, size := range sizes {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	lying := filepath.Join(dir, "lying")
	copies, err := corruptAll([]string{filepath.Join(dir, "image"), filepath.Join(dir, "index.caibx"), store}, lying)
	if err != nil || len(copies) != 3 || copies[0] != filepath.Join(lying, "image") {
		t.Fatalf("%v, %v", copies, err)
	}
	for name, wrong := range map[string]int{"image": (3<<20 - intact) / corruptEvery, "index.caibx": 0, "store/ab/chunk": 1, "store/ab/empty": 0} {
		b, err := os.ReadFile(filepath.Join(lying, name))
		if err != nil {
			t.Fatal(err)
		}
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
		if err := os.WriteFile(image, c.image, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(right, truth, 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := startReader(image, right)
		if err != nil {
			t.Fatal(err)
		}
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

// A download with a fault of a second in it goes on where packets were lost, ends where its connection was, and is not verified.
func TestFetchAll(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, bytes.Repeat([]byte{1, 2, 3, 4}, 2<<20/4), 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"8 s outage": "survives", "server down": "does not start: curl", "frozen server": "survives", "lying mirror": "wrong bytes in 28 of 32 reads, no error",
	}
	for _, f := range All() {
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			f.length = time.Second
			o := Try(context.Background(), bench.FetchAllSource("fetch-all", image), link.Params{Bits: 4e6}, f)
			if got := o.String(); !strings.HasPrefix(got, want[f.Name]) {
				t.Errorf("%q, want %q", got, want[f.Name])
			}
		})
	}
}

// A source that does not start is told, and leaves nothing.
func TestTryDoesNotStart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 10*blockBytes), 0o644); err != nil {
		t.Fatal(err)
	}
	p := bench.Peer{Name: "none", Served: image, Commands: func(m bench.PeerMount) []bench.PeerCommand {
		return []bench.PeerCommand{{Args: []string{"sh", "-c", "echo no luck with " + m.Name + " >&2; exit 3"}}}
	}}
	for _, f := range All() {
		o := Try(context.Background(), bench.PeerSource(p, image), link.Params{Bits: 1e9}, f)
		if !strings.Contains(o.Client, "no luck with image") {
			t.Errorf("%s: %+v", f.Name, o)
		}
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(b, []byte(" "+temp)) {
		t.Errorf("a mount is left:\n%s", b)
	}
}
