package link

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// TestAddClients lets clients behind the link ask the server for their own address, and for enough bytes to see that they share
// its bandwidth.
func TestAddClients(t *testing.T) {
	l := open(t, "50mbit/4ms")
	const n, size = 3, 500_000
	clients, err := l.AddClients(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range clients {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	var listener net.Listener
	if err := l.Server.Do(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort(l.ServerIP, "0"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	from := make(chan string, n)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			from <- netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr().String()
			go func() {
				_, _ = conn.Write(make([]byte, size))
				conn.Close()
			}()
		}
	}()
	began := time.Now()
	done := make(chan error, n)
	for _, c := range clients {
		go func() {
			var conn net.Conn
			err := c.Do(func() (err error) {
				conn, err = net.DialTimeout("tcp4", listener.Addr().String(), testrig.Patience)
				return err
			})
			if err == nil {
				_ = conn.SetDeadline(time.Now().Add(testrig.Patience))
				var got int64
				if got, err = io.Copy(io.Discard, conn); err == nil && got != size {
					err = io.ErrUnexpectedEOF
				}
				conn.Close()
			}
			done <- err
		}()
	}
	seen := map[string]bool{}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		seen[<-from] = true
	}
	if !seen["10.78.0.2"] || !seen["10.78.0.6"] || !seen["10.78.0.10"] {
		t.Errorf("the server saw %v", seen)
	}
	if took, least := time.Since(began), timeFor(n*size, l.Params.Bits); took < least {
		t.Errorf("%d bytes came through in %v: one link would take %v", n*size, took, least)
	}
	if _, err := l.AddClients(1 << 20); err == nil {
		t.Error("more clients than addresses")
	}
}

func TestHerdAddresses(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for i := range 1 << 14 {
		near, far := herdAddresses(i)
		if seen[near] || seen[far] || near.Next() != far || !netip.MustParsePrefix("10.78.0.0/16").Contains(far) {
			t.Fatalf("client %d: %v, %v", i, near, far)
		}
		seen[near], seen[far] = true, true
	}
}
