package compare

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// A Simulated herd is one that no machine here could run. Its assumptions:
//
//   - All clients want the same number of bytes, measured in the real herd (link bytes of one client, headers included).
//   - They begin at random times, evenly within Window.
//   - The server's link is shared evenly by all that are under way; no client gets more than its own access link carries. TCP's
//     start and losses, and the server's disks and processors, cost nothing: the image lies in its memory.
//   - Each client needs Fixed besides: what a client alone took in the real herd beyond the time of its bytes.
//   - Nothing else is on the link, and no cache or mirror stands in between.
type Simulated struct {
	Way        string  `json:"way"`
	Clients    int     `json:"clients"`
	ServerBits float64 `json:"server_bits"`
	AccessBits float64 `json:"access_bits"`
	Window     float64 `json:"window_s"`
	Bytes      float64 `json:"bytes"`
	Fixed      float64 `json:"fixed_s"`

	Last       float64 `json:"last_s"`   // from the begin of the window until the last client has its bytes
	Median     float64 `json:"median_s"` // of a client, from its own begin
	TotalBytes float64 `json:"total_bytes"`
}

// simulate fills in the results. All clients that are under way have the same rate and want the same, so they end in the order in
// which they began: each when the service that one client got since has reached its bytes.
func (s Simulated) simulate(seed uint64) Simulated {
	dice := rand.New(rand.NewPCG(seed, 1))
	begins := make([]float64, s.Clients)
	for i := range begins {
		begins[i] = dice.Float64() * s.Window
	}
	slices.Sort(begins)
	var took []float64
	var underWay []int // indexes into begins, in order
	service := make([]float64, s.Clients)
	now, served, next := 0.0, 0.0, 0 // served: bytes that a client under way from the begin would have got
	for len(took) < s.Clients {
		rate := s.AccessBits / 8
		if n := len(underWay); n > 0 {
			rate = min(rate, s.ServerBits/8/float64(n))
		}
		begin := math.Inf(1)
		if next < s.Clients {
			begin = begins[next]
		}
		end := math.Inf(1)
		if len(underWay) > 0 {
			end = now + max(0, service[underWay[0]]-served)/rate
		}
		if begin <= end {
			if len(underWay) > 0 {
				served += (begin - now) * rate
			}
			now = begin
			service[next] = served + s.Bytes
			underWay = append(underWay, next)
			next++
			continue
		}
		served += (end - now) * rate
		now = end
		took = append(took, now-begins[underWay[0]]+s.Fixed)
		s.Last = now + s.Fixed
		underWay = underWay[1:]
	}
	slices.Sort(took)
	s.Median = took[len(took)/2]
	s.TotalBytes = s.Bytes * float64(s.Clients)
	return s
}

// simulations are the herds to tell of, for a way of which a client takes these bytes, and alone this time over the link. The first
// is as large as the measured one, to see how far the assumptions go.
func simulations(way string, measured int, bytes, alone, bits float64) (all []Simulated) {
	herd := Simulated{Way: way, Clients: measured, ServerBits: bits, AccessBits: 1e9, Bytes: bytes, Fixed: max(0, alone-bytes*8/bits)}
	all = append(all, herd.simulate(1))
	for _, clients := range []int{1000, 10000} {
		for _, server := range []float64{1e9, 10e9} {
			for _, window := range []time.Duration{0, time.Minute} {
				herd.Clients, herd.ServerBits, herd.Window = clients, server, window.Seconds()
				all = append(all, herd.simulate(uint64(clients)))
			}
		}
	}
	return all
}
