package analyzer

import (
	"fmt"
	"math"
	"time"

	"bootprof/profiles"
)

// Round trips before the first request can be sent.
const (
	ConnectTCP = 1 // SYN and SYN-ACK
	ConnectTLS = 2 // TCP, then TLS 1.3
)

// A BoundInput is a boot over a link: what is touched when, how large it is on the wire. Bound and
// Simulate take it.
type BoundInput struct {
	Touches []profiles.Touch // by At, CPU time
	Until   time.Duration    // tau_end, CPU time of the whole boot; default the last touch. Later touches are not waited for

	Link        Link
	ConnectRTTs int // round trips before the first request: ConnectTCP, ConnectTLS; default 0, connected already

	// Ratio is wire bytes by image bytes, the same for every touch; default 1, nothing is compressed.
	Ratio float64

	// Compressed, if set, is used instead of Ratio: wire bytes up to and including touch k, measured. It is
	// called with each k in order and must not fall.
	Compressed func(k int) int64

	// Probability, if set, is the chance that a boot makes touch k; default 1. The bound counts bytes by it,
	// the simulation on demand counts waits by it.
	Probability func(k int) float64
}

// BoundBy says what a boot cannot be faster than.
type BoundBy string

const (
	ByCPU  BoundBy = "cpu"  // the boot's own CPU time
	ByLink BoundBy = "link" // bytes that must arrive first
)

// A BoundResult is the lower bound of a boot's duration.
type BoundResult struct {
	Total   time.Duration // T_lb, from the start of connecting to the end of the boot
	Connect time.Duration // the part of it before the first request
	By      BoundBy
	Touch   int   // ByLink: the touch that decides, an index into Touches; ByCPU: -1
	Bytes   int64 // ByLink: S_k, wire bytes that must arrive up to that touch
}

// Bound returns T_lb = T_connect + max(tau_end, R + t_s + max_k[S_k/B + C_k]): no client and no order of
// sending boots faster over this link, given these sizes. It is wrong to expect a real boot to reach it.
func Bound(in BoundInput) (BoundResult, error) {
	b, err := in.boot()
	if err != nil {
		return BoundResult{}, err
	}
	res := BoundResult{Connect: nanoseconds(b.connect), By: ByCPU, Touch: -1}
	total := b.until
	var sum float64 // nanoseconds of sending up to touch k
	for k := range b.waited {
		sum += b.send[k] * b.prob(k)
		if t := b.firstByte + sum + b.until - b.at[k]; t > total {
			total = t
			res.By, res.Touch, res.Bytes = ByLink, k, saturate(sum*in.Link.bytesPerSecond()/1e9)
		}
	}
	res.Total = nanoseconds(b.connect + total)
	return res, nil
}

// A boot is a BoundInput in nanoseconds, checked. They are floats because a byte is a fraction of one, and
// not seconds because whole nanoseconds then stay exact: who comes first must not hang on rounding.
type boot struct {
	at        []float64 // CPU time of touch k
	send      []float64 // what the link takes to send touch k
	waited    int       // touches up to Until
	until     float64
	connect   float64
	firstByte float64 // R + t_s
	prob      func(k int) float64
}

func (in *BoundInput) boot() (*boot, error) {
	if err := in.Link.check(); err != nil {
		return nil, err
	}
	ratio := in.Ratio
	if ratio == 0 {
		ratio = 1
	}
	switch {
	case !(ratio > 0) || math.IsInf(ratio, 0):
		return nil, fmt.Errorf("compression ratio %g is not above 0", in.Ratio)
	case in.ConnectRTTs < 0:
		return nil, fmt.Errorf("%d round trips to connect are not possible", in.ConnectRTTs)
	case in.Until < 0:
		return nil, fmt.Errorf("end of the boot at %v is negative", in.Until)
	}
	n := len(in.Touches)
	b := &boot{
		at:        make([]float64, n),
		send:      make([]float64, n),
		connect:   float64(in.ConnectRTTs) * float64(in.Link.RTT),
		firstByte: float64(in.Link.RTT) + float64(in.Link.ServerTime),
		prob:      func(int) float64 { return 1 },
	}
	if in.Probability != nil {
		b.prob = in.Probability
	}
	until := in.Until
	if until == 0 && n > 0 {
		until = in.Touches[n-1].At
	}
	b.until = float64(until)
	var before int64
	for k, t := range in.Touches {
		if t.At < 0 || k > 0 && t.At < in.Touches[k-1].At || t.Len < 0 {
			return nil, fmt.Errorf("touch %d, [%d +%d) at %v, is out of order", k, t.ImageOff, t.Len, t.At)
		}
		size := float64(t.Len) * ratio
		if in.Compressed != nil {
			upTo := in.Compressed(k)
			if upTo < before {
				return nil, fmt.Errorf("compressed bytes up to touch %d are %d, less than the %d before it", k, upTo, before)
			}
			size, before = float64(upTo-before), upTo
		}
		b.at[k] = float64(t.At)
		b.send[k] = size * 1e9 / in.Link.bytesPerSecond()
		if t.At <= until {
			b.waited = k + 1
		}
	}
	return b, nil
}

// nanoseconds makes a duration of ns, rounded; it never wraps.
func nanoseconds(ns float64) time.Duration { return time.Duration(saturate(ns)) }
