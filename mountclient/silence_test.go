package mountclient

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Connections that cannot be made for two seconds are an outage: when it is over, a request that stays silent ends. One whose
// bytes were only held up does not.
func TestReturnedNetwork(t *testing.T) { synctest.Test(t, testReturnedNetwork) }

func testReturnedNetwork(t *testing.T) {
	mends := make(chan struct{})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case <-mends:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		near, far := net.Pipe()
		far.Close()
		return near, nil
	}
	var w watch
	w.last.Store(&endpoint{"tcp", "server:80"})
	begin := time.Now()
	var endedAt, goesOnEnded atomic.Int64
	ended := make(chan struct{})
	_, doneSilent := w.begin(dial, func() { endedAt.Store(int64(time.Since(begin))); close(ended) })
	goesOn, doneGoesOn := w.begin(dial, func() { goesOnEnded.Store(int64(time.Since(begin))) })
	defer doneGoesOn()
	const away = 3 * time.Second
	time.Sleep(away) // the length of the outage is what is tested
	close(mends)
	goesOn.hear()
	<-ended
	doneSilent()
	if late := time.Duration(endedAt.Load()) - away; late < graceTime || late > graceTime+2*probeEvery {
		t.Errorf("the silent request ended %v after the return, want %v and little more", late, graceTime)
	}
	time.Sleep(time.Minute)
	if at := goesOnEnded.Load(); at != 0 {
		t.Errorf("the request that went on ended after %v", time.Duration(at))
	}
}
