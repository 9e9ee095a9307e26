package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Names of accelerators.
const (
	KVM = "kvm" // the processor runs the guest
	TCG = "tcg" // QEMU emulates the guest's processor
)

// probeTime is how long a kernel may take to boot under KVM. It takes two seconds where KVM works.
const probeTime = 20 * time.Second

// An Accel is a way to run a guest, and why that one was chosen.
type Accel struct {
	Name string // KVM or TCG
	Why  string // for a person; may be ""
}

func (a Accel) String() string {
	if a.Why == "" {
		return a.Name
	}
	return a.Name + " (" + a.Why + ")"
}

// Scaled tells whether time in the guest is not that of a real machine.
func (a Accel) Scaled() bool { return a.Name != KVM }

// ChooseAccel returns KVM if this kernel boots under it, else TCG. It takes a moment with a working KVM, up to 20 s with
// one that hangs, and no time without /dev/kvm. The error is that of ctx.
func ChooseAccel(ctx context.Context, kernel string) (Accel, error) {
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return Accel{TCG, fmt.Sprintf("no KVM: %v", err)}, nil
	}
	dev.Close()
	err = boots(ctx, kernel, Accel{Name: KVM}, probeTime)
	switch {
	case ctx.Err() != nil:
		return Accel{}, fmt.Errorf("trying KVM: %w", context.Cause(ctx))
	case err != nil:
		return Accel{TCG, fmt.Sprintf("/dev/kvm is there, but a kernel does not boot under it: %v", err)}, nil
	}
	return Accel{KVM, "a kernel boots under it"}, nil
}

// noRoot is what every kernel says that came as far as looking for its root file system, and was given none.
var noRoot = regexp.MustCompile(`Kernel panic - not syncing: .*[Rr]oot|Unable to mount root`)

// boots runs a kernel without a root file system, until it says that it has none.
func boots(ctx context.Context, kernel string, accel Accel, limit time.Duration) error {
	dir, err := os.MkdirTemp("", "bootprof-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	v, err := Start(ctx, Options{
		Kernel: kernel, Append: "console=ttyS0 panic=-1", MemoryMiB: 512, Accel: accel,
		ConsoleLog: filepath.Join(dir, "console"), TempDir: dir,
	})
	if err != nil {
		return err
	}
	defer v.Close()
	_, err = v.WaitConsole(ctx, noRoot, 0)
	var c *ConsoleError
	if errors.As(err, &c) {
		return fmt.Errorf("%w (last on its console: %q)", c.Err, lastLines(c.Tail, 1))
	}
	return err
}
