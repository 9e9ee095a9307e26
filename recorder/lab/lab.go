// Package lab boots an image in QEMU for the recorder: it finds the image's kernel, makes an initramfs that boots it, and
// takes the machine through login and shutdown.
//
//	image ─ kernel, modules ─> lab initramfs ─┐
//	image ─ recorder's FUSE file ─ virtio ────┴─> QEMU ─ console ─> mark "login" ─ power button ─> mark "shutdown" ─> off
//
// The disk is read with direct I/O on the host and without readahead in the guest, so that what the recorder sees is
// what the guest's kernel asked for.
//
// Traps:
//   - The guest probes its disk for partitions when it appears: its first page is always touched.
//   - Another initramfs (--initrd) has the guest's usual readahead of 128 KiB.
package lab

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"time"

	"bootprof/recorder"
	"bootprof/recorder/labinit"
	"bootprof/recorder/vm"
)

// A LoginError means that the machine ended, or its time did, before the login prompt was seen.
type LoginError struct {
	Why string
	Err error // a *vm.ConsoleError
}

func (e *LoginError) Error() string { return "the machine did not come to its login prompt: " + e.Why }
func (e *LoginError) Unwrap() error { return e.Err }

// Names of marks and ends.
const (
	MarkLogin    = "login"    // the login prompt was seen
	MarkShutdown = "shutdown" // the power button was pressed
	EndShutdown  = "shutdown" // the machine has powered off
	EndUntil     = "until"    // it did not, in its time
	EndFailed    = "failed"   // it did not come to login
)

// A Boot is one boot of an image.
type Boot struct {
	Machine vm.Options     // but for the disk with the image
	Login   *regexp.Regexp // a line of the console at which the boot is over
	Settle  time.Duration  // from login to the power button
	OffTime time.Duration  // that powering off may take
	Tell    func(format string, args ...any)
}

// Run boots the image of a recording: it is made for recorder.Options.Run.
func (b *Boot) Run(ctx context.Context, s recorder.Session) (end string, err error) {
	o := b.Machine
	o.Disks = append([]vm.Disk{{Path: s.Image, ReadOnly: true, Serial: Serial, Direct: true}}, o.Disks...)
	v, err := vm.Start(ctx, o)
	if err != nil {
		return "", err
	}
	defer v.Close()
	began := time.Now()
	if _, err := v.WaitConsole(ctx, b.Login, 0); err != nil {
		return EndFailed, b.whyNot(v, err)
	}
	s.Mark(MarkLogin)
	b.Tell("login after %.1f s, %d pages", time.Since(began).Seconds(), s.Pages())
	return b.shutdown(ctx, s, v)
}

// whyNot names the lab's own error, if there was one, instead of the prompt that was awaited.
func (b *Boot) whyNot(v *vm.VM, err error) error {
	for line := range strings.Lines(v.Console()) {
		if _, text, found := strings.Cut(strings.TrimSpace(line), labinit.ErrorPrefix); found {
			return &LoginError{text, err}
		}
	}
	var c *vm.ConsoleError
	if errors.As(err, &c) {
		return &LoginError{c.Brief(), err}
	}
	return &LoginError{err.Error(), err}
}

// shutdown lets the machine come to rest, and presses its power button.
func (b *Boot) shutdown(ctx context.Context, s recorder.Session, v *vm.VM) (end string, err error) {
	select {
	case <-time.After(b.Settle): // what a boot starts late is read now
	case <-v.Exited():
		return EndUntil, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	began, pages := time.Now(), s.Pages()
	if pressErr := v.Powerdown(ctx); pressErr != nil {
		return EndUntil, pressErr
	}
	s.Mark(MarkShutdown)
	limited, cancel := context.WithTimeout(ctx, b.OffTime)
	defer cancel()
	how, err := v.Wait(limited)
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case limited.Err() != nil:
		b.Tell("the guest has not powered off within %v of its power button (has it logind or acpid?): the run has no shutdown", b.OffTime)
		return EndUntil, nil
	case err != nil:
		return EndUntil, err
	}
	b.Tell("off (%s) after %.1f s, %d pages more", how, time.Since(began).Seconds(), s.Pages()-pages)
	return EndShutdown, nil
}
