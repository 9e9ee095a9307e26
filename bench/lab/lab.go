// Package lab boots a Linux root directory in fresh namespaces, natively: no virtual machine, no dilated time.
//
// The directory is the read-only layer of an overlay whose writable layer is a tmpfs; the guest's /sbin/init runs as
// process 1 of its own PID, mount, UTS, IPC, network and cgroup namespace. A unit in the writable layer, wanted by the
// target and ordered after it, writes to a FIFO: that is the boot marker. Then process 1 is killed, and with it go all
// processes and mounts of the guest.
//
// What the host could add to one run and not to the next is kept out: the environment, the machine id, the host name,
// the host's cgroups (a cgroup2 of its own, below a fresh group, also on hosts with cgroup v1) and the network (none
// but loopback). What the guest could do to the host is kept out, too: /proc/sys is read-only.
//
// Traps. The process that calls Boot starts itself again for the set-up inside the namespaces: its main, or TestMain,
// must call RunStage first. /sys is writable, as udev is part of a real boot: the guest's udev asks the kernel to
// announce the host's devices again, which a udev of the host answers by probing block devices, among them the loop
// device of the image.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a boot. The zero value boots to multi-user.target within two minutes.
type Options struct {
	Target  string        // systemd unit to boot to; "" is multi-user.target
	Timeout time.Duration // until the marker; 0 is two minutes
	Init    string        // program to run as process 1; "" is /sbin/init, started with --unit=Target
}

// A Result is a boot that reached its marker.
type Result struct {
	Booted  time.Duration // from the start of Boot to the marker
	Console string        // the end of what the guest wrote to its console, at most consoleBytes; set by Stop
	Failed  []string      // lines of the console that say that a unit failed; none in a good boot; set by Stop
}

// A Guest is a booted, running guest. Stop ends it.
type Guest struct {
	Result

	cmd     *exec.Cmd
	console *console
	group   *cgroup
	exited  chan struct{} // closed when process 1 has been waited for
	waitErr error         // of process 1, valid once exited is closed
	fifoDir string
}

const (
	defaultTarget  = "multi-user.target"
	defaultTimeout = 2 * time.Minute

	// markerFIFO is where the boot marker is written inside the guest.
	markerFIFO = "/run/bench-booted"
	// machineID is the guest's, so that nothing is generated and journal paths are the same in each run.
	machineID = "b007b007b007b007b007b007b007b007"
)

// Boot boots rootDir to the marker and ends the guest. rootDir is only read.
func Boot(ctx context.Context, rootDir string, o Options) (Result, error) {
	g, err := Start(ctx, rootDir, o)
	if err != nil {
		return Result{}, err
	}
	err = g.Stop()
	return g.Result, err
}

// Start boots rootDir and returns at the marker, with the guest running. When ctx ends before the marker, the guest is
// ended; afterwards ctx is not looked at.
func Start(ctx context.Context, rootDir string, o Options) (*Guest, error) {
	started := time.Now()
	if o.Target == "" {
		o.Target = defaultTarget
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	rootDir, err := filepath.Abs(rootDir)
	if err != nil {
		return nil, err
	}
	g := &Guest{exited: make(chan struct{})}
	marker, err := g.prepare(rootDir, o)
	if err != nil {
		g.cleanUp()
		return nil, fmt.Errorf("booting %s: %w", rootDir, err)
	}
	defer marker.Close()

	booted := make(chan time.Time, 1)
	go func() {
		if n, err := marker.Read(make([]byte, 64)); err == nil && n > 0 {
			booted <- time.Now()
		}
	}()
	timer := time.NewTimer(o.Timeout)
	defer timer.Stop()
	select {
	case at := <-booted:
		g.Booted = at.Sub(started)
		return g, nil
	case <-g.exited:
		err = fmt.Errorf("process 1 ended before the boot marker: %v", g.cmd.ProcessState)
	case <-timer.C:
		err = fmt.Errorf("no boot marker after %v", o.Timeout)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	err = errors.Join(err, g.Stop())
	return nil, fmt.Errorf("booting %s: %w; the console's last lines:\n%s", rootDir, err, indent(lastLines(g.Console, 25)))
}

// prepare makes what the guest needs from outside and starts process 1. The returned file reads the marker.
func (g *Guest) prepare(rootDir string, o Options) (marker *os.File, err error) {
	if g.fifoDir, err = os.MkdirTemp("", "bench-lab-"); err != nil {
		return nil, err
	}
	fifo := filepath.Join(g.fifoDir, "booted")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return nil, fmt.Errorf("making the marker FIFO: %w", err)
	}
	// Opened for writing as well, so that neither side ever waits for the other to open it.
	if marker, err = os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			marker.Close()
		}
	}()
	if g.console, err = openConsole(); err != nil {
		return nil, err
	}
	if g.group, err = newCgroup(); err != nil {
		return nil, err
	}
	stage := stageConfig{Root: rootDir, FIFO: fifo, Console: g.console.path, Target: o.Target, Init: o.Init}
	g.cmd = stage.command()
	g.cmd.Stdin, g.cmd.Stdout, g.cmd.Stderr = g.console.guestEnd, g.console.guestEnd, g.console.guestEnd
	g.cmd.SysProcAttr.UseCgroupFD, g.cmd.SysProcAttr.CgroupFD = true, int(g.group.dir.Fd())

	// The parent-death signal follows the thread that starts the guest, so that thread waits for it, too.
	startErr := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := g.cmd.Start()
		startErr <- err
		if err == nil {
			g.waitErr = g.cmd.Wait()
		}
		close(g.exited)
	}()
	if err := <-startErr; err != nil {
		return nil, fmt.Errorf("starting process 1 in new namespaces: %w", err)
	}
	g.console.started()
	return marker, nil
}

// PID is that of the guest's process 1, as the host sees it.
func (g *Guest) PID() int { return g.cmd.Process.Pid }

// Stop ends the guest by killing its process 1 and returns when all its processes and mounts are gone. A second call does
// nothing.
func (g *Guest) Stop() error {
	// The process is waited for by our own thread alone, so the pid cannot have been given to another one unless
	// exited is closed; Process.Kill keeps account of that.
	if err := g.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending the guest: %w", err)
	}
	<-g.exited
	var ee *exec.ExitError
	err := g.waitErr
	if errors.As(err, &ee) { // how process 1 ended is no fault of Stop
		err = nil
	}
	return errors.Join(err, g.cleanUp())
}

func (g *Guest) cleanUp() error {
	var errs []error
	if g.console != nil {
		g.console.close()
		g.Console = g.console.tail()
		g.Failed = failedUnits(g.Console)
		g.console = nil
	}
	if g.group != nil {
		errs = append(errs, g.group.remove())
		g.group = nil
	}
	if g.fifoDir != "" {
		errs = append(errs, os.RemoveAll(g.fifoDir))
		g.fifoDir = ""
	}
	return errors.Join(errs...)
}

// failedUnits picks systemd's reports of failed units out of the console's text.
func failedUnits(console string) (failed []string) {
	for line := range strings.Lines(console) {
		if strings.Contains(line, "FAILED") && strings.Contains(line, "Failed to start") {
			failed = append(failed, strings.TrimSpace(stripEscapes(line)))
		}
	}
	return failed
}
