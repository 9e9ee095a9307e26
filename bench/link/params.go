package link

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Params describe a link. The zero value is not a link: Bits must be set.
type Params struct {
	Bits  int64         // bandwidth each way, bits per second of IP packets with their headers; 1 kbit/s to 40 Gbit/s
	RTT   time.Duration // round-trip time of an empty link; 0 is allowed; half of it is added each way
	Loss  float64       // chance of losing a packet, each way, 0 <= Loss < 1
	Queue int           // bytes waiting for the link each way before packets are dropped; 0 is DefaultQueue
	MTU   int           // bytes of the largest IP packet; 0 is 1500
	Seed  uint64        // of the losses; the same seed loses the same packets of the same sequence
}

const (
	defaultMTU    = 1500
	minQueueBytes = 256 << 10
	queueTime     = 100 * time.Millisecond

	minBits = 1_000
	maxBits = 40_000_000_000
	maxRTT  = 10 * time.Second
)

// DefaultQueue is the queue of a link with these parameters: 100 ms of its bandwidth, at least 256 KiB.
func (p Params) DefaultQueue() int {
	return max(minQueueBytes, int(float64(p.Bits)/8*queueTime.Seconds()))
}

// withDefaults fills in the zero values.
func (p Params) withDefaults() Params {
	if p.MTU == 0 {
		p.MTU = defaultMTU
	}
	if p.Queue == 0 {
		p.Queue = p.DefaultQueue()
	}
	return p
}

// check says what no link can be made of.
func (p Params) check() error {
	switch {
	case p.Bits < minBits || p.Bits > maxBits:
		return fmt.Errorf("link bandwidth %d bit/s: want 1 kbit/s to 40 Gbit/s", p.Bits)
	case p.RTT < 0 || p.RTT > maxRTT:
		return fmt.Errorf("link round trip %v: want 0 to %v", p.RTT, maxRTT)
	case math.IsNaN(p.Loss) || p.Loss < 0 || p.Loss >= 1:
		return fmt.Errorf("link loss %v: want 0%% to below 100%%", p.Loss)
	case p.MTU < 576 || p.MTU > 65535:
		return fmt.Errorf("link MTU %d: want 576 to 65535 bytes", p.MTU)
	case p.Queue < p.MTU:
		return fmt.Errorf("link queue %d: want at least one packet of %d bytes", p.Queue, p.MTU)
	}
	return nil
}

// String is the form that Parse reads: "100mbit/20ms", "100mbit/20ms/1%".
func (p Params) String() string {
	s := formatRate(p.Bits) + "/" + formatMS(p.RTT)
	if p.Loss > 0 {
		s += "/" + strconv.FormatFloat(p.Loss*100, 'g', 6, 64) + "%"
	}
	return s
}

func formatRate(bits int64) string {
	for _, u := range units {
		if bits >= u.bits {
			return strconv.FormatFloat(float64(bits)/float64(u.bits), 'f', -1, 64) + u.name
		}
	}
	return strconv.FormatInt(bits, 10) + "bit"
}

func formatMS(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', -1, 64) + "ms"
}

var units = []struct {
	name string
	bits int64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}}

// Parse reads BANDWIDTH/RTT[/LOSS%], as in "100mbit/20ms" or "1gbit/0.5ms/1%". Units are decimal; the case of letters
// does not matter; a duration is one that time.ParseDuration reads.
func Parse(s string) (Params, error) {
	var p Params
	fields := strings.Split(strings.ToLower(strings.TrimSpace(s)), "/")
	if len(fields) < 2 || len(fields) > 3 {
		return p, fmt.Errorf("link %q: want BANDWIDTH/RTT[/LOSS%%], as in 100mbit/20ms", s)
	}
	var err error
	if p.Bits, err = parseRate(fields[0]); err != nil {
		return p, fmt.Errorf("link %q: bandwidth %q: want a number with kbit, mbit or gbit", s, fields[0])
	}
	if p.RTT, err = time.ParseDuration(fields[1]); err != nil {
		return p, fmt.Errorf("link %q: round trip %q: want a duration such as 20ms", s, fields[1])
	}
	if len(fields) == 3 {
		percent, ok := strings.CutSuffix(fields[2], "%")
		loss, err := strconv.ParseFloat(percent, 64)
		if !ok || err != nil {
			return p, fmt.Errorf("link %q: loss %q: want a percentage such as 1%%", s, fields[2])
		}
		p.Loss = loss / 100
	}
	if err := p.withDefaults().check(); err != nil {
		return p, fmt.Errorf("link %q: %w", s, err)
	}
	return p, nil
}

func parseRate(s string) (int64, error) {
	unit := int64(1)
	digits, ok := strings.CutSuffix(s, "bit")
	if !ok {
		return 0, strconv.ErrSyntax
	}
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			digits, unit = rest, u.bits
			break
		}
	}
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, err
	}
	if bits := v * float64(unit); bits >= minBits && bits <= maxBits { // NaN is neither
		return int64(math.Round(bits)), nil
	}
	return 0, strconv.ErrRange
}
