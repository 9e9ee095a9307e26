package link

import (
	"context"
	"net"
	"sync"
	"time"
)

// A SlowStartRound is one round trip of a connection's begin.
type SlowStartRound struct {
	Want, Got int // full segments that had arrived by its end
}

// checkSlowStart receives the first bytes of one fresh connection and counts what has arrived at the end of each round trip.
// nil on a link whose round trips cannot be told apart.
func (l *Link) checkSlowStart(ctx context.Context) (rounds []SlowStartRound, err error) {
	n := l.Params.slowStartRounds()
	if n == 0 {
		return nil, nil
	}
	var listener net.Listener
	err = l.Server.Do(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(l.ServerIP, "0"))
		return err
	})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		// More than is counted, so that the end of the data limits nothing.
		_, _ = conn.Write(make([]byte, 4*slowStartSegments(n)*l.Params.MSS()))
	}()
	var conn net.Conn
	err = l.Client.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", listener.Addr().String(), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	type arrival struct {
		at    time.Time
		bytes int
	}
	var mu sync.Mutex
	var arrivals []arrival
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 256<<10)
		for {
			n, err := conn.Read(b)
			mu.Lock()
			arrivals = append(arrivals, arrival{time.Now(), n})
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	err = sleep(ctx, time.Duration(n+3)*l.Params.RTT)
	conn.Close()
	<-ended
	if err != nil || len(arrivals) == 0 {
		return nil, err
	}
	// The server begins when it accepts, so the first burst's begin is the clock; three quarters of a round trip later a
	// burst has arrived, and the next one has not begun.
	for i := 1; i <= n; i++ {
		end := arrivals[0].at.Add(time.Duration(i-1)*l.Params.RTT + l.Params.RTT*3/4)
		got := 0
		for _, a := range arrivals {
			if !a.at.After(end) {
				got += a.bytes
			}
		}
		rounds = append(rounds, SlowStartRound{Want: slowStartSegments(i), Got: got / l.Params.MSS()})
	}
	return rounds, nil
}
