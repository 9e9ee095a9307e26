package bench

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/bench/lab"
	"bootprof/bench/link"
	"bootprof/internal/testrig"
)

// standInPeer is a peer of a few lines: it fetches the image, in two programs of which one waits for the other, and keeps count
// of its boots in its cache. The last one ends with its mount, the first one by SIGTERM.
func standInPeer(name, image string) Peer {
	const serve = `set -e
test -s "$WORK/first"; echo boot >>"$CACHE/boots"; wc -l <"$CACHE/boots" >"$WORK/boots"
mount -t tmpfs tmpfs "$DIR"; curl -sS -o "$DIR/.part" "$URL"; mv "$DIR/.part" "$DIR/$NAME"
while mountpoint -q "$DIR"; do sleep 0.01; done`
	return Peer{
		Name: name, Served: image, Warm: []string{"curl"},
		Commands: func(m PeerMount) []PeerCommand {
			first := filepath.Join(m.Work, "first")
			return []PeerCommand{
				{Args: []string{"sh", "-c", `echo there >"$0"; exec sleep 1000`, first}, Await: first},
				{Args: []string{"sh", "-c", serve}, Env: []string{"URL=" + m.Bases[0] + "/" + m.Name,
					"DIR=" + m.Dir, "WORK=" + m.Work, "CACHE=" + m.Cache, "NAME=" + m.Name}},
			}
		},
	}
}

func TestPeerWay(t *testing.T) {
	testrig.Slow(t)
	image, temp := makeImage(t), ownTemp(t)
	info, err := os.Stat(image)
	testrig.Must(t, err)
	filled := standInPeer("filled", image).Way()
	fill := standInPeer("filled", image).Way()
	filled.Fill = &fill
	counts := map[string][]byte{}
	for _, w := range []*Way{&filled} {
		open := w.Open
		w.Open = func(ctx context.Context, r *Run) error {
			err := open(ctx, r)
			counts[w.Name], _ = os.ReadFile(filepath.Join(r.Work, "boots"))
			return err
		}
	}
	bad := Peer{Name: "bad", Served: image, Commands: func(PeerMount) []PeerCommand {
		return []PeerCommand{{Args: []string{"sh", "-c", "echo no luck >&2; exit 3"}}}
	}}
	var said bytes.Buffer
	results, err := Measure(context.Background(), Config{
		Link: link.Params{Bits: 100e6, RTT: 4 * time.Millisecond}, Rounds: 3, Tolerant: true, Progress: &said,
		Lab:  lab.Options{Init: "/sbin/init", Timeout: testrig.Patience},
		Ways: []Way{Local("local", image), standInPeer("peer", image).Way(), filled, bad.Way()},
	})
	if err != nil {
		t.Fatal(err)
	}
	sums := Summarize(results, "local")
	if len(sums) != 4 || sums[1].Runs != 3 || sums[2].Runs != 3 {
		t.Fatalf("%+v\n%s", sums, &said)
	}
	for _, s := range sums[1:3] {
		if s.GETs != 1 || s.BodyBytes != info.Size() || s.RSS <= 0 || s.Ratio <= 0 {
			t.Errorf("%+v", s)
		}
	}
	if got := strings.TrimSpace(string(counts["filled"])); got != "2" {
		t.Errorf("the cache of a way with a filling boot knows of %q boots, want 2: that one and its own", got)
	}
	// A way that has failed twice is left out.
	if s := sums[3]; s.Runs != 0 || s.Failures != 2 || !strings.Contains(s.Error, "no luck") {
		t.Errorf("%+v", s)
	}
	noMountBelow(t, temp)
}

// The baseline must not fail, even where others may.
func TestTolerantNeedsItsBaseline(t *testing.T) {
	image := makeImage(t)
	bad := Peer{Name: "bad", Served: image, Commands: func(PeerMount) []PeerCommand {
		return []PeerCommand{{Args: []string{"false"}}}
	}}
	_, err := Measure(context.Background(), Config{Link: link.Params{Bits: 100e6}, Rounds: 1, Tolerant: true, Ways: []Way{bad.Way(), Local("local", image)}})
	if err == nil || !strings.Contains(err.Error(), "round 1 of bad") {
		t.Errorf("%v", err)
	}
}

// TestDesyncStores looks at the command line for several servers: they are alternatives of one store.
func TestDesyncStores(t *testing.T) {
	p := Desync("d", "desync", DesyncImage{Index: "/x/i.caibx", Store: "/x/i.castr", State: "/x/state"}, true, true)
	m := PeerMount{URL: "http://a/i.caibx", Bases: []string{"http://a", "http://b"}, Dir: "/dir", Work: t.TempDir(), Cache: t.TempDir()}
	line := strings.Join(p.Commands(m)[0].Args, " ")
	for _, want := range []string{"--store http://a/i.castr|http://b/i.castr ", "--cor-state-init /x/state", "--cache " + m.Cache, " http://a/i.caibx /dir"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	if p.Image != "i" {
		t.Errorf("image %q", p.Image)
	}
}
