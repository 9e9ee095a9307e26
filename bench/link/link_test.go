package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, spec string) *Link {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	p, err := Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// A link that is added has a bandwidth of its own.
func TestAdd(t *testing.T) {
	l := open(t, "100mbit/4ms")
	more, err := l.Add(Params{Bits: 10e6, RTT: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := more.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []struct {
		l           *Link
		least, most float64
	}{{more, 1e6, 10e6}, {l, 12e6, 100e6}, {more, 1e6, 10e6}} {
		r, err := c.l.Check(t.Context(), time.Second)
		if err != nil || r.GoodputBits < c.least || r.GoodputBits > c.most || r.RTT < c.l.Params.RTT {
			t.Errorf("%v: %v, %v", c.l, r, err)
		}
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

func TestThroughputAndRTT(t *testing.T) {
	for _, spec := range []string{"20mbit/50ms", "100mbit/20ms", "100mbit/0.5ms"} {
		t.Run(spec, func(t *testing.T) {
			l := open(t, spec)
			r, err := l.Check(context.Background(), 2*time.Second) // slow start, then one second
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r)
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			if bits := float64(l.Params.Bits); r.LinkBits > bits*1.03 || r.LinkBits < bits*0.95 {
				t.Errorf("%.1f Mbit/s came out of the link", r.LinkBits/1e6)
			}
		})
	}
}

// TestGCWithIdleLink collects garbage while the pumps wait for packets that do not come.
func TestGCWithIdleLink(t *testing.T) {
	open(t, "100mbit/1ms")
	done := make(chan struct{})
	go func() {
		runtime.GC()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("the pumps keep the garbage collector waiting")
	}
}

// TestLoss sends datagrams one way and compares what is missing with the chance given.
func TestLoss(t *testing.T) {
	l := open(t, "100mbit/2ms/10%")
	var far net.PacketConn
	var near net.Conn
	if err := l.Server.Do(func() (err error) {
		far, err = net.ListenPacket("udp4", l.ServerIP+":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if err := l.Client.Do(func() (err error) {
		near, err = net.Dial("udp4", far.LocalAddr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	const sent, batch = 4000, 100 // a batch fits in the receiver's buffer
	got := 0
	b := make([]byte, 200)
	for range sent / batch {
		for range batch {
			if _, err := near.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		for {
			_ = far.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, _, err := far.ReadFrom(b); err != nil {
				break
			}
			got++
		}
	}
	if missing := float64(sent-got) / sent; missing < 0.07 || missing > 0.13 {
		t.Errorf("%.1f %% of %d packets lost, want 10 %%", missing*100, sent)
	}
	if c := l.Stats().Up; c.Lost != int64(sent-got) || c.Dropped != 0 || c.Packets != int64(got) {
		t.Errorf("%d packets arrived, counters say %+v", got, c)
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
	if err := l.Client.Do(func() error {
		near, err := net.Dial("udp4", l.ServerIP+":9")
		if err != nil {
			return err
		}
		defer near.Close()
		for range 5 {
			_, _ = near.Write(make([]byte, 100))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for l.Stats().Up.Lost-before.Lost < 5 {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", l.Stats().Up.sub(before))
		}
		time.Sleep(time.Millisecond)
	}
	if c := l.Stats().Up.sub(before); c.Packets != 0 {
		t.Errorf("%d packets passed a line that is cut", c.Packets)
	}
	l.SetDown(false)
	if _, err := l.checkRTT(t.Context()); err != nil {
		t.Errorf("after the line was mended: %v", err)
	}
}

// TestQueueDrops overruns the queue: what is dropped must be what does not fit, and the rest must take its time.
func TestQueueDrops(t *testing.T) {
	l := open(t, "10mbit/10ms")
	const packet, writes = 1000, 1000
	var near net.Conn
	if err := l.Client.Do(func() (err error) {
		near, err = net.Dial("udp4", l.ServerIP+":9")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	sent, began := int64(0), time.Now()
	for range writes {
		if _, err := near.Write(make([]byte, packet-28)); err == nil { // an ICMP answer fails a later write, which sends nothing
			sent++
		}
	}
	left := int64(time.Since(began).Seconds() * 10e6 / 8 / packet) // while they were written
	deadline := time.Now().Add(5 * time.Second)
	var c Counters
	for c.Packets+c.Dropped < sent {
		if time.Now().After(deadline) {
			t.Fatalf("%+v of %d packets after 5 s", c, sent)
		}
		time.Sleep(10 * time.Millisecond)
		c = l.Stats().Up
	}
	fits := int64(l.Params.Queue / packet)
	if c.Packets < fits-2 || c.Packets > fits+left+fits/4 {
		t.Errorf("%d packets passed a queue that holds %d, which let %d go while they were written", c.Packets, fits, left)
	}
}

// TestNothingLeft opens and closes links and looks for devices, descriptors and threads.
func TestNothingLeft(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	count := func(dir string) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	devices := func() string {
		out, err := exec.Command("ip", "-o", "link").CombinedOutput()
		if err != nil {
			t.Fatalf("ip link: %v: %s", err, out)
		}
		return string(out)
	}
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
