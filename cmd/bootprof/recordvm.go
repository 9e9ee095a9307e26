package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bootprof/imagepack"
	"bootprof/internal/fsmagic"
	"bootprof/mountclient"
	"bootprof/recorder"
	"bootprof/recorder/lab"
	"bootprof/recorder/vm"
)

const (
	vmDuration   = 20 * time.Minute // without --duration: an emulated boot takes one to three minutes
	vmOffTime    = 3 * time.Minute  // systemd kills what does not stop after 90 s
	vmReadahead  = 128 << 10        // a guest's, where not the lab's initramfs turns it off
	consoleLines = 12               // of the console, shown with an error
)

// vmFlags are those of record --vm alone.
type vmFlags struct {
	image, kernel, initrd, append string
	runs, memoryMiB               int
	settle                        time.Duration
}

func (m *vmFlags) add(f *pflag.FlagSet) {
	f.StringVar(&m.image, "vm", "", "boot `IMAGE`, a pack or a file system, in QEMU and record it")
	f.IntVar(&m.runs, "runs", 1, "--vm: boots to record; with more than one, RUN-1.bprof, RUN-2.bprof and so on are written")
	f.IntVar(&m.memoryMiB, "memory", 1024, "--vm: the machine's memory in `MIB`")
	f.StringVar(&m.kernel, "kernel", "", "--vm: boot the kernel in `FILE`, not that of the image")
	f.StringVar(&m.initrd, "initrd", "", "--vm: boot with the initrd in `FILE`, which has to find the disk bootprof-lab, and its modules, itself")
	f.StringVar(&m.append, "append", "", "--vm: more `WORDS` for the kernel's command line")
	f.DurationVar(&m.settle, "settle", 5*time.Second, "--vm: time between login and the power button")
}

// vmOnly and commandOnly are flags that mean nothing in the other form of record.
var (
	vmOnly      = []string{"runs", "memory", "kernel", "initrd", "append", "settle"}
	commandOnly = []string{"image", "until-file", "keep-going", "grace"}
)

// notWithout refuses flags that want --vm.
func (m *vmFlags) notWithout(cmd *cobra.Command) error {
	for _, name := range vmOnly {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s wants --vm", name)
		}
	}
	return nil
}

// check refuses what does not fit --vm.
func (m *vmFlags) check(cmd *cobra.Command, args []string, out string) error {
	for _, name := range commandOnly {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s does not go with --vm", name)
		}
	}
	switch {
	case len(args) > 0:
		return fmt.Errorf("--vm boots the image and runs no command, got %q", strings.Join(args, " "))
	case out == "":
		return errors.New("-o is needed")
	case m.runs < 1 || m.memoryMiB < 64 || m.settle < 0:
		return fmt.Errorf("--runs %d, --memory %d, --settle %v: want at least 1, 64 and 0", m.runs, m.memoryMiB, m.settle)
	}
	return nil
}

// runNames are the files that runs are written to, and their console logs.
func runNames(out string, runs int) (profile, console []string) {
	base, ext := strings.TrimSuffix(out, ".bprof"), ""
	if base != out {
		ext = ".bprof"
	}
	for i := range runs {
		name := base
		if runs > 1 {
			name = fmt.Sprintf("%s-%d", base, i+1)
		}
		profile, console = append(profile, name+ext), append(console, name+".console.log")
	}
	return profile, console
}

// recordVM records boots of an image in QEMU.
func (a *app) recordVM(cmd *cobra.Command, args []string, m vmFlags, until, out string, limit time.Duration) error {
	if err := m.check(cmd, args, out); err != nil {
		return usage(cmd, err)
	}
	login, err := untilRegex(cmd, cmp.Or(until, `login:`))
	if err != nil {
		return err
	}
	if err := needRecorder(); err != nil {
		return err
	}
	if err := vm.Installed(); err != nil {
		return &codedError{mountclient.ExitSetup, err}
	}
	ctx := cmd.Context()
	outs, consoles := runNames(out, m.runs)
	img, err := a.openRecorded(ctx, m.image, append(outs, consoles...)...)
	if err != nil {
		return err
	}
	defer img.Close()
	dir, err := os.MkdirTemp("", "bootprof-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	machine, kernel, err := m.machine(ctx, img, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "booting %s, Linux %s, in QEMU by %s\n", m.image, cmp.Or(kernel.Version, "of unknown version"), machine.Accel)
	if machine.Accel.Scaled() {
		fmt.Fprintln(a.stderr, "the processor is emulated: the order of the pages is right, the times are longer than those of a real machine")
	}
	for i := range outs {
		machine.ConsoleLog = consoles[i]
		if err := a.recordBoot(ctx, img, outs[i], *machine, kernel, login, m, cmp.Or(limit, vmDuration)); err != nil {
			return err
		}
	}
	return nil
}

// recordBoot records one boot, and shows how far it is.
func (a *app) recordBoot(ctx context.Context, img *recordedImage, out string, machine vm.Options, kernel *lab.Kernel,
	login *regexp.Regexp, m vmFlags, limit time.Duration) error {
	bar := newProgress(a.stderr, "booting for "+filepath.Base(out))
	defer bar.close()
	boot := lab.Boot{
		Machine: machine, Login: login, Settle: m.settle, OffTime: vmOffTime,
		Tell: func(format string, args ...any) { bar.line(out+": "+format, args...) },
	}
	o := recorder.Options{
		Run: boot.Run, Duration: limit,
		Command: []string{vm.Program, "-kernel", kernel.Path, "-append", machine.Append},
		Machine: recorder.Machine{Kernel: kernel.Version, Class: machine.Class(), TimeScaled: machine.Accel.Scaled()},
	}
	if m.initrd != "" {
		o.Machine.Readahead = vmReadahead
	}
	err := a.recordRun(ctx, img, out, o)
	bar.close()
	var console *vm.ConsoleError
	if errors.As(err, &console) {
		tail := strings.Split(console.Tail, "\n")
		fmt.Fprintf(a.stderr, "the console's last lines:\n  %s\n", strings.Join(tail[max(0, len(tail)-consoleLines):], "\n  "))
	}
	return err
}

// machine prepares what all boots of an image have in common, in dir.
func (m *vmFlags) machine(ctx context.Context, img *recordedImage, dir string) (*vm.Options, *lab.Kernel, error) {
	if !fsmagic.Mountable(img.kind) {
		return nil, nil, &imagepack.InputError{Path: m.image, Err: errors.New("no file system begins here that could be the root of a machine: record a pack of it (bootprof pack)")}
	}
	kernel := &lab.Kernel{Path: m.kernel}
	o := &vm.Options{
		Kernel: m.kernel, MemoryMiB: m.memoryMiB, Net: true,
		Append: strings.TrimSpace("console=ttyS0 panic=-1 " + m.append),
	}
	var err error
	if m.kernel != "" {
		if kernel.Data, err = os.ReadFile(m.kernel); err != nil {
			return nil, nil, &codedError{mountclient.ExitFormat, err}
		}
		kernel.Version = lab.KernelVersion(kernel.Data)
	}
	if m.kernel == "" || m.initrd == "" {
		if err := m.fromImage(img, kernel, o, dir); err != nil {
			return nil, nil, &imagepack.InputError{Path: m.image, Err: err}
		}
	}
	if m.initrd != "" {
		if _, err := os.Stat(m.initrd); err != nil {
			return nil, nil, &codedError{mountclient.ExitFormat, err}
		}
		o.Initrds = []string{m.initrd}
	}
	o.Accel, err = vm.ChooseAccel(ctx, o.Kernel)
	return o, kernel, err
}

// fromImage takes out of the image what no flag names.
func (m *vmFlags) fromImage(img *recordedImage, kernel *lab.Kernel, o *vm.Options, dir string) error {
	root, err := imagepack.TreeOf(img.file, img.size, img.kind)
	if err != nil {
		return err
	}
	if m.kernel == "" {
		k, err := lab.FindKernel(root)
		if err != nil {
			return err
		}
		*kernel = *k
		o.Kernel = filepath.Join(dir, "kernel")
		if err := os.WriteFile(o.Kernel, k.Data, 0o600); err != nil {
			return err
		}
	}
	if m.initrd != "" {
		return nil
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	initrd, err := lab.Initrd(root, img.kind, kernel.Version, program)
	if err != nil {
		return err
	}
	o.Initrds = []string{filepath.Join(dir, "initrd")}
	return os.WriteFile(o.Initrds[0], initrd, 0o600)
}
