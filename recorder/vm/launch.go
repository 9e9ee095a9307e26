package vm

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A QEMUError means that QEMU itself ended, not its guest.
type QEMUError struct {
	Err    error  // of the process; nil if it ended without an error, but nobody told it to
	Stderr string // the end of what it said
}

func (e *QEMUError) Error() string {
	said := strings.Join(strings.Fields(e.Stderr), " ")
	switch {
	case e.Err == nil:
		return fmt.Sprintf("QEMU ended without a reason; it said %q", said)
	case said == "":
		return fmt.Sprintf("QEMU ended: %v", e.Err)
	}
	return fmt.Sprintf("QEMU ended: %v: %s", e.Err, said)
}

func (e *QEMUError) Unwrap() error { return e.Err }

// launch starts QEMU and takes its connections. Whatever happens, v.exited gets closed.
func (v *VM) launch(ctx context.Context, program string, o Options) (err error) {
	started := false
	defer func() {
		if !started {
			close(v.exited)
		}
	}()
	initrd, err := joinInitrds(v.dir, o.Initrds)
	if err != nil {
		return err
	}
	// QEMU connects to us, so that nothing has to be polled.
	qmpL, err := listen(filepath.Join(v.dir, "qmp"))
	if err != nil {
		return err
	}
	defer qmpL.Close()
	shellL, err := listen(filepath.Join(v.dir, "shell"))
	if err != nil {
		return err
	}
	defer shellL.Close()
	output, err := v.start(program, args(o, initrd, qmpL.Addr().String(), shellL.Addr().String()), o.ConsoleLog)
	if err != nil {
		return err
	}
	started = true
	quit := make(chan struct{}) // closed when the process has ended
	go v.reap(output, quit)

	// Connections are refused from the moment at which there is nothing more to wait for.
	stop := func() { qmpL.Close(); shellL.Close() }
	defer context.AfterFunc(ctx, stop)()
	go func() { <-quit; stop() }()
	conns := make([]net.Conn, 2)
	for i, l := range []*net.UnixListener{qmpL, shellL} {
		l.SetDeadline(time.Now().Add(connectWait))
		if conns[i], err = l.Accept(); err != nil {
			break
		}
	}
	if err == nil {
		v.shell = newShell(conns[1])
		if v.qmp, err = newQMP(ctx, conns[0]); err == nil {
			return nil
		}
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("starting QEMU: %w", context.Cause(ctx))
	case v.hasQuit(quit):
		return &QEMUError{v.waitErr, v.stderr.String()}
	}
	return fmt.Errorf("starting QEMU, which has not connected to its monitor within %v: %w", connectWait, err)
}

// hasQuit tells whether the process has ended, and waits a moment for that: its connections end before it does.
func (v *VM) hasQuit(quit chan struct{}) bool {
	select {
	case <-quit:
		return true
	case <-time.After(time.Second):
		return false
	}
}

func listen(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for QEMU: %w", err)
	}
	return l, nil
}

// start starts the process and returns what it writes to the guest's console.
func (v *VM) start(program string, words []string, consoleLog string) (*os.File, error) {
	console, err := newConsole(consoleLog)
	if err != nil {
		return nil, err
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		console.close()
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		console.close()
		inR.Close()
		inW.Close()
		return nil, err
	}
	v.cmd = exec.Command(program, words...)
	v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = inR, outW, v.stderr
	// A group of its own: a terminal's ^C is for this program, which ends the machine in its way. And a machine must not
	// outlive its program; the signal comes when the thread that starts it ends, which Go's threads do not do by
	// themselves.
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = v.cmd.Start()
	inR.Close()
	outW.Close()
	if err != nil {
		console.close()
		inW.Close()
		outR.Close()
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	v.console, v.input = console, inW
	return outR, nil
}

// reap reads the console until the process ends.
func (v *VM) reap(output *os.File, quit chan struct{}) {
	io.Copy(v.console, output)
	output.Close()
	v.waitErr = v.cmd.Wait()
	close(quit)
	v.console.close()
	close(v.exited)
}

// joinInitrds makes one file of several, each beginning at a multiple of four bytes, as the kernel wants them. A single
// one is used as it is.
func joinInitrds(dir string, paths []string) (string, error) {
	switch len(paths) {
	case 0:
		return "", nil
	case 1:
		return paths[0], nil
	}
	out, err := os.Create(filepath.Join(dir, "initrd"))
	if err != nil {
		return "", err
	}
	defer out.Close()
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		n, err := io.Copy(out, f)
		f.Close()
		if err == nil {
			_, err = out.Write(make([]byte, (4-n%4)%4))
		}
		if err != nil {
			return "", fmt.Errorf("appending %s to the initrd: %w", path, err)
		}
	}
	return out.Name(), out.Close()
}

// A tailWriter keeps the last bytes written to it.
type tailWriter struct {
	mu  sync.Mutex
	b   []byte
	max int
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p...)
	w.b = w.b[max(0, len(w.b)-w.max):]
	return len(p), nil
}

func (w *tailWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.b)
}
