// Package vm runs a QEMU guest: a lab machine that boots an image for the recorder and for tests.
//
// Concepts:
//
//	kernel, initrds ─> QEMU ─ ttyS0 ─> the console: log file, WaitConsole, Type
//	disks, user net          ─ ttyS1 ─> a root shell, if the guest runs one there: Shell
//	                         ─ QMP   ─> Powerdown, SetLink, Pause, Resume, Quit
//
// The guest's first serial port is its console (the kernel wants console=ttyS0), of which every byte goes to a log file
// that the caller names and keeps. A guest under systemd with systemd.debug_shell=ttyS1 has a root shell on the second
// port. The guest reaches the host at HostAddress. A reboot ends the machine, as a power-off does; Wait tells which.
//
// Traps:
//   - Without KVM, time in the guest is that of an emulated processor, ten and more times slower than a real one.
//   - Whether KVM works is not told by /dev/kvm being there: in some sandboxes firmware runs under it and Linux hangs.
//     ChooseAccel boots the kernel to see.
//   - A disk with Direct bypasses the host's page cache, so that a FUSE file sees each read of the guest. It must have
//     whole sectors of 512 bytes.
package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

// HostAddress is the host as a guest with Net sees it.
const HostAddress = "10.0.2.2"

// Program is the name of QEMU's emulator, looked for on the PATH.
const Program = "qemu-system-x86_64"

// ErrNoQEMU means that QEMU is not installed.
var ErrNoQEMU = errors.New(Program + " is not on the PATH: install QEMU (Debian: qemu-system-x86)")

const (
	defaultMemoryMiB = 1024
	defaultCPUs      = 2
	connectWait      = 30 * time.Second // from QEMU's start until it has made its connections
	maxSerial        = 20               // bytes, of a virtio disk
)

// A Disk is a virtio block device of the guest: the first is /dev/vda, unless the guest's udev names them otherwise.
type Disk struct {
	Path     string // a file or device, raw
	ReadOnly bool
	Serial   string // at most 20 bytes; /dev/disk/by-id/virtio-SERIAL in the guest
	Direct   bool   // O_DIRECT: see the package's traps
	AIO      string // "threads", "native" (with Direct only) or "io_uring"; "": threads
}

// Options of Start. Kernel and ConsoleLog must be set.
type Options struct {
	Kernel     string   // file
	Initrds    []string // files, given to the guest one after the other
	Append     string   // kernel command line; console=ttyS0 is the caller's to add
	MemoryMiB  int      // 0: 1024
	CPUs       int      // 0: 2
	Disks      []Disk
	Net        bool      // a virtio network card behind QEMU's user-mode network
	NetOptions string    // more of -netdev user, such as "restrict=on"
	RTC        time.Time // the guest's hardware clock at the start; zero: the host's
	Accel      Accel     // zero: ChooseAccel decides
	ExtraArgs  []string  // for QEMU, at the end

	ConsoleLog string // file, made anew; it stays
	TempDir    string // where the private directory with the sockets is made; "": the system's
}

// A VM is a running machine. Its methods are safe for concurrent use; Close must be called.
type VM struct {
	accel   Accel
	console *console
	input   *os.File // to the guest's console
	qmp     *qmp
	shell   *shell
	cmd     *exec.Cmd
	stderr  *tailWriter
	dir     string

	exited    chan struct{} // closed when the process has ended and its console is read to the end
	waitErr   error         // of the process, set before exited is closed
	closeOnce sync.Once
	closeErr  error
}

// Start starts a machine. ctx bounds the start only.
func Start(ctx context.Context, o Options) (_ *VM, err error) {
	program, err := exec.LookPath(Program)
	if err != nil {
		return nil, Installed()
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Accel.Name == "" {
		if o.Accel, err = ChooseAccel(ctx, o.Kernel); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(o.TempDir, "bootprof-vm-")
	if err != nil {
		return nil, err
	}
	v := &VM{accel: o.Accel, dir: dir, exited: make(chan struct{}), stderr: &tailWriter{max: 4096}}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	if err := v.launch(ctx, program, o); err != nil {
		return nil, err
	}
	return v, nil
}

// Installed returns ErrNoQEMU, or nil.
func Installed() error {
	if _, err := exec.LookPath(Program); err != nil {
		return ErrNoQEMU
	}
	return nil
}

// Class describes the machine in the words of profiles.Header.Machine.
func (o *Options) Class() string {
	return fmt.Sprintf("x86_64, %d cpus, %d MiB, QEMU %s", cmp.Or(o.CPUs, defaultCPUs), cmp.Or(o.MemoryMiB, defaultMemoryMiB), o.Accel.Name)
}

// check refuses options that QEMU would misread.
func (o *Options) check() error {
	if o.Kernel == "" || o.ConsoleLog == "" {
		return errors.New("a machine needs a kernel and a place for its console log")
	}
	if o.MemoryMiB < 0 || o.CPUs < 0 {
		return fmt.Errorf("a machine with %d MiB and %d processors cannot be", o.MemoryMiB, o.CPUs)
	}
	for _, d := range o.Disks {
		if len(d.Serial) > maxSerial {
			return fmt.Errorf("the serial %q of a disk has more than %d bytes", d.Serial, maxSerial)
		}
		if d.AIO == "native" && !d.Direct {
			return fmt.Errorf("disk %s: native AIO wants direct I/O", d.Path)
		}
	}
	return nil
}

// Accel tells what runs the guest's code.
func (v *VM) Accel() Accel { return v.accel }

// Pid is QEMU's process.
func (v *VM) Pid() int { return v.cmd.Process.Pid }

// Wait returns when the machine has ended, and how: EndPowerOff, EndReboot, or another reason of QEMU's SHUTDOWN event. An
// error is ctx's, or tells that QEMU failed.
func (v *VM) Wait(ctx context.Context) (End, error) {
	select {
	case <-v.exited:
	case <-ctx.Done():
		return "", fmt.Errorf("waiting for the machine to end: %w", context.Cause(ctx))
	}
	end := v.qmp.end()
	if end == "" {
		return "", &QEMUError{v.waitErr, v.stderr.String()}
	}
	return end, nil
}

// Exited is closed when the machine has ended.
func (v *VM) Exited() <-chan struct{} { return v.exited }

// Close ends the machine at once if it runs, as a power cut does, and removes all but the console log. It may be called
// again.
func (v *VM) Close() error {
	v.closeOnce.Do(func() {
		if v.cmd != nil && v.cmd.Process != nil {
			v.cmd.Process.Kill() // does nothing once the process was waited for
		}
		<-v.exited
		if v.input != nil {
			v.input.Close()
		}
		v.qmp.close()
		v.shell.close()
		v.closeErr = os.RemoveAll(v.dir)
	})
	return v.closeErr
}

// An End is why a machine has ended.
type End string

// Ends that a guest brings about itself; others are named as in QEMU's ShutdownCause.
const (
	EndPowerOff End = "guest-shutdown"
	EndReboot   End = "guest-reset" // a kernel panic, too, with panic=-1
)
