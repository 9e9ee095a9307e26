package mountclient

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// Mounts whose network fails. Each test runs itself again in network namespaces of its own: one of the clients, in which the test
// goes on, and one of the server, with a cable between them.

const (
	envNetwork = "BOOTPROF_TEST_NETWORK" // names the fault, in the process that makes it
	envPack    = "BOOTPROF_TEST_PACK"    // the pack's file and its source
	clientIP   = "10.84.0.2"
	serverIP   = "10.84.0.1"
	movedIP    = "10.84.0.9" // of the server, too
	otherIP    = "10.84.0.3" // that the client gets
)

// inNetwork runs the test itself again for each fault, all at once, with the fault's name in envNetwork.
func inNetwork(t *testing.T, faults ...string) {
	p := packOf(t, hotAndCold)
	pack := newFile(t, "pack.bpk", p.raw)
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			watchdog(t)
			name, _, _ := strings.Cut(t.Name(), "/")
			cmd, out := role("", "-test.run=^"+name+"$", "-test.v")
			cmd.Env = append(cmd.Env, envNetwork+"="+fault, envPack+"="+pack+":"+p.source)
			cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
			if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
				t.Errorf("%v\n%s", err, out)
			} else if strings.Contains(out.String(), "--- SKIP") {
				testrig.Missing(t, "%s", out)
			} else {
				t.Logf("%s", out)
			}
		})
	}
}

// labPack is the pack of the process that started this one.
func labPack(t *testing.T) *testPack {
	pack, source, _ := strings.Cut(os.Getenv(envPack), ":")
	return &testPack{source: source, raw: testrig.ReadFile(t, pack)}
}

// A lab is what this process runs in.
type lab struct {
	t      *testing.T
	server chan func() // to be done in the server's network namespace
}

// newLab lays the cable.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t, make(chan func())}
	thread := make(chan int)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		thread <- unix.Gettid()
		for f := range l.server {
			f()
		}
	}()
	t.Cleanup(func() { close(l.server) })
	l.ip("link set lo up")
	if out, err := exec.Command("ip", "link", "add", "cable", "type", "veth", "peer", "name", "peer", "netns", fmt.Sprint(<-thread)).CombinedOutput(); err != nil {
		testrig.Missing(t, "no virtual cable: %v: %s", err, out)
	}
	l.do(func() {
		l.ip("link set lo up")
		l.ip("addr add " + serverIP + "/24 dev peer")
		l.ip("addr add " + movedIP + "/24 dev peer")
		l.ip("link set peer up")
	})
	// An address stays when another one of its network goes.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/promote_secondaries", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	l.ip("addr add " + clientIP + "/24 dev cable")
	l.ip("link set cable up")
	return l
}

// do does something in the server's network namespace.
func (l *lab) do(f func()) {
	done := make(chan struct{})
	l.server <- func() { defer close(done); f() }
	<-done
}

func (l *lab) run(command string) {
	l.t.Helper()
	words := strings.Fields(command)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		l.t.Errorf("%s: %v: %s", command, err, out)
	}
}

func (l *lab) ip(words string) {
	l.t.Helper()
	l.run("ip " + words)
}

// serve serves the pack on the other end of the cable. The function it returns moves the server to another address.
func (l *lab) serve(p *testPack) (s *faultserver.Server, port string, move func(ip string)) {
	s, port = faultserver.New(p.raw), "0"
	var srv *http.Server
	move = func(ip string) {
		if srv != nil {
			srv.Close()
		}
		l.do(func() {
			listener, err := net.Listen("tcp", net.JoinHostPort(ip, port))
			if err != nil {
				l.t.Error(err)
				return
			}
			_, port, _ = net.SplitHostPort(listener.Addr().String())
			srv = &http.Server{Handler: s}
			go srv.Serve(listener)
		})
	}
	move(serverIP)
	l.t.Cleanup(func() { srv.Close() })
	return s, port, move
}

// A phased is a mount of which a fault is to hit one phase.
type phased struct {
	phase  string
	server *faultserver.Server
	rig    chan *rig
	move   func(ip string)
}

// clients brings a client to each phase that a fault may hit; that of the start begins with begin.
func (l *lab) clients(p *testPack, host string, change func(*MountOptions)) (all []*phased, begin func()) {
	start := func(c *phased, port string) {
		o := mountOptions(l.t, "http://"+net.JoinHostPort(host, port)+"/pack.bpk", change)
		o.StartTimeout = 0
		m, err := Mount(l.t.Context(), o)
		if err != nil {
			l.t.Errorf("%s: %v", c.phase, err)
			close(c.rig)
			return
		}
		c.rig <- &rig{Mounted: m, t: l.t, dir: o.Dir, run: o.RunDir, loop: -1}
	}
	for _, phase := range matrixPhases {
		s, port, move := l.serve(p)
		c := &phased{phase, s, make(chan *rig, 1), move}
		all = append(all, c)
		if phase == "start" {
			begin = func() { go start(c, port) }
			continue
		}
		if phase == "booting" {
			s.Script(beyondOpening)
		}
		start(c, port)
		r, ok := <-c.rig
		if !ok {
			l.t.FailNow()
		}
		if phase == "after" {
			r.hot()
		} else if r.Client.hot.Load() > 0 {
			l.t.Fatal("the boot zone is complete before its bytes came")
		}
		c.rig <- r
	}
	return all, begin
}

// survive makes an outage of d that hits all clients while their trees are compared, and checks that they go on soon.
// during is what the servers do meanwhile; an answer that is held up until then comes on a connection that is dead.
func (l *lab) survive(p *testPack, all []*phased, begin, cut, mend func(), during faultserver.Script, d, limit time.Duration) {
	late := watchLateness(l.t)
	stood := late.stood.Load()
	sum := make(chan struct{}, len(all))
	cut()
	for _, c := range all {
		c.server.Script(during)
	}
	begin()
	for _, c := range all {
		go func() {
			defer func() { sum <- struct{}{} }()
			if r, ok := <-c.rig; ok {
				r.compare(p)
				r.hot()
				r.unmount()
			}
		}()
	}
	time.Sleep(d) // the length of the outage
	back := late.outageEnds()
	mend()
	for _, c := range all {
		c.server.Script(nil)
	}
	for _, c := range all {
		back.resumed(l.t, c.phase, waitAnswer(l.t, c.server, back.at), limit+late.waits(d, stood))
	}
	for range all {
		<-sum
	}
}

// A cable that is out, packets that vanish, and an address of the client's own that changes meanwhile or at once.
func TestMountsSurviveCableOut(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	const down, lost, renumbered, replaced = "down", "lost", "other address", "other address at once"
	fault := os.Getenv(envNetwork)
	if fault == "" {
		inNetwork(t, down, lost, renumbered, replaced)
		return
	}
	testrig.NeedProgram(t, "tc", "ip")
	p := labPack(t)
	l := newLab(t)
	all, begin := l.clients(p, serverIP, nil)
	cut, mend := func() {}, func() {}
	var during faultserver.Script
	d := 2500 * time.Millisecond
	switch fault {
	case down:
		cut = func() { l.ip("link set cable down") }
		mend = func() { l.ip("link set cable up") }
	case lost:
		cut = func() { l.run("tc qdisc replace dev cable root blackhole") }
		mend = func() { l.run("tc qdisc del dev cable root") }
	case renumbered:
		cut = func() { l.ip("addr del " + clientIP + "/24 dev cable") }
		mend = func() { l.ip("addr add " + otherIP + "/24 dev cable") }
	case replaced: // the new one is there before the old one goes: nothing tells of it but silence
		d, during = 500*time.Millisecond, faultserver.Always(faultserver.Hang())
		mend = func() {
			l.ip("addr add " + otherIP + "/24 dev cable")
			l.ip("addr del " + clientIP + "/24 dev cable")
		}
	}
	l.survive(p, all, begin, cut, mend, during, d, resumeWithin)
}

// A name server that is silent, or not there, while the server moves to another address. A client that carries a root asks by
// itself, any other the way that Go does.
func TestMountsSurviveNameServerGone(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	const silent, refuses, silentForGo = "silent", "refuses", "silent, not a root"
	fault := os.Getenv(envNetwork)
	if fault == "" {
		inNetwork(t, silent, refuses, silentForGo)
		return
	}
	p := labPack(t)
	l := newLab(t)
	conf := newFile(t, "resolv.conf", "nameserver "+clientIP+"\n")
	if err := unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		testrig.Missing(t, "no other resolv.conf: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount("/etc/resolv.conf", unix.MNT_DETACH) })
	address := net.JoinHostPort(clientIP, "53")
	names := startNames(t, address, net.ParseIP(serverIP))
	all, begin := l.clients(p, "pack.test", func(o *MountOptions) { o.Root = fault != silentForGo })
	var mute net.PacketConn
	cut := func() {
		names.conn.Close()
		if fault != refuses {
			var err error
			if mute, err = net.ListenPacket("udp", address); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range all {
			c.move(movedIP)
		}
	}
	mend := func() {
		if mute != nil {
			mute.Close()
		}
		startNames(t, address, net.ParseIP(movedIP))
	}
	limit := askServer + maxDialWait // a question that was not answered is not asked again sooner
	if fault == silentForGo {
		limit = dialTimeout + maxDialWait
	}
	l.survive(p, all, begin, cut, mend, nil, 2500*time.Millisecond, limit)
}
