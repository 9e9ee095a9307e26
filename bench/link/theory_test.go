package link

import (
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

func TestTheory(t *testing.T) {
	for _, c := range []struct {
		spec   string
		mathis float64 // bits per second, worked out by hand
		rounds int
	}{
		{"100mbit/20ms", 100e6 * 1448 / 1500, 3},
		{"100mbit/20ms/1%", 1448 * 8 / 0.02 * 12.2474487, 3}, // 7.09 Mbit/s
		{"20mbit/50ms/0.01%", 20e6 * 1448 / 1500, 2},         // 28 Mbit/s do not fit
		{"20mbit/50ms", 20e6 * 1448 / 1500, 2},
		{"1gbit/0.5ms", 1e9 * 1448 / 1500, 0},
		{"1mbit/20ms", 1e6 * 1448 / 1500, 0},
	} {
		p, err := Parse(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.MathisBits(); math.Abs(got-c.mathis) > c.mathis*1e-6 {
			t.Errorf("%s: Mathis %.0f bit/s, want %.0f", c.spec, got, c.mathis)
		}
		if got := p.slowStartRounds(); got != c.rounds {
			t.Errorf("%s: %d rounds of slow start, want %d", c.spec, got, c.rounds)
		}
	}
	for i, want := range []int{0, 10, 30, 70, 150} {
		if got := slowStartSegments(i); got != want {
			t.Errorf("%d round trips bring %d segments, want %d", i, got, want)
		}
	}
}

func TestCheckErr(t *testing.T) {
	good := CheckResult{GoodputBits: 96e6, WantBits: 96.5e6, RTT: 20 * time.Millisecond, WantRTT: 20 * time.Millisecond,
		SlowStart: []SlowStartRound{{10, 10}, {30, 31}}, Packets: 10000}
	lossy := good
	lossy.GoodputBits, lossy.WantLoss, lossy.Loss, lossy.SlowStart = 20e6, 0.01, 0.0101, []SlowStartRound{{10, 9}, {30, 12}}
	for _, c := range []struct {
		name   string
		from   CheckResult
		change func(*CheckResult)
		bad    string // part of the error; "" for none
	}{
		{"good", good, func(*CheckResult) {}, ""},
		{"lossy", lossy, func(*CheckResult) {}, ""},
		{"slow", good, func(r *CheckResult) { r.GoodputBits = 80e6 }, "80.0 Mbit/s"},
		{"far", good, func(r *CheckResult) { r.RTT = 22 * time.Millisecond }, "22ms"},
		{"no slow start", good, func(r *CheckResult) { r.SlowStart[1].Got = 60 }, "60 segments in 2"},
		{"loses", good, func(r *CheckResult) { r.Loss = 0.001 }, "0.100 % of 10000"},
		{"loses too much", lossy, func(r *CheckResult) { r.Loss = 0.02 }, "2.000 %"},
		{"loses too little", lossy, func(r *CheckResult) { r.Loss = 0.002 }, "0.200 %"},
	} {
		r := c.from
		r.SlowStart = append([]SlowStartRound(nil), r.SlowStart...)
		c.change(&r)
		err := r.Err()
		if c.bad == "" && err != nil || c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.bad)
		}
	}
}

// TestLossyLink measures a link with loss: the share of its losses, and that TCP feels them.
func TestLossyLink(t *testing.T) {
	testrig.Slow(t)
	l := open(t, "100mbit/20ms/1%")
	r, err := l.checkOnce(t.Context(), time.Second)
	testrig.Must(t, err)
	t.Log(r)
	if off := math.Abs(r.Loss - r.WantLoss); off > lossTolerance(r.WantLoss, r.Packets) || r.RTT < r.WantRTT-maxQuantum {
		t.Errorf("%v", r)
	}
	var tcp *unix.TCPInfo
	var c Counters
	testrig.Eventually(t, "a transfer with losses", func() bool {
		before := l.Stats().Down
		_, tcp = transfer(t, l, 500_000)
		c = l.Stats().Down.sub(before)
		return c.Lost > 1
	})
	// A segment of the handshake may be among the lost ones; slow start ends with the first other loss.
	if int64(tcp.Total_retrans) < c.Lost-1 || tcp.Snd_ssthresh >= 1<<30 {
		t.Errorf("TCP does not feel the losses: %d segments lost, %d sent again, slow start until %d segments",
			c.Lost, tcp.Total_retrans, tcp.Snd_ssthresh)
	}
}
