package analyzer

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// An Order is a way to send what a boot touches.
type Order uint8

const (
	TimeOrder   Order = iota // one stream, in the order of the touches
	OffsetOrder              // one stream, in image order
	LoadAll                  // everything first, then the boot starts
	OnDemand                 // nothing unasked: a request for each touch
)

// String returns "time order", "offset order", "load all" or "on demand".
func (o Order) String() string {
	switch o {
	case TimeOrder:
		return "time order"
	case OffsetOrder:
		return "offset order"
	case LoadAll:
		return "load all"
	case OnDemand:
		return "on demand"
	}
	return fmt.Sprintf("order %d", uint8(o))
}

// Simulate returns how long the boot takes, from the start of connecting to Until, when its bytes are sent
// in the given order.
//
// The stream starts with the boot. A touch of something that has not been sent asks for it: after R + t_s
// the link sends it next, once it is through with the piece it is sending, unless the stream came to it
// before. All touches are sent, those after Until and those with a low Probability too.
func Simulate(in BoundInput, order Order) (time.Duration, error) {
	b, err := in.boot()
	if err != nil {
		return 0, err
	}
	queue, err := in.queue(order)
	if err != nil {
		return 0, err
	}
	clock := b.connect
	if order == LoadAll {
		clock += b.firstByte
		for _, s := range b.send {
			clock += s
		}
		return nanoseconds(clock + b.until), nil
	}
	if order == OnDemand {
		clock += b.until
		for k := range b.waited {
			clock += b.prob(k) * (b.firstByte + b.send[k])
		}
		return nanoseconds(clock), nil
	}
	return nanoseconds(b.stream(queue)), nil
}

// queue returns the indices of the touches in the order of the stream.
func (in *BoundInput) queue(order Order) ([]int, error) {
	if order > OnDemand {
		return nil, fmt.Errorf("%v is not known", order)
	}
	if order == LoadAll || order == OnDemand {
		return nil, nil
	}
	queue := make([]int, len(in.Touches))
	for k := range queue {
		queue[k] = k
	}
	if order == OffsetOrder {
		slices.SortStableFunc(queue, func(a, b int) int {
			return cmp.Compare(in.Touches[a].ImageOff, in.Touches[b].ImageOff)
		})
	}
	return queue, nil
}

// stream plays the boot against a link that works through queue and returns the clock at its end. The link
// is played only as far as the boot waits for it, which is enough: nothing else depends on it.
func (b *boot) stream(queue []int) float64 {
	arrived := make([]float64, len(b.send)) // clock at which touch k was all there; NaN while it was not sent
	for k := range arrived {
		arrived[k] = math.NaN()
	}
	free := b.connect + b.firstByte // clock at which the link takes its next piece
	send := func(k int) {
		free += b.send[k]
		arrived[k] = free
	}
	clock, cpu := b.connect, 0.0
	for k := range b.waited {
		clock += b.at[k] - cpu
		cpu = b.at[k]
		asked := clock + b.firstByte // the answer to a request made now starts to come
		for len(queue) > 0 && math.IsNaN(arrived[k]) && free < asked {
			if math.IsNaN(arrived[queue[0]]) {
				send(queue[0])
			}
			queue = queue[1:]
		}
		if math.IsNaN(arrived[k]) {
			free = max(free, asked) // a jump over the queue; with time order k is what comes next anyway
			send(k)
		}
		clock = max(clock, arrived[k])
	}
	return clock + b.until - cpu
}
