package initramfs_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bootprof/bench/serve"
	"bootprof/internal/testrig"
	"bootprof/recorder/vm"
)

// imagesEnv names the directory that scripts/make-vm-images.sh filled; `make test-vm` sets it.
const imagesEnv = "BOOTPROF_VM_IMAGES"

const (
	// loginWait is how long an emulated machine may take to its login, on a machine with other work to do.
	loginWait = 8 * time.Minute

	// endWait is how long it may take from the command to its end. A process that hangs costs the 90 s of
	// systemd's time-out; that is seen by what the console says (hung), not by the time, which depends on
	// what else the host does.
	endWait = 8 * time.Minute
)

var (
	login    = regexp.MustCompile(`login: `)
	panicked = regexp.MustCompile(`\(initramfs\) `)
	rootLine = regexp.MustCompile(`bootprof: (.*) is (.*), mounted ([0-9.]+) s after the network was up`)
	ioErrors = regexp.MustCompile(`(?i)I/O error|erofs.*(error|failed)|squashfs error|Buffer I/O`)
	outage   = regexp.MustCompile(`bootprof: network fault, readers wait`)

	// hung is what systemd prints about a process that does not end: of a unit that is stopped, for which it
	// waits 90 s, and at the end of all that are left.
	hung = regexp.MustCompile(`.*(timed out\. Killing|Sending SIGKILL to PID [0-9]|A stop job .*\(1min 2[0-9]s / 1min 30s\)).*`)
)

// image returns the path of a file that make-vm-images.sh made. All tests that boot machines begin with
// it: they run in a step of their own, scripts/test-vm.sh, which makes these files first and names their
// directory.
func image(t *testing.T, name string) string {
	t.Helper()
	testrig.Slow(t)
	dir := os.Getenv(imagesEnv)
	if dir == "" {
		testrig.Elsewhere(t, "scripts/test-vm.sh makes the images of these machines and boots them")
	}
	path := filepath.Join(dir, name)
	_, err := os.Stat(path)
	testrig.Must(t, err)
	return path
}

// A site is an nginx on the loopback interface, which a guest reaches as vm.HostAddress.
type site struct {
	t    *testing.T
	root string
	port int
	srv  *serve.Server
	tls  *serve.TLS
}

func newSite(t *testing.T, root string, tls *serve.TLS) *site {
	t.Helper()
	s := &site{t: t, root: root, port: testrig.FreePort(t), tls: tls}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *site) start() {
	s.t.Helper()
	srv, err := serve.Start(serve.Options{Root: s.root, Addr: "127.0.0.1", Port: s.port, TLS: s.tls})
	testrig.Must(s.t, err)
	s.srv = srv
}

// stop ends the server, if it runs: connections are reset.
func (s *site) stop() {
	if s.srv != nil {
		if err := s.srv.Close(); err != nil {
			s.t.Error(err)
		}
		s.srv = nil
	}
}

// once wants next to no bytes to have been sent twice so far.
func (s *site) once() {
	s.t.Helper()
	all, err := s.srv.Requests(time.Time{}, time.Time{})
	testrig.Must(s.t, err)
	slices.SortFunc(all, func(a, b serve.Request) int { return cmp.Compare(rangeStart(a.Range), rangeStart(b.Range)) })
	var sent, twice, end int64
	for _, r := range all {
		if r.Status != http.StatusPartialContent || r.BodyBytes == 0 {
			continue
		}
		start := rangeStart(r.Range)
		sent += r.BodyBytes
		twice += min(r.BodyBytes, max(0, end-start))
		end = max(end, start+r.BodyBytes)
	}
	s.t.Logf("%d requests, %d bytes, %d of them a second time", len(all), sent, twice)
	if sent == 0 || twice*50 > sent {
		s.t.Errorf("of %d bytes %d were sent twice", sent, twice)
	}
}

// rangeStart returns A of "bytes=A-B".
func rangeStart(header string) int64 {
	from, _, _ := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	n, _ := strconv.ParseInt(from, 10, 64)
	return n
}

// url is that of a file as the guest asks for it.
func (s *site) url(name string) string {
	scheme := "http"
	if s.tls != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s:%d/%s", scheme, vm.HostAddress, s.port, name)
}

// A machine is a guest and what the tests say to it.
type machine struct {
	*vm.VM
	t   *testing.T
	ctx context.Context
	up  int64 // where the console was at the login
}

// boot starts a guest; words are its kernel's command line besides o.Append, which has the consoles if it is not set.
func boot(t *testing.T, o vm.Options, words ...string) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*loginWait)
	t.Cleanup(cancel)
	if o.Kernel == "" {
		o.Kernel = image(t, "vmlinuz")
	}
	if o.Append == "" {
		o.Append = "console=ttyS0 systemd.debug_shell=ttyS1 panic=-1 loglevel=6"
	}
	o.Append = strings.Join(append([]string{o.Append}, words...), " ")
	o.ConsoleLog = consoleLog(t)
	v, err := vm.Start(ctx, o)
	testrig.Must(t, err)
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("console log: %s; its last lines:\n%s", o.ConsoleLog, v.ConsoleTail(40))
		}
	})
	t.Logf("%s; machine: %v", o.Append, v.Accel())
	return &machine{VM: v, t: t, ctx: ctx}
}

// consoleLog is the path of a log that stays if the test fails: beside the images.
func consoleLog(t *testing.T) string {
	dir := filepath.Join(filepath.Dir(image(t, "vmlinuz")), "consoles")
	testrig.Must(t, os.MkdirAll(dir, 0o755))
	name := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	for i := 1; ; i++ {
		path := filepath.Join(dir, fmt.Sprintf("%s.%d.log", name, i))
		if _, err := os.Stat(path); err != nil {
			t.Cleanup(func() {
				if !t.Failed() {
					os.Remove(path)
				}
			})
			return path
		}
	}
}

// wait waits until the console matches and returns the position behind it.
func (m *machine) wait(re *regexp.Regexp, from int64, limit time.Duration) int64 {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, limit)
	defer cancel()
	end, err := m.WaitConsole(ctx, re, from)
	testrig.Must(m.t, err)
	return end
}

// booted waits for the login and reports what the boot said of the root.
func (m *machine) booted() {
	m.t.Helper()
	began := time.Now()
	m.up = m.wait(login, 0, loginWait)
	took := time.Since(began)
	if line := rootLine.FindStringSubmatch(m.Console()); line != nil {
		m.t.Logf("login after %.0f s; root mounted %s s after the network was up", took.Seconds(), line[3])
	} else {
		m.t.Logf("login after %.0f s", took.Seconds())
	}
}

// sh runs a command in the guest's root shell and returns its output without the last line end. The test ends if it fails.
func (m *machine) sh(format string, args ...any) string {
	m.t.Helper()
	command := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(m.ctx, 6*time.Minute)
	defer cancel()
	out, code, err := m.Shell(ctx, command)
	testrig.Must(m.t, err)
	if code != 0 {
		m.t.Fatalf("%s: exit code %d: %s", command, code, out)
	}
	return strings.TrimRight(out, "\n")
}

// running wants the machine wholly up, without a failed unit and without an error of a file system.
func (m *machine) running() {
	m.t.Helper()
	if got := m.sh("systemctl is-system-running --wait"); got != "running" {
		m.t.Errorf("systemctl is-system-running: %s\n%s", got, m.sh("systemctl --failed --no-legend; journalctl -b -p err --no-pager | tail -n 20"))
	}
	m.noErrors()
}

func (m *machine) noErrors() {
	m.t.Helper()
	for line := range strings.SplitSeq(m.sh("dmesg"), "\n") {
		if ioErrors.MatchString(line) {
			m.t.Errorf("dmesg: %s", line)
		}
	}
}

// client returns the process of the root's client.
func (m *machine) client() int {
	m.t.Helper()
	for line := range strings.SplitSeq(m.sh("cat /proc/[0-9]*/stat"), "\n") {
		if pid, after, ok := strings.Cut(line, " ("); ok && (strings.HasPrefix(after, "bootprof-mount)") || strings.HasPrefix(after, "httpfs)")) {
			n, err := strconv.Atoi(pid)
			testrig.Must(m.t, err)
			return n
		}
	}
	m.t.Fatal("no client runs")
	return 0
}

// ends waits for the machine to end by itself, without a process that had to be killed, and reports how long it took.
func (m *machine) ends(want vm.End) {
	m.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(m.ctx, endWait)
	defer cancel()
	got, err := m.Wait(ctx)
	if err != nil || got != want {
		m.t.Fatalf("the machine: %q, %v; want %q within %v", got, err, want, endWait)
	}
	if line := hung.FindString(m.Console()[m.up:]); line != "" {
		m.t.Errorf("a process did not end: %q", line)
	}
	m.t.Logf("%s after %.0f s", got, time.Since(began).Seconds())
}
