package analyzer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"bootprof/profiles"
)

// playTicks is the oracle for Simulate: it plays link and boot millisecond by millisecond, as two machines
// that know nothing of each other's future. Sizes are milliseconds of link (one byte each).
func playTicks(in BoundInput, order Order) time.Duration {
	whole := func(d time.Duration) int { return int(d / ms) }
	n := len(in.Touches)
	until := whole(in.Until)
	if in.Until == 0 {
		until = whole(in.Touches[n-1].At)
	}
	connect := in.ConnectRTTs * whole(in.Link.RTT)
	answer := whole(in.Link.RTT + in.Link.ServerTime)

	var queue []int
	for k := range n {
		queue = append(queue, k)
	}
	switch order {
	case OffsetOrder:
		slices.SortFunc(queue, func(a, b int) int { return int(in.Touches[a].ImageOff - in.Touches[b].ImageOff) })
	case OnDemand:
		queue = nil
	}

	arrived := make([]bool, n)
	sending, left := -1, 0     // the link
	cpu, next := 0, 0          // the boot: CPU time used, touch to come
	blocked, asked := false, 0 // the boot waits for touch next; the answer starts to come at asked
	for now := connect; ; now++ {
		if sending >= 0 && left == 0 {
			arrived[sending] = true
			sending = -1
		}
		started := order != LoadAll || !slices.Contains(arrived, false)
		if started {
			for next < n && whole(in.Touches[next].At) <= until && whole(in.Touches[next].At) == cpu {
				if arrived[next] {
					next, blocked = next+1, false
					continue
				}
				if !blocked {
					blocked, asked = true, now+answer
				}
				break
			}
			if !blocked && cpu == until {
				return time.Duration(now) * ms
			}
		}
		if sending < 0 && now >= connect+answer {
			pick := -1
			if blocked && now >= asked {
				pick = next
			} else {
				for len(queue) > 0 && arrived[queue[0]] {
					queue = queue[1:]
				}
				if len(queue) > 0 {
					pick = queue[0]
				}
			}
			if pick >= 0 {
				sending, left = pick, int(in.Touches[pick].Len)
			}
		}
		if sending >= 0 {
			left--
		}
		if started && !blocked {
			cpu++
		}
	}
}

func TestSimulateAgainstTicks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for range 4000 {
		in := randomBoot(rnd)
		for _, order := range []Order{TimeOrder, OffsetOrder, LoadAll, OnDemand} {
			got, err := Simulate(in, order)
			if err != nil {
				t.Fatal(err)
			}
			if want := playTicks(in, order); !near(got, want) {
				t.Fatalf("%v of %+v: got %v, want %v", order, in, got, want)
			}
		}
	}
}

// Sent in time order the boot meets the bound; no order beats it.
func TestSimulateAgainstBound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	for range 4000 {
		in := randomBoot(rnd)
		in.Ratio = 0.2 + rnd.Float64()
		b, err := Bound(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, order := range []Order{TimeOrder, OffsetOrder, LoadAll, OnDemand} {
			got, err := Simulate(in, order)
			if err != nil {
				t.Fatal(err)
			}
			if got < b.Total-2 || order == TimeOrder && !near(got, b.Total) {
				t.Fatalf("%v of %+v takes %v, the bound is %v", order, in, got, b.Total)
			}
		}
	}
}

func TestSimulateByHand(t *testing.T) {
	// One byte takes 1 ms, an answer 10 ms. Touches by time: page 2 (4 ms to send), 0 (3 ms), 1 (5 ms).
	in := BoundInput{
		Link: Link{BitsPerSecond: 8000, RTT: 10 * ms}, ConnectRTTs: ConnectTCP, Until: 20 * ms,
		Touches: []profiles.Touch{{At: 1 * ms, ImageOff: 2 * page, Len: 4}, {At: 6 * ms, ImageOff: 0, Len: 3}, {At: 8 * ms, ImageOff: page, Len: 5}},
	}
	for _, c := range []struct {
		order Order
		want  time.Duration
	}{
		// Arrivals from the first request at 14, 17, 22: C is 19, 14, 12; 10 + 34.
		{TimeOrder, 44 * ms},
		// Page 0 arrives at 13; page 2, asked for at 1 and answered at 11, goes next, 17; the CPU is at 8 by
		// 24, page 1 came at 22; 10 + 17 + 19.
		{OffsetOrder, 46 * ms},
		// 10 + 10 + 12 + 20.
		{LoadAll, 52 * ms},
		// 10 + 20 + 3*10 + 12.
		{OnDemand, 72 * ms},
	} {
		if got, err := Simulate(in, c.order); err != nil || !near(got, c.want) {
			t.Errorf("%v: got %v, %v, want %v", c.order, got, err, c.want)
		}
	}
	in.Probability = func(k int) float64 { return []float64{1, 0.5, 1}[k] }
	if got, _ := Simulate(in, OnDemand); !near(got, 72*ms-6500*time.Microsecond) { // half of 10 + 3 less
		t.Errorf("half a chance of a wait: %v", got)
	}
	if _, err := Simulate(in, 9); err == nil || err.Error() != "order 9 is not known" {
		t.Errorf("an unknown order: %v", err)
	}
	if _, err := Simulate(BoundInput{}, TimeOrder); err == nil {
		t.Error("a link without bandwidth is taken")
	}
	if s := fmt.Sprint(TimeOrder, OffsetOrder, LoadAll, OnDemand); s != "time order offset order load all on demand" {
		t.Error(s)
	}
}
