package mountclient

import (
	"context"
	"sync/atomic"
	"time"
)

// A cause is why bytes were asked for.
type cause int

const (
	forBoot    cause = iota // header, indexes, boot zone
	forReader               // body chunks that a reader waits for, and the nodes that lead to them
	forAhead                // body chunks ahead of a sequential reader
	forDamaged              // once more, because what came was damaged
	forFill                 // the rest of the image, for --fill
	causes
)

type causeKey struct{}

// because marks the context of requests with their cause; without a mark it is forBoot.
func because(ctx context.Context, why cause) context.Context {
	return context.WithValue(ctx, causeKey{}, why)
}

func causeOf(ctx context.Context) cause {
	if ctx.Value(freshKey{}) != nil {
		return forDamaged
	}
	why, _ := ctx.Value(causeKey{}).(cause)
	return why
}

// ByteCauses are the bytes of bodies received, by why they were asked for.
type ByteCauses struct {
	Boot      int64 `json:"boot"`      // header, indexes, boot zone
	Demand    int64 `json:"demand"`    // chunks that a reader waited for
	Readahead int64 `json:"readahead"` // chunks ahead of a sequential reader
	Damaged   int64 `json:"damaged"`   // once more, because what came was damaged
	Fill      int64 `json:"fill"`      // the rest of the image
}

func (c *counters) causes() ByteCauses {
	n := func(why cause) int64 { return c.byCause[why].Load() }
	return ByteCauses{n(forBoot), n(forReader), n(forAhead), n(forDamaged), n(forFill)}
}

// A lastError is the latest fault of the network or of the bytes that came. The zero value is none.
type lastError struct{ p atomic.Pointer[timedError] }

type timedError struct {
	text string
	at   time.Time
}

func (l *lastError) note(err error) { l.p.Store(&timedError{oneLine(err), time.Now()}) }

// since returns the error, and when it was after the start, in seconds.
func (l *lastError) since(start time.Time) (string, float64) {
	e := l.p.Load()
	if e == nil {
		return "", 0
	}
	return e.text, e.at.Sub(start).Seconds()
}
