package link

import (
	"math"
	"time"
)

// What theory says of a link, for Check to compare with.

// headerBytes are those of each TCP segment: 20 of IP, 20 of TCP, 12 of the time stamp option.
const headerBytes = 52

// MSS is the TCP payload of a full packet.
func (p Params) MSS() int { return p.withDefaults().MTU - headerBytes }

// MathisBits is the throughput of one TCP connection under random loss, bits per second of payload: MSS/RTT * sqrt(3/2)/sqrt(p)
// (Mathis, Semke, Mahdavi, Ott 1997), at most what the link carries. It is for Reno with an acknowledgement of each segment;
// CUBIC, delayed acknowledgements, time-outs and lost acknowledgements make it an orientation, not a bound to hold a link to.
// Without loss it is what the link carries.
func (p Params) MathisBits() float64 {
	carries := float64(p.Bits) * float64(p.MSS()) / float64(p.withDefaults().MTU)
	if p.Loss == 0 || p.RTT == 0 {
		return carries
	}
	return min(carries, float64(p.MSS())*8/p.RTT.Seconds()*math.Sqrt(1.5/p.Loss))
}

// firstWindow is the initial congestion window of Linux since 2.6.39 (RFC 6928), segments.
const firstWindow = 10

// slowStartRounds is how many round trips of slow start can be told apart on the link: those whose window takes at most a quarter
// of a round trip to send: the gap between two bursts is seen then, and CUBIC has no reason yet to leave slow start (HyStart
// looks at the length of bursts). Below minSlowStartRTT, timing on a busy machine is coarser than a round trip.
func (p Params) slowStartRounds() int {
	if p.RTT < minSlowStartRTT {
		return 0
	}
	n := 0
	for window := firstWindow; timeFor(window*p.withDefaults().MTU, p.Bits) <= p.RTT/4 && n < 5; window *= 2 {
		n++
	}
	return n
}

const minSlowStartRTT = 5 * time.Millisecond

// slowStartSegments is what has arrived after n round trips of sending: the window doubles with each.
func slowStartSegments(n int) int { return firstWindow * (1<<n - 1) }

// lossTolerance is how far the share of lost packets may be from the chance p, for n packets: four standard deviations.
func lossTolerance(p float64, n int64) float64 {
	return 4 * math.Sqrt(p*(1-p)/float64(max(1, n)))
}
