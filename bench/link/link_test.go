package link

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

func open(t *testing.T, spec string) *Link {
	t.Helper()
	testrig.NeedDevices(t, "/dev/net/tun")
	testrig.NeedProgram(t, "ip")
	p, err := Parse(spec)
	testrig.Must(t, err)
	l, err := Open(p)
	testrig.Must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// transfer has the client receive n bytes over one TCP connection. It returns how long that took, and what
// the server's TCP says of it. What has passed a link by then cannot have passed in less time than its
// rate allows, however busy the machine is.
func transfer(t *testing.T, l *Link, n int) (time.Duration, *unix.TCPInfo) {
	t.Helper()
	var listener net.Listener
	testrig.Must(t, l.Server.Do(func() (err error) {
		listener, err = net.Listen("tcp4", l.ServerIP+":0")
		return err
	}))
	defer listener.Close()
	served := make(chan *net.TCPConn, 1)
	go func() {
		defer close(served)
		if conn, err := listener.Accept(); err == nil {
			_, _ = conn.Write(make([]byte, n))
			served <- conn.(*net.TCPConn)
		}
	}()
	began := time.Now()
	var conn net.Conn
	testrig.Must(t, l.Client.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", listener.Addr().String(), testrig.Patience)
		return err
	}))
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(testrig.Patience))
	if got, err := io.CopyN(io.Discard, conn, int64(n)); err != nil {
		t.Fatalf("%v: %d bytes of %d came, %v", l, got, n, err)
	}
	took := time.Since(began)
	server := <-served
	defer server.Close()
	raw, err := server.SyscallConn()
	testrig.Must(t, err)
	var info *unix.TCPInfo
	testrig.Must(t, raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	testrig.Must(t, err)
	return took, info
}

// A link that is added has a bandwidth of its own.
func TestAdd(t *testing.T) {
	l := open(t, "100mbit/4ms")
	more, err := l.Add(Params{Bits: 10e6, RTT: 10 * time.Millisecond})
	testrig.Must(t, err)
	defer func() {
		if err := more.Close(); err != nil {
			t.Error(err)
		}
	}()
	const n = 250_000
	took, _ := transfer(t, more, n)
	if least := timeFor(n, more.Params.Bits); took < least {
		t.Errorf("%v: %d bytes in %v, less than %v", more, n, took, least)
	}
	if s := l.Stats(); s.Down.Bytes+s.Up.Bytes != 0 {
		t.Errorf("what passed the other link is counted as %+v", s)
	}
	before := more.Stats()
	testrig.Eventually(t, "a transfer that is faster than the added link", func() bool {
		took, _ := transfer(t, l, n)
		return took < timeFor(n, more.Params.Bits)
	})
	if s := more.Stats().Sub(before); s.Down.Bytes+s.Up.Bytes > 1000 { // of the connection's end
		t.Errorf("what passed the first link is counted at the added one as %+v", s)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Params
		bad  string // part of the error
	}{
		{in: "100mbit/20ms", want: Params{Bits: 100e6, RTT: 20 * time.Millisecond}},
		{in: "1Gbit/0.5ms", want: Params{Bits: 1e9, RTT: 500 * time.Microsecond}},
		{in: "2.5mbit/1s/1%", want: Params{Bits: 2.5e6, RTT: time.Second, Loss: 0.01}},
		{in: "56kbit/0s/0.1%", want: Params{Bits: 56e3, Loss: 0.001}},
		{in: "128000bit/5ms", want: Params{Bits: 128e3, RTT: 5 * time.Millisecond}},
		{in: "", bad: "want BANDWIDTH/RTT"},
		{in: "100mbit", bad: "want BANDWIDTH/RTT"},
		{in: "100/20ms", bad: "bandwidth"},
		{in: "100mb/20ms", bad: "bandwidth"},
		{in: "-1mbit/20ms", bad: "bandwidth"},
		{in: "NaNmbit/20ms", bad: "bandwidth"},
		{in: "infgbit/20ms", bad: "bandwidth"},
		{in: "0mbit/20ms", bad: "bandwidth"},
		{in: "1mbit/20", bad: "round trip"},
		{in: "1mbit/-20ms", bad: "round trip"},
		{in: "1mbit/2m", bad: "round trip"},
		{in: "1mbit/20ms/1", bad: "loss"},
		{in: "1mbit/20ms/100%", bad: "loss"},
		{in: "1mbit/20ms/NaN%", bad: "loss"},
		{in: "1mbit/20ms/1%/2", bad: "want BANDWIDTH/RTT"},
	} {
		got, err := Parse(c.in)
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("Parse(%q): %v, want an error with %q", c.in, err, c.bad)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
		again, err := Parse(got.String())
		if err != nil || again != got {
			t.Errorf("Parse(%q), the form of %q, = %+v, %v", got.String(), c.in, again, err)
		}
	}
}

// TestRing passes packets of all sizes through a small ring and expects them in order, whole, none lost silently.
func TestRing(t *testing.T) {
	const largest = 64
	r := newRing(3*largest, largest)
	var queue [][]byte
	seq := uint32(0)
	for i := range 20000 {
		if i%3 != 2 || len(queue) == 0 {
			if slot := r.slot(); slot != nil {
				n := 4 + int(seq*7)%(largest-3)
				binary.LittleEndian.PutUint32(slot, seq)
				for k := 4; k < n; k++ {
					slot[k] = byte(seq)
				}
				queue = append(queue, bytes.Clone(slot[:n]))
				r.put(n, time.Duration(seq))
				seq++
				continue
			}
		}
		packet, out := r.first()
		if !bytes.Equal(packet, queue[0]) || uint32(out) != binary.LittleEndian.Uint32(packet) {
			t.Fatalf("step %d: got %x out at %d, want %x", i, packet, out, queue[0])
		}
		r.drop(len(packet))
		queue = queue[1:]
	}
	if seq < 5000 {
		t.Fatalf("only %d packets fitted", seq)
	}
}

// TestThroughputAndRTT: no byte passes faster than the link's rate and no packet sooner than its round
// trip. How near a link comes to them on this machine is measured by Check at the start of each benchmark;
// TestMeter has the exact times, by a clock of its own.
func TestThroughputAndRTT(t *testing.T) {
	testrig.Slow(t)
	for _, spec := range []string{"20mbit/50ms", "100mbit/20ms", "100mbit/0.5ms"} {
		t.Run(spec, func(t *testing.T) {
			began := time.Now()
			l := open(t, spec)
			n := int(l.Params.Bits / 8 / 5)
			transfer(t, l, n)
			out := l.Stats().Down
			if took, least := time.Since(began), timeFor(int(out.Bytes), l.Params.Bits)+l.Params.RTT/2-maxQuantum; took < least {
				t.Errorf("%d bytes came out of the link in %v: it would take %v", out.Bytes, took, least)
			}
			if packets := n / l.Params.MSS(); out.Bytes < int64(n+packets*headerBytes) || out.Packets < int64(packets) {
				t.Errorf("%+v for %d bytes in segments of %d", out, n, l.Params.MSS())
			}
			if rtt, err := l.checkRTT(t.Context()); err != nil || rtt < l.Params.RTT-maxQuantum {
				t.Errorf("a round trip of %v, %v", rtt, err)
			}
		})
	}
}

// TestGCWithIdleLink collects garbage while the pumps wait for packets that do not come.
func TestGCWithIdleLink(t *testing.T) {
	open(t, "100mbit/1ms")
	var done atomic.Bool
	go func() {
		runtime.GC()
		done.Store(true)
	}()
	testrig.Eventually(t, "a garbage collection beside idle pumps", done.Load)
}

// TestLoss sends datagrams one way and compares what is missing with the chance given.
func TestLoss(t *testing.T) {
	l := open(t, "100mbit/2ms/10%")
	var far net.PacketConn
	var near net.Conn
	testrig.Must(t, l.Server.Do(func() (err error) {
		far, err = net.ListenPacket("udp4", l.ServerIP+":0")
		return err
	}))
	defer far.Close()
	testrig.Must(t, l.Client.Do(func() (err error) {
		near, err = net.Dial("udp4", far.LocalAddr().String())
		return err
	}))
	defer near.Close()
	const sent, batch = 4000, 100 // a batch fits in the receiver's buffer
	_ = far.SetReadDeadline(time.Now().Add(testrig.Patience))
	got, b := int64(0), make([]byte, 200)
	for n := int64(batch); n <= sent; n += batch {
		for range batch {
			_, err := near.Write(make([]byte, 100))
			testrig.Must(t, err)
		}
		testrig.Eventually(t, "a batch to pass or to be lost", func() bool {
			c := l.Stats().Up
			return c.Packets+c.Lost+c.Dropped == n
		})
		for ; got < l.Stats().Up.Packets; got++ {
			_, _, err := far.ReadFrom(b)
			testrig.Must(t, err)
		}
	}
	c := l.Stats().Up
	if missing := float64(sent-got) / sent; missing < 0.07 || missing > 0.13 || c.Dropped != 0 {
		t.Errorf("%.1f %% of %d packets lost, want 10 %%; %+v", missing*100, sent, c)
	}
}

// TestSetDown cuts the line and mends it.
func TestSetDown(t *testing.T) {
	l := open(t, "100mbit/2ms")
	if _, err := l.checkRTT(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.SetDown(true)
	before := l.Stats().Up
	testrig.Must(t, l.Client.Do(func() error {
		near, err := net.Dial("udp4", l.ServerIP+":9")
		if err != nil {
			return err
		}
		defer near.Close()
		for range 5 {
			_, _ = near.Write(make([]byte, 100))
		}
		return nil
	}))
	testrig.Eventually(t, "five packets to be lost", func() bool { return l.Stats().Up.Lost-before.Lost >= 5 })
	if c := l.Stats().Up.sub(before); c.Packets != 0 {
		t.Errorf("%d packets passed a line that is cut", c.Packets)
	}
	l.SetDown(false)
	if _, err := l.checkRTT(t.Context()); err != nil {
		t.Errorf("after the line was mended: %v", err)
	}
}

// TestQueueDrops overruns the queue: each packet passes or is dropped, and what the queue holds passes.
// TestMeterDrops has the exact number.
func TestQueueDrops(t *testing.T) {
	l := open(t, "10mbit/10ms")
	const packet, writes = 1000, 1000
	var near net.Conn
	testrig.Must(t, l.Client.Do(func() (err error) {
		near, err = net.Dial("udp4", l.ServerIP+":9")
		return err
	}))
	defer near.Close()
	sent := int64(0)
	for range writes {
		if _, err := near.Write(make([]byte, packet-28)); err == nil { // an ICMP answer fails a later write, which sends nothing
			sent++
		}
	}
	var c Counters
	testrig.Eventually(t, "each packet to pass or to be dropped", func() bool {
		c = l.Stats().Up
		return c.Packets+c.Dropped >= sent
	})
	if fits := int64(l.Params.Queue / packet); c.Packets < min(sent, fits) || c.Packets+c.Dropped > sent {
		t.Errorf("%d packets passed and %d were dropped of %d sent; the queue holds %d", c.Packets, c.Dropped, sent, fits)
	}
}

// TestNothingLeft opens and closes links and looks for devices, descriptors and threads.
func TestNothingLeft(t *testing.T) {
	testrig.NeedDevices(t, "/dev/net/tun")
	count := func(dir string) int {
		entries, err := os.ReadDir(dir)
		testrig.Must(t, err)
		return len(entries)
	}
	devices := func() string { return testrig.Run(t, "ip", "-o", "link") }
	net.Interfaces() // whatever opens a descriptor once for good
	before, devBefore := count("/proc/self/fd"), devices()
	for range 5 {
		p, _ := Parse("100mbit/1ms")
		l, err := Open(p)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("cat", "/proc/net/dev")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := l.Client.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "link0:") {
			t.Fatalf("devices of a process in the namespace: %v\n%s", err, &out)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := count("/proc/self/fd"); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if after := devices(); after != devBefore {
		t.Errorf("devices before:\n%s\nafter:\n%s", devBefore, after)
	}
}
