package mountclient

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

const kb = 1 << 10

func TestJoinRuns(t *testing.T) {
	for _, c := range []struct {
		name         string
		pieces, want []span
	}{
		{"none", nil, nil},
		{"one", []span{{5, 9}}, []span{{5, 9}}},
		{"side by side", []span{{0, 1000 * kb}, {1000 * kb, 2000 * kb}, {2000 * kb, 2001 * kb}}, []span{{0, 2001 * kb}}},
		{"small gap", []span{{0, 4 * kb}, {68 * kb, 900 * kb}}, []span{{0, 900 * kb}}},
		{"large gap", []span{{0, 4 * kb}, {69 * kb, 80 * kb}}, []span{{0, 4 * kb}, {69 * kb, 80 * kb}}},
		{"backwards, small", []span{{100 * kb, 200 * kb}, {60 * kb, 90 * kb}}, []span{{60 * kb, 200 * kb}}},
		{"backwards, large", []span{{100 * kb, 200 * kb}, {30 * kb, 90 * kb}}, []span{{100 * kb, 200 * kb}, {30 * kb, 90 * kb}}},
		{"in a gap that comes anyway", []span{{0, 4 * kb}, {12 * kb, 16 * kb}, {4 * kb, 8 * kb}}, []span{{0, 16 * kb}}},
		{"small, behind an earlier run", []span{{0, 4 * kb}, {900 * kb, 990 * kb}, {4 * kb, 8 * kb}, {990 * kb, 2000 * kb}}, []span{{0, 8 * kb}, {900 * kb, 2000 * kb}}},
		{"large, behind an earlier run", []span{{0, 4 * kb}, {900 * kb, 990 * kb}, {4 * kb, 80 * kb}}, []span{{0, 4 * kb}, {900 * kb, 990 * kb}, {4 * kb, 80 * kb}}},
		{"grown together", []span{{0, 4 * kb}, {96 * kb, 200 * kb}, {36 * kb, 40 * kb}, {40 * kb, 96 * kb}}, []span{{0, 200 * kb}}},
		{"what comes early is bounded", []span{{0, 4 * kb}, {900 * kb, 990 * kb}, {4 * kb, 40 * kb}, {40 * kb, 80 * kb}, {80 * kb, 120 * kb}}, []span{{0, 40 * kb}, {900 * kb, 990 * kb}, {40 * kb, 120 * kb}}},
	} {
		if got := joinRuns(c.pieces, minEarly); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Runs are disjoint, hold every piece whole in one of them, and little else; the first piece comes first.
func TestJoinRunsRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 2000 {
		var pieces []span
		off := int64(r.IntN(100))
		for range r.IntN(30) {
			n := int64(1 + r.IntN(100*kb))
			pieces = append(pieces, span{off, off + n})
			if off += n; r.IntN(2) == 0 {
				off += int64(r.IntN(200 * kb))
			}
		}
		for range r.IntN(10) { // mostly in order
			if n := len(pieces); n > 1 {
				i := r.IntN(n - 1)
				pieces[i], pieces[i+1] = pieces[i+1], pieces[i]
			}
		}
		if round%3 == 0 {
			r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		}
		runs := planRuns(pieces)
		sorted := slices.Clone(runs)
		slices.SortFunc(sorted, func(a, b span) int { return int(a.off - b.off) })
		total := int64(0)
		for i, s := range sorted {
			if total += s.end - s.off; s.off >= s.end || i > 0 && sorted[i-1].end > s.off {
				t.Fatalf("%v of %v", runs, pieces)
			}
		}
		needed := int64(0)
		for i, p := range pieces {
			needed += p.end - p.off
			at := slices.IndexFunc(runs, func(s span) bool { return s.off <= p.off && p.end <= s.end })
			if at < 0 || i == 0 && at != 0 {
				t.Fatalf("piece %v is in run %d of %v", p, at, runs)
			}
		}
		if total-needed > int64(len(pieces))*joinGap || len(runs) > len(pieces) {
			t.Fatalf("%d runs of %d bytes for %d pieces of %d", len(runs), total, len(pieces), needed)
		}
		opening, rest := cutOpening(runs)
		if n := len(opening) + len(rest); len(opening) > len(imageOpening) || n > max(manyRuns, len(runs)+2) {
			t.Fatalf("%d pieces to open with, %d in all, of %d runs", len(opening), n, len(runs))
		}
		var again []span // put together, they are the runs
		for _, s := range append(opening, rest...) {
			if n := len(again); n > 0 && again[n-1].end == s.off && again[n-1].end != runs[n-1].end {
				again[n-1].end = s.end
			} else {
				again = append(again, s)
			}
		}
		if !slices.Equal(again, runs) && len(runs) > 0 {
			t.Fatalf("%v and %v are not %v", opening, rest, runs)
		}
	}
}

// Spans that were asked for come in order, each byte in one request, whatever they overlap.
func TestPreloadNeed(t *testing.T) {
	file := testFile(3 << 20)
	s := serveBytes(t, file)
	p := newTestPreload(t, s)
	spans := []span{{2 << 20, 2<<20 + 5000}, {0, 400_000}, {1 << 20, 1<<20 + 1}, {1<<20 - 10, 1<<20 + 10}, {5, 5}, {1 << 20, 3 << 20}}
	p.need(spans...)
	for _, sp := range spans {
		if err := p.wait(soon(t), sp.off, sp.end-sp.off); err != nil {
			t.Fatal(err)
		}
		got, err := p.read(sp.off, sp.end-sp.off)
		if err != nil || string(got) != string(file[sp.off:sp.end]) {
			t.Errorf("%v: %d bytes, %v", sp, len(got), err)
		}
	}
	if p.has(500_000, 1) || !p.has(0, 400_000) || !p.has(1<<20-10, 100) {
		t.Error("it says that it has what it has not, or the reverse")
	}
	seen := make([]bool, len(file))
	for _, r := range s.Requests() {
		for i := r.Off; i < r.Off+r.Len; i++ {
			if seen[i] {
				t.Fatalf("byte %d was asked for twice", i)
			}
			seen[i] = true
		}
	}
}

// What is needed later does not take the line from what is needed now: the next request is sent when little is to
// come of those before it. Short ones go side by side.
func TestPreloadOrder(t *testing.T) {
	t.Parallel()
	file := testFile(8 << 20)
	for _, c := range []struct {
		name  string
		size  int64
		ahead int // requests that hang while the first of them does
	}{{"long runs", 1 << 20, 1}, {"short runs", 4 << 10, preloadWorkers}} {
		s := serveBytes(t, file)
		p := newTestPreload(t, s)
		if err := p.wait(soon(t), 0, openingBytes); err != nil {
			t.Fatal(err)
		}
		s.Script(faultserver.Always(faultserver.Hang()))
		for off := int64(1 << 20); off < 8<<20; off += 1 << 19 {
			p.need(span{off, min(off+c.size, 8<<20)})
		}
		if !s.Wait(len(openingSegments)+c.ahead, testrig.Patience) {
			t.Fatalf("%s: %d requests", c.name, len(s.Requests()))
		}
		time.Sleep(20 * time.Millisecond) // another one would come now
		if n := len(s.Requests()) - len(openingSegments); n != c.ahead {
			t.Errorf("%s: %d requests at a time, want %d", c.name, n, c.ahead)
		}
		s.Script(nil)
		if err := p.wait(soon(t), 1<<20, c.size); err != nil {
			t.Fatal(err)
		}
	}
}
