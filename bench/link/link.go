// Package link emulates a network link between two network namespaces, with the kernel's own TCP at both ends.
//
// Each end is a namespace with a TUN device. The packets that the kernel sends into one device are read by this
// process, metered at the link's bandwidth, held for half the round-trip time and written to the other device. A queue
// of bounded size stands before the meter; what does not fit is lost, as at a real bottleneck. So slow start, loss
// recovery and latency are those of real TCP; a proxy that sleeps per request shows none of them.
//
// Both ends are namespaces, not the host: congestion control, TCP metrics, firewall rules and addresses of the host do
// not reach the measurement, and nothing of the link is left when its process ends, even by SIGKILL.
//
// Traps. The pumps share the processors with what is measured: they wake up for groups of packets, run at real-time
// priority (else a busy machine would add latency no network has) and tell their CPU time in Stats. Segmentation
// offload is off, so at 1 Gbit/s each packet of 1500 bytes costs two system calls. A time-out of TCP is never below
// 200 ms: with loss, single runs differ widely.
package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Link is a running link. Make one with Open; safe for concurrent use.
type Link struct {
	Params   Params // as opened, defaults filled in
	Server   *Netns // where the server runs
	Client   *Netns // where the client runs
	ServerIP string // of the server's end, as seen from both
	ClientIP string

	device     string // of both ends
	clientLent bool   // Client is that of another link
	added      int    // links that were added to this one

	Congestion string // congestion control of both ends: "cubic", or the kernel's default where it lacks that

	down, up *pump // towards the client, towards the server
}

// Stats counts since Open. Bytes are those of IP packets with their headers.
type Stats struct {
	Down, Up Counters      // towards the client, towards the server
	CPU      time.Duration // processor time of the emulator itself
	Late     time.Duration // the most that a packet came out after its time since Open; Sub keeps the later snapshot's
}

// Counters are those of one direction.
type Counters struct {
	Bytes, Packets int64 // that came out at the far end
	Dropped        int64 // packets that found the queue full
	Lost           int64 // packets lost by Params.Loss or SetDown
}

// Sub returns what was counted since the earlier snapshot.
func (s Stats) Sub(earlier Stats) Stats {
	return Stats{Down: s.Down.sub(earlier.Down), Up: s.Up.sub(earlier.Up), CPU: s.CPU - earlier.CPU, Late: s.Late}
}

func (c Counters) sub(e Counters) Counters {
	return Counters{c.Bytes - e.Bytes, c.Packets - e.Packets, c.Dropped - e.Dropped, c.Lost - e.Lost}
}

// wantCongestion is the congestion control of both ends where the kernel has it: hosts differ in their default, and a
// plain web server runs with this one.
const wantCongestion = "cubic"

// minProcs is the least GOMAXPROCS with a link open. Each pump holds one of the Go scheduler's processors for good: would
// it share them, then on a busy machine all of them may be with threads that the kernel has set aside when a packet is
// due, and real-time priority would not help.
const minProcs = 16

// Open makes a link. Needs root and /dev/net/tun; raises GOMAXPROCS to 16 if it is less. Close ends it.
func Open(p Params) (*Link, error) { return openTo(p, nil, 0) }

// Add makes a link of its own between the same client and another server. It is closed before l.
func (l *Link) Add(p Params) (*Link, error) {
	l.added++
	return openTo(p, l.Client, l.added)
}

// openTo makes the n-th link of a client, which is a new one if nil.
func openTo(p Params, client *Netns, n int) (*Link, error) {
	p = p.withDefaults()
	if err := p.check(); err != nil {
		return nil, err
	}
	if runtime.GOMAXPROCS(0) < minProcs {
		runtime.GOMAXPROCS(minProcs)
	}
	serverAddr, clientAddr := [4]byte{10, 77, byte(n), 1}, [4]byte{10, 77, byte(n), 2}
	l := &Link{Params: p, ServerIP: netip.AddrFrom4(serverAddr).String(), ClientIP: netip.AddrFrom4(clientAddr).String(),
		device: fmt.Sprintf("link%d", n), Client: client, clientLent: client != nil}
	var err error
	if l.Server, err = newEnd(); err != nil {
		return nil, err
	}
	if !l.clientLent {
		if l.Client, err = newEnd(); err != nil {
			l.Server.Close()
			return nil, err
		}
	}
	serverFD, err := newTUN(l.Server, l.device, serverAddr, clientAddr, p.MTU)
	if err != nil {
		l.closeEnds()
		return nil, err
	}
	clientFD, err := newTUN(l.Client, l.device, clientAddr, serverAddr, p.MTU)
	if err != nil {
		unix.Close(serverFD)
		l.closeEnds()
		return nil, err
	}
	if l.Congestion, err = setCongestion(l); err != nil {
		err = errors.Join(err, unix.Close(serverFD), unix.Close(clientFD), l.closeEnds())
		return nil, err
	}
	l.down, l.up = newPump(p, serverFD, clientFD, 0), newPump(p, clientFD, serverFD, 1)
	if err := errors.Join(l.down.start(), l.up.start()); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// HoldGC runs the garbage collector and then holds it until release is called, for the time of a measurement. A collection
// stops the pumps, and on a busy machine for tens of milliseconds: until each of the process's threads has had its turn.
func HoldGC() (release func()) {
	runtime.GC()
	percent := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(percent) }
}

// newEnd makes the namespace of one end.
func newEnd() (*Netns, error) {
	n, err := newNetns()
	if err != nil {
		return nil, err
	}
	// A cached slow-start threshold of the run before would speed up or slow down the next one.
	err = n.Do(func() error { return setSysctl("net/ipv4/tcp_no_metrics_save", "1") })
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// setCongestion chooses the congestion control by route: the sysctl of a namespace takes only what the host allows to
// unprivileged programs.
func setCongestion(l *Link) (string, error) {
	known, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		return "", err
	}
	if !slices.Contains(strings.Fields(string(known)), wantCongestion) {
		b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
		return strings.TrimSpace(string(b)), err
	}
	for _, end := range []struct {
		ns       *Netns
		src, dst string
	}{{l.Server, l.ServerIP, l.ClientIP}, {l.Client, l.ClientIP, l.ServerIP}} {
		var said strings.Builder
		cmd := exec.Command("ip", "route", "replace", end.dst, "dev", l.device, "src", end.src, "congctl", wantCongestion)
		cmd.Stderr = &said
		err := end.ns.Start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			return "", fmt.Errorf("setting congestion control %s of the route to %s: %w %s", wantCongestion, end.dst, err,
				strings.TrimSpace(said.String()))
		}
	}
	return wantCongestion, nil
}

// SetDown cuts the line, or mends it. While it is cut all packets are lost, both ways, and counted in Counters.Lost.
func (l *Link) SetDown(down bool) {
	l.down.down.Store(down)
	l.up.down.Store(down)
}

// Stats returns a snapshot.
func (l *Link) Stats() Stats {
	return Stats{Down: l.down.counters(), Up: l.up.counters(), CPU: l.down.cpu() + l.up.cpu(),
		Late: time.Duration(max(l.down.late.Load(), l.up.late.Load()))}
}

// Close ends the link: its devices vanish, and its namespaces with the last process in them.
func (l *Link) Close() error {
	l.down.stop()
	l.up.stop()
	err := errors.Join(unix.Close(l.down.src), unix.Close(l.down.dst)) // up has the same two
	return errors.Join(err, l.closeEnds())
}

func (l *Link) closeEnds() error {
	if l.clientLent {
		return l.Server.Close()
	}
	return errors.Join(l.Server.Close(), l.Client.Close())
}

// String says what the link is, with its queue and congestion control.
func (l *Link) String() string {
	return fmt.Sprintf("%v, queue %d KiB, MTU %d, TCP %s", l.Params, l.Params.Queue>>10, l.Params.MTU, l.Congestion)
}
