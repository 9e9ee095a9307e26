package analyzer

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"bootprof/profiles"
)

func near(a, b time.Duration) bool { return (a - b).Abs() <= 2*time.Nanosecond }

func TestBound(t *testing.T) {
	// At 80 mbit one byte takes 100 ns: 10,000 bytes are 1 ms.
	const tenK = 10000
	link := Link{BitsPerSecond: 80e6, RTT: 10 * ms}
	at := func(at time.Duration, n int64) profiles.Touch { return profiles.Touch{At: at, Len: n} }
	for _, c := range []struct {
		name  string
		in    BoundInput
		total time.Duration
		by    BoundBy
		touch int
		bytes int64
	}{
		{"4.0 MB at 100 Mbit/s, 20 ms: 0.34 s of link",
			BoundInput{Touches: []profiles.Touch{at(0, 4e6)}, Link: DefaultLink}, 340 * ms, ByLink, 0, 4e6},
		{"no touch is CPU alone", BoundInput{Until: 5 * ms, Link: link, ConnectRTTs: 2}, 25 * ms, ByCPU, -1, 0},
		{"all arrives while the CPU computes",
			BoundInput{Touches: []profiles.Touch{at(20*ms, tenK)}, Until: 100 * ms, Link: link, ConnectRTTs: ConnectTCP}, 110 * ms, ByCPU, -1, 0},
		{"a touch at once costs the round trip",
			BoundInput{Touches: []profiles.Touch{at(0, tenK)}, Until: 100 * ms, Link: link}, 111 * ms, ByLink, 0, tenK},
		{"the last touch decides", // 10 + 40 + 0
			BoundInput{Touches: []profiles.Touch{at(0, tenK), at(30*ms, 39*tenK)}, Link: link}, 50 * ms, ByLink, 1, 40 * tenK},
		{"the middle touch decides", // 10+1+50, 10+31+45, 10+32+0
			BoundInput{Touches: []profiles.Touch{at(0, tenK), at(5*ms, 30*tenK), at(50*ms, tenK)}, Link: link}, 86 * ms, ByLink, 1, 31 * tenK},
		{"touches after the end do not count",
			BoundInput{Touches: []profiles.Touch{at(0, tenK), at(50*ms, 1e9)}, Until: 40 * ms, Link: link}, 51 * ms, ByLink, 0, tenK},
		{"server time counts once",
			BoundInput{Touches: []profiles.Touch{at(0, tenK)}, Link: Link{80e6, 10 * ms, 3 * ms}, ConnectRTTs: ConnectTLS}, 34 * ms, ByLink, 0, tenK},
		{"a tie is the CPU's", // 10 + 1 + 0 against 11
			BoundInput{Touches: []profiles.Touch{at(11*ms, tenK)}, Link: link}, 11 * ms, ByCPU, -1, 0},
		{"a ratio", // 10 + 10
			BoundInput{Touches: []profiles.Touch{at(0, 40*tenK)}, Link: link, Ratio: 0.25}, 20 * ms, ByLink, 0, 10 * tenK},
		{"measured sizes take precedence", // 10 + 3
			BoundInput{Touches: []profiles.Touch{at(0, 7), at(0, 7)}, Link: link, Ratio: 9,
				Compressed: func(k int) int64 { return []int64{tenK, 3 * tenK}[k] }}, 13 * ms, ByLink, 1, 3 * tenK},
		{"half a chance is half the bytes", // 10 + 4*0.5 + 2
			BoundInput{Touches: []profiles.Touch{at(0, 4*tenK), at(0, 2*tenK)}, Link: link,
				Probability: func(k int) float64 { return []float64{0.5, 1}[k] }}, 14 * ms, ByLink, 1, 4 * tenK},
	} {
		got, err := Bound(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		connect := time.Duration(c.in.ConnectRTTs) * c.in.Link.RTT
		if !near(got.Total, c.total) || got.By != c.by || got.Touch != c.touch || got.Bytes != c.bytes || got.Connect != connect {
			t.Errorf("%s: got %+v, want %v by %s at touch %d, %d bytes", c.name, got, c.total, c.by, c.touch, c.bytes)
		}
	}
}

func TestBoundErrors(t *testing.T) {
	ok := []profiles.Touch{{Len: 1}, {Len: 1}}
	for _, c := range []struct {
		in   BoundInput
		want string
	}{
		{BoundInput{Touches: ok}, "bandwidth"},
		{BoundInput{Touches: ok, Link: Link{BitsPerSecond: math.NaN()}}, "bandwidth"},
		{BoundInput{Touches: ok, Link: Link{BitsPerSecond: math.Inf(1)}}, "bandwidth"},
		{BoundInput{Touches: ok, Link: Link{1e6, -1, 0}}, "round trip"},
		{BoundInput{Touches: ok, Link: Link{1e6, 0, -1}}, "server time"},
		{BoundInput{Touches: ok, Link: DefaultLink, Ratio: -1}, "ratio"},
		{BoundInput{Touches: ok, Link: DefaultLink, Ratio: math.NaN()}, "ratio"},
		{BoundInput{Touches: ok, Link: DefaultLink, ConnectRTTs: -1}, "connect"},
		{BoundInput{Touches: ok, Link: DefaultLink, Until: -1}, "negative"},
		{BoundInput{Touches: []profiles.Touch{{At: 2, Len: 1}, {At: 1, Len: 1}}, Link: DefaultLink}, "touch 1"},
		{BoundInput{Touches: []profiles.Touch{{Len: -1}}, Link: DefaultLink}, "touch 0"},
		{BoundInput{Touches: ok, Link: DefaultLink, Compressed: func(k int) int64 { return int64(5 - k) }}, "touch 1 are 4"},
	} {
		if _, err := Bound(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want an error with %q", c.in, err, c.want)
		}
	}
	// Absurd, but no reason to wrap around.
	got, err := Bound(BoundInput{Touches: []profiles.Touch{{Len: math.MaxInt64}}, Link: Link{BitsPerSecond: 1}})
	if err != nil || got.Total != math.MaxInt64 {
		t.Errorf("a link that takes for ever: %+v, %v", got, err)
	}
}

// randomBoot makes a boot whose times and sizes are whole milliseconds at one byte per millisecond.
func randomBoot(rnd *rand.Rand) BoundInput {
	in := BoundInput{
		Link:        Link{BitsPerSecond: 8000, RTT: time.Duration(rnd.IntN(30)) * ms, ServerTime: time.Duration(rnd.IntN(5)) * ms},
		ConnectRTTs: rnd.IntN(3),
	}
	var at time.Duration
	for _, off := range rnd.Perm(1 + rnd.IntN(9)) {
		in.Touches = append(in.Touches, profiles.Touch{At: at, ImageOff: int64(off) * page, Len: 1 + rnd.Int64N(12)})
		at += time.Duration(rnd.IntN(15)) * ms
	}
	switch rnd.IntN(3) {
	case 0:
		in.Until = at + time.Duration(rnd.IntN(40))*ms
	case 1:
		in.Until = at/(2*ms)*ms + ms // some touches come after the end
	}
	return in
}
