package compare

import (
	"math"
	"testing"
)

// Cases that can be worked out by hand.
func TestSimulate(t *testing.T) {
	for _, c := range []struct {
		name         string
		s            Simulated
		last, median float64
	}{
		{"alone, access link", Simulated{Clients: 1, ServerBits: 1e9, AccessBits: 8e6, Bytes: 1e6}, 1, 1},
		{"alone, server's link", Simulated{Clients: 1, ServerBits: 8e6, AccessBits: 1e9, Bytes: 1e6, Fixed: 0.5}, 1.5, 1.5},
		{"ten at once", Simulated{Clients: 10, ServerBits: 8e6, AccessBits: 1e9, Bytes: 1e6}, 10, 10},
		{"ten at once, slow access", Simulated{Clients: 10, ServerBits: 1e9, AccessBits: 8e6, Bytes: 1e6}, 1, 1},
		// 1000 clients of 1 MB in 1000 s through a link that takes 100 of them in a second: nearly each is alone.
		{"seldom together", Simulated{Clients: 1000, ServerBits: 800e6, AccessBits: 8e9, Bytes: 1e6, Window: 1000}, 1000, 0.01},
		// The link is busy from the first to the last: what counts is the sum.
		{"overload", Simulated{Clients: 2000, ServerBits: 8e6, AccessBits: 8e9, Bytes: 1e6, Window: 10}, 2000, 1995},
	} {
		got := c.s.simulate(3)
		if math.Abs(got.Last-c.last) > c.last*0.01 || math.Abs(got.Median-c.median) > c.median*0.01+1e-9 {
			t.Errorf("%s: last after %.3f s, median %.3f s; want %.3f, %.3f", c.name, got.Last, got.Median, c.last, c.median)
		}
		if got.TotalBytes != c.s.Bytes*float64(c.s.Clients) {
			t.Errorf("%s: %.0f bytes", c.name, got.TotalBytes)
		}
	}
}
