package mountclient

import (
	"sync/atomic"
	"testing"
	"time"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

const (
	resumeWithin = time.Second // from the end of an outage of the network to the next byte
	busySlack    = time.Second // what a machine that runs other tests may add to that, besides what lateness measures
)

// A lateness measures how late a busy machine wakes the goroutines of this process.
type lateness struct {
	sum   atomic.Int64
	stood atomic.Int64 // how often it was so late that a client may not have told an outage from it (tickSlack)
}

// waits returns how much later than usual the next byte may come after an outage of d in which packets were lost, if began is
// what stood was when it began: a client that could not tell it leaves it to TCP, whose pauses double.
func (l *lateness) waits(d time.Duration, began int64) time.Duration {
	if l.stood.Load() == began {
		return 0
	}
	return d
}

// newLateness measures until the process ends.
func newLateness() *lateness {
	l := &lateness{}
	go l.measure(nil)
	return l
}

// watchLateness measures until the end of the test.
func watchLateness(t testing.TB) *lateness {
	l := &lateness{}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.measure(stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
	return l
}

func (l *lateness) measure(stop <-chan struct{}) {
	const step = 10 * time.Millisecond
	for last := time.Now(); ; {
		select {
		case <-stop:
			return
		case <-time.After(step):
		}
		now := time.Now()
		l.sum.Add(int64(now.Sub(last) - step))
		if now.Sub(last)-step > tickSlack/8 { // other goroutines may have stood still for longer
			l.stood.Add(1)
		}
		last = now
	}
}

// An outageEnd is when an outage ended.
type outageEnd struct {
	at   time.Time
	late *lateness
	was  int64 // sum of late then
}

func (l *lateness) outageEnds() outageEnd { return outageEnd{time.Now(), l, l.sum.Load()} }

// bound is how late the next byte may be by now. What is waited for takes some steps, of which each may be late.
func (e outageEnd) bound(limit time.Duration) time.Duration {
	return limit + busySlack + 4*time.Duration(e.late.sum.Load()-e.was)
}

// resumed fails the test if the next byte, which came at a time, came late.
func (e outageEnd) resumed(t testing.TB, what string, at time.Time, limit time.Duration) {
	t.Helper()
	late := at.Sub(e.at)
	t.Logf("%s: the next byte came after %v", what, late)
	if bound := e.bound(limit); late > bound {
		t.Errorf("%s: the fault was over for %v before a byte came, want %v, and %v with the machine's lateness", what, late, limit, bound)
	}
}

// firstAnswer returns when the first request came, after a time, that a server answered well.
func firstAnswer(s *faultserver.Server, after time.Time) (time.Time, bool) {
	for _, r := range s.Requests() {
		if r.At.After(after) && r.Fault == "" && r.Sent > 0 {
			return r.At, true
		}
	}
	return time.Time{}, false
}

// waitAnswer is firstAnswer that waits for it.
func waitAnswer(t testing.TB, s *faultserver.Server, after time.Time) (at time.Time) {
	t.Helper()
	testrig.Eventually(t, "an answer after the fault", func() (ok bool) {
		at, ok = firstAnswer(s, after)
		return ok
	})
	return at
}

// beyondOpening lets nothing but the opening's requests be answered.
func beyondOpening(r faultserver.Request) *faultserver.Fault {
	if r.Off >= openingBytes {
		return faultserver.Hang()
	}
	return nil
}
