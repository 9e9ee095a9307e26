package mountclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A mount command returns when the mount is ready, and the client lives on. Go cannot fork, so the command
// starts itself once more with the same arguments: the parent waits for one line on a pipe, prints it if it
// is an error, and ends.

// readyEnv names the variable by which a child knows that it is one; its value is the pipe's descriptor.
const readyEnv = "BOOTPROF_READY_FD"

// RunMount mounts as opts say and returns the process's exit code. In the foreground it returns after the
// unmount; else when the mount is ready, with a process left behind that carries it.
func RunMount(opts MountOptions, foreground bool, stderr io.Writer) int {
	fd := os.Getenv(readyEnv)
	if foreground || fd != "" {
		return serve(opts, fd, stderr)
	}
	// What this machine lacks is told at once.
	if err := Check(opts.Dir); err != nil {
		return fail(stderr, err)
	}
	return startChild(stderr)
}

func fail(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, "bootprof:", oneLine(err))
	return ExitCode(err)
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// startChild runs this program again and waits until it is ready or has failed.
func startChild(stderr io.Writer) int {
	self, err := os.Executable()
	if err != nil {
		return fail(stderr, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(stderr, err)
	}
	defer r.Close()
	// What a script has open is not for the client; without close_range(2) (Linux 5.11) it stays.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fail(stderr, fmt.Errorf("starting the client: %w", err))
	}
	// An interrupted wait takes the child along: nothing half-mounted stays.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	go func() {
		for range interrupts {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		return fail(stderr, fmt.Errorf("the client ended before the mount was ready (%v)", cmd.ProcessState))
	}
	code, msg, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	n, err := strconv.Atoi(code)
	if err != nil {
		return fail(stderr, fmt.Errorf("the client answered %q", line))
	}
	if n != ExitOK {
		_ = cmd.Wait() // what it had set up is undone by then
		fmt.Fprintln(stderr, "bootprof:", msg)
	}
	return n
}

// clientMemory is what the Go runtime of a client may come to, in bytes, before it collects garbage whatever that takes. It is
// well above what a client takes: at 64 MiB the collector doubled the client's work in a boot of the large image. Pages that are
// kept in memory are not in it.
const clientMemory = 128 << 20

// serve mounts and carries the mount until it is unmounted. readyFD, if any, is told how the start went.
func serve(opts MountOptions, readyFD string, stderr io.Writer) int {
	os.Unsetenv(readyEnv)
	tell := func(code int, msg string) { fmt.Fprintln(stderr, "bootprof:", msg) }
	if readyFD != "" {
		n, err := strconv.Atoi(readyFD)
		if err != nil {
			return fail(stderr, fmt.Errorf("%s=%q is not a descriptor", readyEnv, readyFD))
		}
		syscall.CloseOnExec(n)
		pipe := os.NewFile(uintptr(n), "ready")
		tell = func(code int, msg string) {
			fmt.Fprintf(pipe, "%d %s\n", code, msg)
			pipe.Close()
		}
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(clientMemory)
	}
	if opts.Root {
		harden(opts.Log)
	}
	m, err := Mount(ctx, opts)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted: %w", context.Canceled)
		}
		code := ExitCode(err)
		tell(code, oneLine(err))
		return code
	}
	if opts.Root {
		settle(m, opts.Log)
		if readyFD != "" {
			tell(ExitOK, "")
		}
		if err = m.Wait(); err != nil {
			return fail(stderr, err)
		}
		return ExitOK
	}
	if readyFD != "" {
		tell(ExitOK, "")
		leaveTerminal(opts.Log)
	}
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		unmountOnSignal(ctx, ended, m, opts.Log)
	}()
	err = m.Wait()
	close(ended)
	<-watched // before cancel: that it ends is no signal
	if err != nil {
		return fail(stderr, err)
	}
	return ExitOK
}

// leaveTerminal lets go of the directory and the terminal of the command: what is logged from now on goes
// to the kernel's log.
func leaveTerminal(log *slog.Logger) {
	_ = os.Chdir("/")
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err == nil {
		defer toKernel(log)
	} else {
		f, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if err != nil {
		log.Debug("no place for the log", "error", err)
		return
	}
	defer f.Close()
	_ = syscall.Dup3(int(f.Fd()), int(os.Stderr.Fd()), 0)
}

// unmountOnSignal unmounts when the process is told to end, which ends ctx, and returns when the mount has ended. While
// the mount is in use it stays: whoever uses it must not lose it.
func unmountOnSignal(ctx context.Context, ended <-chan struct{}, m *Mounted, log *slog.Logger) {
	select {
	case <-ctx.Done():
	case <-ended:
		return
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	for {
		if err := m.Unmount(); err != nil && !errors.Is(err, syscall.EINVAL) {
			log.Warn("told to end, but the mount is in use", "error", err)
		} else {
			return
		}
		select {
		case <-again:
		case <-ended:
			return
		}
	}
}
