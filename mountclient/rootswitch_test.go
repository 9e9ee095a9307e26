package mountclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// A nameServer answers questions for addresses (RFC 1035) by UDP, all with the same one.
type nameServer struct {
	conn  net.PacketConn
	addr  atomic.Pointer[net.IP]
	asked atomic.Int32
}

// startNames answers at address, port 53 if it names none, until the test or the server is closed.
func startNames(t *testing.T, address string, answer net.IP) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn}
	s.addr.Store(&answer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if out := s.answer(buf[:n]); err == nil && out != nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return s
}

// answer returns the answer to a question, nil to bytes that are none. A name that begins with "missing." is not there.
func (s *nameServer) answer(q []byte) []byte {
	if len(q) < 17 {
		return nil
	}
	s.asked.Add(1)
	end := 12 + bytes.IndexByte(q[12:], 0) + 5 // the name, its type and its class
	if end > len(q) {
		return nil
	}
	out := append([]byte(nil), q[:end]...)
	copy(out[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // an answer, one question
	isA := binary.BigEndian.Uint16(q[end-4:]) == 1
	switch {
	case bytes.HasPrefix(q[12:], []byte("\x07missing")):
		out[3] = 0x83
	case isA:
		out[7] = 1
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4)
		out = append(out, s.addr.Load().To4()...)
	}
	return out
}

// A site is a web server by TLS that can move from one address to another.
type site struct {
	t    *testing.T
	port string
	conf *tls.Config
	file []byte

	mu   sync.Mutex
	srv  *http.Server
	seen atomic.Int32
}

func (s *site) start(ip string) {
	s.t.Helper()
	if s.port == "" {
		s.port = "0"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(ip, s.port))
	if err != nil {
		s.t.Error(err)
		return
	}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.seen.Add(1)
		http.ServeContent(w, r, "pack", time.Unix(1_700_000_000, 0), bytes.NewReader(s.file))
	})}
	s.mu.Lock()
	s.srv = srv
	s.mu.Unlock()
	go srv.Serve(tls.NewListener(l, s.conf))
}

func (s *site) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv.Close()
}

// initramfs makes a tree in a tmpfs with what the client needs to start, and returns where it is.
func initramfs(t *testing.T, bin, resolvConf string, ca []byte) string {
	t.Helper()
	tree := t.TempDir()
	if err := unix.Mount("tmpfs", tree, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(tree, unix.MNT_DETACH) })
	for _, dir := range []string{"bin", "etc/ssl/certs", "proc", "sys", "dev", "run", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(bin)
	err = errors.Join(err, os.WriteFile(tree+"/bin/bootprof-mount", b, 0o755))
	testrig.WriteFile(t, tree+"/etc/resolv.conf", resolvConf)
	testrig.WriteFile(t, tree+"/etc/ssl/certs/ca-certificates.crt", ca)
	err = errors.Join(err, unix.Mount("proc", tree+"/proc", "proc", 0, ""), unix.Mount("sysfs", tree+"/sys", "sysfs", 0, ""),
		unix.Mount("/dev", tree+"/dev", "", unix.MS_BIND, ""), unix.Mount("tmpfs", tree+"/run", "tmpfs", 0, ""))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// inFileSystem tells what the process has open in the file system with the number dev.
func (r *rootProc) inFileSystem(dev uint64) (out []string) {
	links, _ := filepath.Glob(r.proc("fd/*"))
	for _, l := range append(links, r.proc("cwd"), r.proc("root")) {
		if d, err := deviceOf(l); err == nil && d == dev {
			to, _ := os.Readlink(l)
			out = append(out, l+" -> "+to)
		}
	}
	return out
}

// The change of the root takes every file away that the client was started from. It goes on: it finds the server at
// another address as long as a name server answers, and at the last one without; it still verifies certificates.
func TestRootSurvivesTheSwitch(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, noZone)
	bin := program(t, "bootprof-mount")
	ca := newTestCA(t)
	pid := os.Getpid()
	own := func(n byte) net.IP { return net.IPv4(127, n, byte(pid>>8), byte(pid)) } // no other run of the tests listens there
	first, moved := own(84), own(85)
	names := startNames(t, net.JoinHostPort(own(83).String(), "53"), first)
	s := &site{t: t, file: p.raw, conf: &tls.Config{Certificates: []tls.Certificate{ca.issueFor(t, "pack.test")}}}
	s.start(first.String())
	t.Cleanup(s.stop)
	tree := initramfs(t, bin, "search nowhere.test\nnameserver "+own(83).String()+"\n", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
	r := startRoot(t, tree, "/bin/bootprof-mount", "--root", "https://pack.test:"+s.port+"/pack.bpk", "/root")
	r.wearsMark("bootprof-mount")

	// What switch_root does: the new root goes elsewhere, and the old one is emptied.
	r.dir = t.TempDir()
	if err := unix.Mount(tree+"/root", r.dir, "", unix.MS_MOVE, ""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"proc", "sys", "dev", "run"} {
		if err := unix.Unmount(tree+"/"+dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	entries, _ := os.ReadDir(tree)
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(tree, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	for _, where := range []string{tree, r.dir} {
		dev, err := deviceOf(where)
		if err != nil {
			t.Fatal(err)
		}
		if open := r.inFileSystem(dev); len(open) > 0 {
			t.Errorf("the client holds %v", open)
		}
	}
	if names, err := os.ReadDir(r.proc("root") + "/"); err != nil || len(names) > 0 {
		t.Errorf("the root directory of the client holds %v (%v), want nothing", names, err)
	}

	read := func(file string) {
		t.Helper()
		before := s.seen.Load()
		ctx, cancel := context.WithTimeout(t.Context(), testrig.Patience)
		defer cancel()
		cmd, out := role(roleSum, filepath.Join(r.dir, "big", file))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		defer stop()
		err := cmd.Wait()
		want, sum := runRole(t, roleSum, filepath.Join(p.source, "big", file))
		if err != nil || want != 0 || out.String() != sum {
			t.Fatalf("reading %s: %v, sum %s, want %s", file, err, out, sum)
		}
		if s.seen.Load() == before {
			t.Errorf("%s came without a request to the server", file)
		}
	}
	console := openKernelLog(t)
	read("file-0")
	s.stop()
	names.addr.Store(&moved)
	s.start(moved.String())
	read("file-2")
	s.stop()
	names.conn.Close()
	var told []string
	logged := func(text string) func() bool {
		return func() bool {
			told = append(told, console()...)
			return containsRecord(told, "3", text)
		}
	}
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		testrig.Await(testrig.Patience/2, logged("bootprof: network fault, readers wait until it is over"))
		s.start(moved.String())
	}()
	read("file-4")
	<-restarted
	code, out := runRole(t, roleCompare, p.source, r.dir)
	if code != 0 {
		t.Errorf("the tree differs from its source:\n%s", out)
	}
	r.ends()
	for _, want := range []string{"network fault, readers wait until it is over", "no name server knows the host", "network is back"} {
		testrig.Eventually(t, "a line on the console: "+want, logged("bootprof: "+want))
	}
}

// openKernelLog returns what returns the records of the kernel's log that came after the call.
func openKernelLog(t *testing.T) func() []string {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Seek(fd, 0, unix.SEEK_END)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() (out []string) {
		buf := make([]byte, 8192)
		for {
			n, err := unix.Read(fd, buf)
			if err == unix.EPIPE { // older records were overwritten
				continue
			}
			if err != nil {
				return out
			}
			out = append(out, string(buf[:n]))
		}
	}
}

// containsRecord looks for a record "PRIORITY,NUMBER,...;TEXT"; the level is in the lower three bits of its priority.
func containsRecord(records []string, level, text string) bool {
	for _, r := range records {
		head, said, _ := strings.Cut(r, ";")
		priority, _, _ := strings.Cut(head, ",")
		n, err := strconv.Atoi(priority)
		if err == nil && strconv.Itoa(n&7) == level && strings.HasPrefix(said, text) {
			return true
		}
	}
	return false
}
