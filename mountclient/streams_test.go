package mountclient

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// A link gives each of n streams so many bytes per second, and all of them together no more than its own rate.
func TestStreamCount(t *testing.T) {
	const pauses, steady = 0.6, 0.01
	for name, c := range map[string]struct {
		each, link, opening, paused float64
		lossy                       bool
		want                        int
	}{
		"clean link":                {12e6, 12e6, 9e6, steady, false, 1},
		"full queue":                {12e6, 12e6, 9e6, steady, true, 1},
		"full queue, busy machine":  {11e6, 12e6, 14e6, pauses, true, 1},
		"busy machine":              {0.9e6, 12e6, 9e6, pauses, false, 1},
		"loss":                      {0.9e6, 12e6, 9e6, pauses, true, 8},
		"loss, link is soon full":   {0.9e6, 3.6e6, 3e6, pauses, true, 4},
		"loss, opening much slower": {0.9e6, 12e6, 0.5e6, pauses, true, 1},
		"slow link, looks pausing":  {0.1e6, 0.1e6, 0.1e6, pauses, true, 1},
		"other downloads come":      {0.3e6, 0.3e6, 0.6e6, pauses, true, 1},
	} {
		count := streamCount{best: c.opening}
		n, at := 1, map[int]int{}
		for range 200 {
			n = count.next(min(float64(n)*c.each, c.link), c.paused, c.lossy)
			at[n]++
		}
		if at[c.want] < 180 {
			t.Errorf("%s: windows by number of streams %v, want %d", name, at, c.want)
		}
	}
}

// What is measured is told from reads: steady ones leave one stream, bursts with pauses make more.
func TestStreamsByReads(t *testing.T) {
	for name, c := range map[string]struct {
		gaps []time.Duration // over and over
		more bool
	}{
		"steady": {[]time.Duration{2 * time.Millisecond}, false},
		"bursts": {[]time.Duration{time.Millisecond, time.Millisecond, 18 * time.Millisecond}, true},
	} {
		var m streams
		now := time.Unix(1, 0)
		m.open(300_000, now, 20*time.Millisecond)
		m.open(64_000, now.Add(time.Second), 20*time.Millisecond)
		now = now.Add(time.Second)
		more := false
		for i := range 100 {
			now = now.Add(c.gaps[i%len(c.gaps)])
			more = m.read(10_000, now, 20*time.Millisecond, func() bool { return true }) && m.n > 1 || more
		}
		if more != c.more {
			t.Errorf("%s: more than one stream: %t", name, more)
		}
	}
}

// The kernel tells what waits to be read, under TLS as well, and nothing of what is no socket.
func TestUnread(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := far.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	testrig.Eventually(t, "all that was sent waits", func() bool { return unread(conn) == 5000 })
	if n := unread(tls.Client(conn, &tls.Config{})); n != 5000 {
		t.Errorf("%d bytes wait under TLS, want 5000", n)
	}
	if _, err := io.ReadFull(conn, make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	if n := unread(conn); n != 3000 {
		t.Errorf("%d bytes wait, want 3000", n)
	}
	if near, _ := net.Pipe(); unread(near) != 0 || outOfOrder(near) != 0 {
		t.Error("a pipe is no socket")
	}
}

// A stream pauses for more to come only when little came and little waits. Under TLS a read brings one record: with a pause
// after each, https was capped at 16 KiB in 2 ms.
func TestGathers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testrig.Must(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	testrig.Must(t, err)
	defer conn.Close()
	far, err := l.Accept()
	testrig.Must(t, err)
	defer far.Close()
	const record = 16 << 10
	if !gathers(record, conn) || !gathers(record, nil) {
		t.Error("no pause though little came and nothing waits")
	}
	if gathers(gatherBytes, conn) {
		t.Error("a pause though much came")
	}
	_, err = far.Write(make([]byte, 2*gatherBytes))
	testrig.Must(t, err)
	testrig.Eventually(t, "all that was sent waits", func() bool { return unread(conn) == 2*gatherBytes })
	if gathers(record, tls.Client(conn, &tls.Config{})) {
		t.Error("a pause though more waits under TLS")
	}
}
