package analyzer

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"bootprof/profiles"
)

func mustLink(t testing.TB, s string) Link {
	t.Helper()
	l, err := ParseLink(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestThreshold(t *testing.T) {
	for _, c := range []struct {
		link   string
		lambda float64
		want   float64
	}{
		{"100mbit/20ms", 1, 4096.0 / (4096 + 250000)},
		{"100mbit/20ms", 0.5, 2048.0 / (4096 + 250000)},
		{"1gbit/0.5ms", 1, 4096.0 / (4096 + 62500)},
		{"1gbit/0ms", 1, 1},
		{"1gbit/0.5ms", 1e9, 1},
		{"100mbit/20ms", 0, 0},
		{"100mbit/20ms", -1, 0},
	} {
		if got := Threshold(mustLink(t, c.link), c.lambda); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("Threshold(%s, %g) = %g, want %g", c.link, c.lambda, got, c.want)
		}
	}
	l := mustLink(t, "100mbit/20ms")
	l.ServerTime = 20 * time.Millisecond
	if got, want := ThresholdFor(l, 1, 500000), 0.5; got != want {
		t.Errorf("500 kB against 40 ms at 100 Mbit/s: %g, want %g", got, want)
	}
}

func TestGapFor(t *testing.T) {
	l := mustLink(t, "100mbit/20ms")
	if got, want := GapFor(l, 1), int64(512+250000); got != want {
		t.Errorf("gap with one request %d, want %d", got, want)
	}
	if GapFor(l, 0) != GapFor(l, 1) {
		t.Error("no request in flight differs from one")
	}
	l.ServerTime = 2 * time.Millisecond // the 46 kB the rule was simulated with
	if got, want := GapFor(l, 6), int64(512+45833); got != want {
		t.Errorf("gap with six requests %d, want %d", got, want)
	}
	if got := GapFor(mustLink(t, "1gbit/0ms"), 8); got != 512 {
		t.Errorf("gap without delay %d, want the headers", got)
	}
}

func TestSegmentFor(t *testing.T) {
	for _, c := range []struct {
		link string
		n    int
		want int64
	}{
		{"100mbit/20ms", 8, 1 << 20},      // 2BR = 500 kB: the default fills it
		{"10gbit/100ms", 8, 8720 * 4096},  // 2BR/7 = 35,714,286 bytes
		{"100mbit/200ms", 1, 1221 * 4096}, // as with two: 2BR = 5 MB, 1220.7 pages
	} {
		if got := SegmentFor(mustLink(t, c.link), c.n); got != c.want {
			t.Errorf("SegmentFor(%s, %d) = %d, want %d", c.link, c.n, got, c.want)
		}
	}
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 1000 {
		l := Link{BitsPerSecond: 1e3 + rnd.Float64()*1e11, RTT: time.Duration(rnd.Int64N(int64(time.Second)))}
		n := 2 + rnd.IntN(30)
		s := float64(SegmentFor(l, n))
		if need := 2*l.BitsPerSecond/8*l.RTT.Seconds() + s; float64(n)*s < need*(1-1e-9) {
			t.Fatalf("%v, n=%d: n*S = %g is less than 2BR+S = %g", l, n, float64(n)*s, need)
		}
	}
}

func TestCoalesce(t *testing.T) {
	r := func(off, n int64) profiles.Range { return profiles.Range{ImageOff: off, Len: n} }
	for _, c := range []struct {
		name string
		in   []profiles.Range
		gap  int64
		want []profiles.Range
	}{
		{"nothing", nil, 10, []profiles.Range{}},
		{"hole as long as the gap", []profiles.Range{r(0, 10), r(20, 10)}, 10, []profiles.Range{r(0, 30)}},
		{"hole one byte longer", []profiles.Range{r(0, 10), r(21, 10)}, 10, []profiles.Range{r(0, 10), r(21, 10)}},
		{"time order stays", []profiles.Range{r(100, 10), r(0, 10), r(110, 10)}, 5, []profiles.Range{r(100, 20), r(0, 10)}},
		{"earliest member counts", []profiles.Range{r(500, 10), r(0, 10), r(12, 10), r(505, 1)}, 5, []profiles.Range{r(500, 10), r(0, 22)}},
		{"earliest member lies behind", []profiles.Range{r(110, 10), r(500, 10), r(100, 10)}, 5, []profiles.Range{r(100, 20), r(500, 10)}},
		{"chain", []profiles.Range{r(40, 10), r(0, 10), r(20, 10)}, 10, []profiles.Range{r(0, 50)}},
		{"contained", []profiles.Range{r(0, 100), r(10, 5), r(110, 1)}, 10, []profiles.Range{r(0, 111)}},
		{"touching, no gap", []profiles.Range{r(10, 10), r(0, 10)}, 0, []profiles.Range{r(0, 20)}},
		{"touching, negative gap", []profiles.Range{r(10, 10), r(0, 10)}, -1, []profiles.Range{r(10, 10), r(0, 10)}},
		{"empty ranges", []profiles.Range{r(5, 0), r(7, -3), r(0, 1)}, 100, []profiles.Range{r(0, 1)}},
		{"far end", []profiles.Range{r(math.MaxInt64-10, 10), r(math.MaxInt64-20, 5)}, math.MaxInt64, []profiles.Range{r(math.MaxInt64-20, 20)}},
	} {
		if got := Coalesce(c.in, c.gap); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Every byte asked for is in the result, and a byte that is in it without being asked for lies in a hole
// of at most the gap; the oracle is a bitmap.
func TestCoalesceCovers(t *testing.T) {
	const size = 400
	rnd := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		var in []profiles.Range
		var asked [size]bool
		for range rnd.IntN(12) {
			r := profiles.Range{ImageOff: rnd.Int64N(size - 20), Len: 1 + rnd.Int64N(19)}
			in = append(in, r)
			for i := r.ImageOff; i < r.ImageOff+r.Len; i++ {
				asked[i] = true
			}
		}
		gap := rnd.Int64N(40)
		want := asked
		last := -1
		for i := range size {
			if !asked[i] {
				continue
			}
			if last >= 0 && int64(i-last-1) <= gap {
				for j := last; j < i; j++ {
					want[j] = true
				}
			}
			last = i
		}
		var got [size]bool
		for _, r := range Coalesce(in, gap) {
			for i := r.ImageOff; i < r.ImageOff+r.Len; i++ {
				if got[i] {
					t.Fatalf("%v, gap %d: byte %d is fetched twice", in, gap, i)
				}
				got[i] = true
			}
		}
		if got != want {
			t.Fatalf("%v, gap %d: covers other bytes than it should", in, gap)
		}
	}
}
