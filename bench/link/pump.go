package link

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A pump carries packets one way. Its thread alone touches the ring; the counters are atomic.
//
//  1. read what the kernel sent into src;
//  2. meter: a packet starts when the one before has ended, and lasts as long as its bytes take; tail drop if too
//     many bytes wait; lose it by chance;
//  3. hold it in the ring for half the round trip;
//  4. write what has come out to dst;
//  5. sleep until something is due.
type pump struct {
	src, dst int // file descriptors of the TUN devices, non-blocking
	stopFD   int // eventfd
	params   Params
	quantum  time.Duration // groups of packets: one wake-up per quantum while packets flow
	line     *ring
	lineEnd  time.Duration // when the meter is free again
	dice     *rand.Rand

	down atomic.Bool // the line is cut: whatever would come out of it is lost

	bytes, packets, dropped, lost atomic.Int64
	late                          atomic.Int64 // nanoseconds, the most so far
	tid                           atomic.Int64 // of the thread, 0 once it has ended
	cpuAtEnd                      atomic.Int64 // nanoseconds
	ended                         chan struct{}
}

const (
	// A quantum is RTT/40 within these limits. 250 us are two packets at 100 Mbit/s.
	minQuantum = 50 * time.Microsecond
	maxQuantum = 250 * time.Microsecond

	// readBurst packets are read with one look at the clock.
	readBurst = 64
)

func newPump(p Params, src, dst int, direction uint64) *pump {
	// What waits, what is under way, and the slots' headers when all packets are small.
	flight := float64(p.Bits) / 8 * (p.RTT/2 + 10*time.Millisecond).Seconds()
	return &pump{
		src: src, dst: dst, stopFD: -1,
		params:  p,
		quantum: min(max(p.RTT/40, minQuantum), maxQuantum),
		line:    newRing(p.Queue+int(flight)*5/4+1<<20, p.MTU),
		dice:    rand.New(rand.NewPCG(p.Seed, direction)),
		ended:   make(chan struct{}),
	}
}

func (p *pump) start() (err error) {
	p.stopFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		close(p.ended)
		return fmt.Errorf("making the link's stop event: %w", err)
	}
	started := make(chan struct{})
	go func() {
		defer close(p.ended)
		runtime.LockOSThread() // not unlocked: the thread ends with its priority
		p.tid.Store(int64(unix.Gettid()))
		// Without the right to it the link still works, with more jitter on a busy machine.
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
		close(started)
		p.run()
		p.cpuAtEnd.Store(int64(p.cpu()))
		p.tid.Store(0)
	}()
	<-started
	return nil
}

// stop ends the pump's thread. The descriptors of the devices stay open.
func (p *pump) stop() {
	if p.stopFD < 0 {
		return
	}
	_, _ = unix.Write(p.stopFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-p.ended
	unix.Close(p.stopFD)
	p.stopFD = -1
}

func (p *pump) run() {
	base := time.Now()
	scratch := make([]byte, p.params.MTU)
	for {
		read := p.takeIn(base, scratch)
		now := time.Since(base)
		next := p.sendOut(now)
		if p.sleep(now, next, read > 0) {
			return
		}
	}
}

// takeIn reads all that waits in src and gives each packet the time at which it comes out.
func (p *pump) takeIn(base time.Time, scratch []byte) (read int) {
	var now time.Duration
	for ; ; read++ {
		if read%readBurst == 0 {
			now = time.Since(base)
		}
		slot := p.line.slot()
		full := slot == nil
		if full {
			slot = scratch
		}
		n, err := readFD(p.src, slot)
		if err != 0 || n == 0 {
			return read
		}
		waiting := max(0, p.lineEnd-now)
		if full || bytesIn(waiting, p.params.Bits)+int64(n) > int64(p.params.Queue) {
			p.dropped.Add(1)
			continue
		}
		p.lineEnd = max(p.lineEnd, now) + timeFor(n, p.params.Bits)
		if p.params.Loss > 0 && p.dice.Float64() < p.params.Loss { // it has taken its time on the line all the same
			p.lost.Add(1)
			continue
		}
		p.line.put(n, p.lineEnd+p.params.RTT/2)
	}
}

// sendOut writes what is due to dst and returns when the next packet is, 0 if there is none. Packets go out up to half
// a quantum early, as those that come out while the pump sleeps go late.
func (p *pump) sendOut(now time.Duration) (next time.Duration) {
	for {
		packet, out := p.line.first()
		if packet == nil {
			return 0
		}
		if out > now+p.quantum/2 {
			return out
		}
		if late := int64(now - out); late > p.late.Load() {
			p.late.Store(late)
		}
		// A device that is down or full loses the packet, as a receiver's would.
		if p.down.Load() {
			p.lost.Add(1)
		} else if writeFD(p.dst, packet) == 0 {
			p.packets.Add(1)
			p.bytes.Add(int64(len(packet)))
		} else {
			p.dropped.Add(1)
		}
		p.line.drop(len(packet))
	}
}

// sleep waits for the next departure or packet and reports whether the pump is to stop. While packets come in it does
// not wait for the next one but for the quantum, and takes all of them then.
func (p *pump) sleep(now, next time.Duration, busy bool) (stop bool) {
	fds := [2]unix.PollFd{{Fd: int32(p.stopFD), Events: unix.POLLIN}, {Fd: int32(p.src), Events: unix.POLLIN}}
	watch := fds[:]
	var timeout *unix.Timespec
	if next > 0 {
		ts := unix.NsecToTimespec(int64(max(next-now, p.quantum/2)))
		timeout = &ts
	}
	if busy {
		wait := p.quantum
		if next > 0 {
			wait = min(wait, max(next-now, p.quantum/2))
		}
		ts := unix.NsecToTimespec(int64(wait))
		timeout, watch = &ts, fds[:1]
	}
	return waitFDs(watch, timeout) > 0 && fds[0].Revents != 0
}

func (p *pump) counters() Counters {
	return Counters{p.bytes.Load(), p.packets.Load(), p.dropped.Load(), p.lost.Load()}
}

// cpu is the processor time of the pump's thread, read from its CPU clock (the clock id is computed as in
// pthread_getcpuclockid).
func (p *pump) cpu() time.Duration {
	tid := p.tid.Load()
	if tid == 0 {
		return time.Duration(p.cpuAtEnd.Load())
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^tid<<3|6), &ts); err != nil {
		return time.Duration(p.cpuAtEnd.Load())
	}
	return time.Duration(ts.Nano())
}

// timeFor is how long n bytes take on the line; bytesIn is the reverse.
func timeFor(n int, bits int64) time.Duration {
	return time.Duration(float64(n) * 8 * 1e9 / float64(bits))
}

func bytesIn(d time.Duration, bits int64) int64 {
	return int64(float64(d) / 1e9 * float64(bits) / 8)
}
