// Command vmboot boots a QEMU machine from what a web server on this host serves, and prints how long each phase took and
// what was moved:
//
//	vmboot --kernel FILE --initrd FILE... --append WORDS --serve DIR --console LOG [--label NAME]
//
// In WORDS, {url} stands for the server's address as the guest sees it. The line on stdout is a row of a Markdown table,
// of which --header prints the head. Progress goes to stderr. Exit codes: 0 booted and powered off, 1 not, 2 wrong flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"bootprof/recorder/vm"
)

type flags struct {
	machine vm.Options
	dir     string
	label   string
	row     string
	limit   time.Duration
}

// settle is how long a machine is left alone between login and power-off.
const settle = 20 * time.Second

const header = `| way | first request s | init s | login s | MB until login | requests | power-off s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |`

func main() {
	f := flags{machine: vm.Options{Net: true}}
	flag.StringVar(&f.machine.Kernel, "kernel", "", "kernel `FILE`")
	flag.Func("initrd", "initrd `FILE`; given several times, they are put one after the other", func(s string) error {
		f.machine.Initrds = append(f.machine.Initrds, s)
		return nil
	})
	flag.StringVar(&f.machine.Append, "append", "", "more `WORDS` for the kernel, {url} is the server")
	flag.IntVar(&f.machine.MemoryMiB, "memory", 1024, "memory in `MIB`")
	flag.StringVar(&f.machine.ConsoleLog, "console", "", "where the console is kept, a `FILE`")
	flag.StringVar(&f.dir, "serve", "", "`DIR` to serve")
	flag.StringVar(&f.label, "label", "", "`NAME` of the row")
	flag.StringVar(&f.row, "row", "", "append the row to this `FILE`, too")
	flag.DurationVar(&f.limit, "limit", 15*time.Minute, "end the machine after this time")
	head := flag.Bool("header", false, "print the table's head, and nothing else")
	flag.Parse()
	if *head {
		fmt.Println(header)
		return
	}
	if f.machine.Kernel == "" || f.dir == "" || f.machine.ConsoleLog == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "vmboot: --kernel, --serve and --console are needed, and nothing else (see --help)")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := f.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmboot:", err)
		os.Exit(1)
	}
}

// A meter is a web server of files that counts what it sends.
type meter struct {
	files http.Handler

	mu       sync.Mutex
	first    time.Time // of the first request
	requests int
	bytes    int64 // of bodies
}

func (m *meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	if m.requests++; m.first.IsZero() {
		m.first = time.Now()
	}
	m.mu.Unlock()
	m.files.ServeHTTP(&meteredWriter{w, m}, r)
}

// A meteredWriter hides ReadFrom, so that every byte goes through Write.
type meteredWriter struct {
	http.ResponseWriter
	m *meter
}

func (w *meteredWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.m.mu.Lock()
	w.m.bytes += int64(n)
	w.m.mu.Unlock()
	return n, err
}

// Lines of the console that end a phase. The first is that of an init that starts: systemd's, or the kernel's of any other.
var (
	initLine  = regexp.MustCompile(`Welcome to |systemd\[1\]: .*running in system mode|INIT: version`)
	loginLine = regexp.MustCompile(`login: *$`)
)

func (f *flags) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, f.limit, fmt.Errorf("not within %v", f.limit))
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // the guest's 10.0.2.2 is this address, too
	if err != nil {
		return err
	}
	m := &meter{files: http.FileServer(http.Dir(f.dir))}
	server := &http.Server{Handler: m}
	go server.Serve(l) // ends with Close
	defer server.Close()
	url := fmt.Sprintf("http://%s:%d", vm.HostAddress, l.Addr().(*net.TCPAddr).Port)
	f.machine.Append = strings.ReplaceAll("console=ttyS0 panic=-1 "+f.machine.Append, "{url}", url)

	if f.machine.Accel, err = vm.ChooseAccel(ctx, f.machine.Kernel); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: booting by %s: %s\n", f.label, f.machine.Accel, f.machine.Append)
	began := time.Now()
	v, err := vm.Start(ctx, f.machine)
	if err != nil {
		return err
	}
	defer v.Close()
	var phases [2]time.Duration
	var at int64
	for i, re := range []*regexp.Regexp{initLine, loginLine} {
		if at, err = v.WaitConsole(ctx, re, at); err != nil {
			return err
		}
		phases[i] = time.Since(began)
	}
	m.mu.Lock()
	first, requests, bytes := m.first, m.requests, m.bytes
	m.mu.Unlock()
	if first.IsZero() {
		return errors.New("the machine came to login without a request: did it boot from somewhere else?")
	}
	select { // an emulated machine's client hands pages to the kernel for some seconds yet, which power-off would wait for
	case <-time.After(settle):
	case <-v.Exited():
		return errors.New("the machine ended by itself after its login")
	case <-ctx.Done():
		return ctx.Err()
	}
	pressed := time.Now()
	if err := v.Powerdown(ctx); err != nil {
		return err
	}
	if how, err := v.Wait(ctx); err != nil || how != vm.EndPowerOff {
		return errors.Join(fmt.Errorf("powering off ended by %q", how), err)
	}
	row := fmt.Sprintf("| %s | %.1f | %.1f | %.1f | %.1f | %d | %.1f |\n", f.label, first.Sub(began).Seconds(), phases[0].Seconds(),
		phases[1].Seconds(), float64(bytes)/1e6, requests, time.Since(pressed).Seconds())
	fmt.Print(row)
	if f.row == "" {
		return nil
	}
	file, err := os.OpenFile(f.row, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(row)
	return errors.Join(err, file.Close())
}
