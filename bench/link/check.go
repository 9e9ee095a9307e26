package link

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A CheckResult compares a link with what its parameters say.
type CheckResult struct {
	GoodputBits float64       // TCP payload, bits per second, measured in the second half of the transfer
	LinkBits    float64       // what came out of the link in that time, bits per second of IP packets
	Dropped     int64         // packets that found the queue full in that time
	WantBits    float64       // what the bandwidth leaves for TCP payload
	RTT         time.Duration // lower quartile of small datagrams on the idle link
	WantRTT     time.Duration
	CPU         time.Duration    // of the emulator, per second of full load
	Late        time.Duration    // the most that a packet came out after its time
	SlowStart   []SlowStartRound // of a fresh connection; nil where round trips are too short to tell
	WantLoss    float64          // Params.Loss
	Loss        float64          // share of the packets that were lost by it, while the throughput was measured
	Packets     int64            // of which that is the share
	MathisBits  float64          // what theory expects of the connections with which the throughput was measured
}

// What a good link keeps to. A lossy one is not held to goodput and slow start, which a lost packet changes, but to the
// share of its losses.
const (
	minGoodput        = 0.93
	maxRTTError       = time.Millisecond
	maxSlowStartError = 0.25 // of the segments of a round, for two acknowledgements that come in one piece
)

// Err says what is wrong, nil if nothing is.
func (r CheckResult) Err() error {
	var errs []error
	if r.WantLoss == 0 && r.GoodputBits < minGoodput*r.WantBits {
		errs = append(errs, fmt.Errorf("link carries %.1f Mbit/s of TCP payload, want %.1f", r.GoodputBits/1e6, r.WantBits/1e6))
	}
	if d := r.RTT - r.WantRTT; d > maxRTTError || d < -maxRTTError {
		errs = append(errs, fmt.Errorf("link has a round trip of %v, want %v", r.RTT, r.WantRTT))
	}
	for i, round := range r.SlowStart {
		if off := math.Abs(float64(round.Got-round.Want)) / float64(round.Want); r.WantLoss == 0 && off > maxSlowStartError {
			errs = append(errs, fmt.Errorf("link brings %d segments in %d round trips of slow start, want %d", round.Got, i+1, round.Want))
		}
	}
	if d := math.Abs(r.Loss - r.WantLoss); d > lossTolerance(r.WantLoss, r.Packets) {
		errs = append(errs, fmt.Errorf("link loses %.3f %% of %d packets, want %.3f %%", r.Loss*100, r.Packets, r.WantLoss*100))
	}
	return errors.Join(errs...)
}

func (r CheckResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.1f Mbit/s of %.1f Mbit/s TCP payload", r.GoodputBits/1e6, r.WantBits/1e6)
	if r.WantLoss > 0 {
		fmt.Fprintf(&b, " (%d connections with %.2f %% of %d packets lost; Mathis: %.1f Mbit/s)", checkConnections, r.Loss*100,
			r.Packets, r.MathisBits/1e6)
	}
	fmt.Fprintf(&b, ", round trip %.2f ms of %.2f ms", r.RTT.Seconds()*1e3, r.WantRTT.Seconds()*1e3)
	if len(r.SlowStart) > 0 {
		var got, want []string
		for _, round := range r.SlowStart {
			got, want = append(got, strconv.Itoa(round.Got)), append(want, strconv.Itoa(round.Want))
		}
		fmt.Fprintf(&b, ", slow start brings %s segments of %s by the end of its round trips", strings.Join(got, ", "), strings.Join(want, ", "))
	}
	fmt.Fprintf(&b, ", emulator %.0f %% of a core, %d packets dropped, none more than %.1f ms late", r.CPU.Seconds()*100, r.Dropped,
		r.Late.Seconds()*1e3)
	return b.String()
}

// checkAttempts is how often the link may be measured before it is called bad: on a busy machine it is the measurement
// that is starved now and then, and what counts is what the link can do.
const checkAttempts = 3

// Check measures the link, which must be idle, with a transfer towards the client of the given length, and once more if
// it is not what its parameters say, three times in all. The result is that of the last attempt.
func (l *Link) Check(ctx context.Context, length time.Duration) (r CheckResult, err error) {
	defer HoldGC()()
	for range checkAttempts {
		if r, err = l.checkOnce(ctx, length); err != nil || r.Err() == nil {
			break
		}
	}
	return r, err
}

func (l *Link) checkOnce(ctx context.Context, length time.Duration) (CheckResult, error) {
	rtt, err := l.checkRTT(ctx)
	if err != nil {
		return CheckResult{}, fmt.Errorf("measuring the link's round trip: %w", err)
	}
	payload := float64(l.Params.MSS()) / float64(l.Params.MTU)
	r := CheckResult{RTT: rtt, WantRTT: l.Params.RTT, WantBits: float64(l.Params.Bits) * payload, WantLoss: l.Params.Loss}
	r.MathisBits = min(r.WantBits, checkConnections*l.Params.MathisBits())
	if r.SlowStart, err = l.checkSlowStart(ctx); err != nil {
		return r, fmt.Errorf("measuring the link's slow start: %w", err)
	}
	if err := l.checkGoodput(ctx, length, &r); err != nil {
		return r, fmt.Errorf("measuring the link's throughput: %w", err)
	}
	return r, nil
}

// checkRTT sends small datagrams to and fro.
func (l *Link) checkRTT(ctx context.Context) (time.Duration, error) {
	var far net.PacketConn
	var near net.Conn
	err := l.Server.Do(func() (err error) {
		far, err = net.ListenPacket("udp4", net.JoinHostPort(l.ServerIP, "0"))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer far.Close()
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := far.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = far.WriteTo(b[:n], from)
		}
	}()
	err = l.Client.Do(func() (err error) {
		near, err = net.Dial("udp4", far.LocalAddr().String())
		return err
	})
	if err != nil {
		return 0, err
	}
	defer near.Close()
	defer context.AfterFunc(ctx, func() { near.Close() })()
	const rounds = 21
	var times []time.Duration
	b := make([]byte, 64)
	for i := 0; len(times) < rounds && i < 10*rounds; i++ {
		start := time.Now()
		_ = near.SetReadDeadline(start.Add(4*l.Params.RTT + time.Second))
		if _, err := near.Write([]byte{byte(i)}); err != nil {
			return 0, err
		}
		n, err := near.Read(b)
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) { // lost
			continue
		}
		if err != nil {
			return 0, err
		}
		if n == 1 && b[0] == byte(i) {
			times = append(times, time.Since(start))
		}
	}
	if len(times) == 0 {
		return 0, errors.New("no datagram came back")
	}
	slices.Sort(times)
	return times[len(times)/4], nil // a busy machine makes the upper ones late
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// checkConnections share the link while its throughput is measured: a single one may just be recovering from the
// losses at the end of its slow start.
const checkConnections = 4

// checkGoodput receives for the given length and counts the second half, when slow start is over.
func (l *Link) checkGoodput(ctx context.Context, length time.Duration, r *CheckResult) error {
	var listener net.Listener
	err := l.Server.Do(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(l.ServerIP, "0"))
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := make([]byte, 256<<10)
				for err == nil {
					_, err = conn.Write(b)
				}
			}()
		}
	}()
	var received atomic.Int64
	for range checkConnections {
		var conn net.Conn
		err = l.Client.Do(func() (err error) {
			conn, err = net.DialTimeout("tcp4", listener.Addr().String(), 5*time.Second)
			return err
		})
		if err != nil {
			return err
		}
		defer conn.Close()
		go func() {
			b := make([]byte, 256<<10)
			for {
				n, err := conn.Read(b)
				received.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	if err := sleep(ctx, length/2); err != nil {
		return err
	}
	n, before, start := received.Load(), l.Stats(), time.Now()
	if err := sleep(ctx, length/2); err != nil {
		return err
	}
	after := received.Load()
	used, took := l.Stats().Sub(before), time.Since(start).Seconds()
	r.GoodputBits = float64(after-n) * 8 / took
	r.LinkBits = float64(used.Down.Bytes) * 8 / took
	r.Late = used.Late
	r.Dropped = used.Down.Dropped
	lost := used.Down.Lost + used.Up.Lost
	r.Packets = lost + used.Down.Packets + used.Up.Packets
	r.Loss = float64(lost) / float64(max(1, r.Packets))
	r.CPU = time.Duration(float64(used.CPU) / took)
	return nil
}

// sleep waits, as the length of a measurement, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
