package link

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// meter is a pump between two pairs of sockets, which the test takes step by step: no thread, no device,
// and a clock that only moves when the test sleeps (testing/synctest). So its times are exact, however
// busy the machine is.
type meter struct {
	*pump
	in, out int // the ends that the test writes to and reads from
	scratch []byte
}

func newMeter(t *testing.T, spec string) *meter {
	t.Helper()
	params, err := Parse(spec)
	testrig.Must(t, err)
	pair := func() [2]int {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		testrig.Must(t, err)
		t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
		return fds
	}
	near, far := pair(), pair()
	params = params.withDefaults()
	return &meter{newPump(params, near[1], far[0], 0), near[0], far[1], make([]byte, params.MTU)}
}

// send gives the pump a packet of n bytes.
func (m *meter) send(t *testing.T, base time.Time, n int) {
	t.Helper()
	if err := writeFD(m.in, make([]byte, n)); err != 0 {
		t.Fatal(os.NewSyscallError("write", err))
	}
	if m.takeIn(base, m.scratch) != 1 {
		t.Fatal("the pump does not take what is sent")
	}
}

// received counts the packets that have come out.
func (m *meter) received() (n int) {
	for {
		if got, err := readFD(m.out, m.scratch); err != 0 || got == 0 {
			return n
		}
		n++
	}
}

// TestMeter keeps a link busy for some time: each packet comes out when the bytes before it have passed,
// half a round trip later.
func TestMeter(t *testing.T) {
	for _, spec := range []string{"20mbit/50ms", "100mbit/20ms", "100mbit/0.5ms", "1gbit/0s"} {
		t.Run(spec, func(t *testing.T) {
			m := newMeter(t, spec)
			synctest.Test(t, func(t *testing.T) {
				const size, length = 1500, 300 * time.Millisecond
				out := 0
				for base := time.Now(); time.Since(base) < length; time.Sleep(m.quantum) {
					now := time.Since(base)
					for m.lineEnd-now < time.Millisecond {
						m.send(t, base, size)
					}
					m.sendOut(now)
					for range m.received() {
						out++
						due := time.Duration(out)*timeFor(size, m.params.Bits) + m.params.RTT/2
						if early := due - now; early > m.quantum/2 || early < -m.quantum {
							t.Fatalf("packet %d came out %v after the start, due at %v", out, now, due)
						}
					}
				}
				want := bytesIn(length-m.params.RTT/2, m.params.Bits) / size
				c := m.counters()
				if int64(out) < want-10 || int64(out) > want+10 || c != (Counters{Bytes: c.Packets * size, Packets: int64(out)}) {
					t.Errorf("%d packets in %v, want %d; %+v", out, length, want, c)
				}
			})
		})
	}
}

// TestMeterDrops sends more at once than the queue holds: what fits in it passes.
func TestMeterDrops(t *testing.T) {
	m := newMeter(t, "10mbit/10ms")
	synctest.Test(t, func(t *testing.T) {
		const size, sent = 1000, 1000
		base := time.Now()
		for range sent {
			m.send(t, base, size)
		}
		passed := 0
		for ; time.Since(base) < time.Second; time.Sleep(m.quantum) {
			m.sendOut(time.Since(base))
			passed += m.received()
		}
		if fits := m.params.Queue / size; passed != fits || m.counters().Dropped != int64(sent-fits) {
			t.Errorf("%d packets of %d passed a queue that holds %d; %+v", passed, sent, fits, m.counters())
		}
	})
}

// TestMeterLoss: the share of lost packets is that of the parameters, and the same seed loses the same packets.
func TestMeterLoss(t *testing.T) {
	lost := func() int64 {
		m := newMeter(t, "1gbit/0s/10%")
		synctest.Test(t, func(t *testing.T) {
			base := time.Now()
			for range 10_000 {
				m.send(t, base, 100)
				time.Sleep(time.Microsecond)
				m.sendOut(time.Since(base))
				m.received()
			}
		})
		return m.counters().Lost
	}
	a := lost()
	if share := float64(a) / 10_000; share < 0.1-lossTolerance(0.1, 10_000) || share > 0.1+lossTolerance(0.1, 10_000) {
		t.Errorf("%.1f %% lost, want 10 %%", share*100)
	}
	if b := lost(); a != b {
		t.Errorf("%d packets lost, then %d with the same seed", a, b)
	}
}
