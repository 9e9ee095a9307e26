package vm

import (
	"cmp"
	"fmt"
	"strings"
)

// args returns QEMU's command line. The guest's console is QEMU's stdin and stdout.
func args(o Options, initrd, qmpSocket, shellSocket string) []string {
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "pc", "-smp", fmt.Sprint(cmp.Or(o.CPUs, defaultCPUs)), "-m", fmt.Sprint(cmp.Or(o.MemoryMiB, defaultMemoryMiB)),
	}
	if o.Accel.Name == KVM {
		a = append(a, "-accel", "kvm", "-cpu", "host")
	} else {
		a = append(a, "-accel", "tcg,thread=multi", "-cpu", "max")
	}
	a = append(a,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=shell,path="+escape(shellSocket), "-serial", "chardev:shell",
		"-chardev", "socket,id=qmp,path="+escape(qmpSocket), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-rng-pci", // a guest without entropy waits for some
		"-kernel", o.Kernel, "-append", o.Append,
	)
	if initrd != "" {
		a = append(a, "-initrd", initrd)
	}
	rtc := "utc"
	if !o.RTC.IsZero() {
		rtc = o.RTC.UTC().Format("2006-01-02T15:04:05")
	}
	a = append(a, "-rtc", "base="+rtc)
	for i, d := range o.Disks {
		a = append(a, "-drive", d.drive(i), "-device", d.device(i))
	}
	if o.Net {
		netdev := "user,id=net0"
		if o.NetOptions != "" {
			netdev += "," + o.NetOptions
		}
		// Without its ROM the firmware does not try to boot from the network.
		a = append(a, "-netdev", netdev, "-device", "virtio-net-pci,id="+netCard+",netdev=net0,romfile=")
	}
	return append(a, o.ExtraArgs...)
}

// netCard is the id of the network card.
const netCard = "nic0"

func (d *Disk) drive(i int) string {
	s := fmt.Sprintf("if=none,id=disk%d,format=raw,file=%s", i, escape(d.Path))
	if d.ReadOnly {
		s += ",readonly=on,file.locking=off" // nothing to guard: several machines may read one image
	}
	if d.Direct {
		s += ",cache=none"
	}
	if d.AIO != "" {
		s += ",aio=" + d.AIO
	}
	return s
}

func (d *Disk) device(i int) string {
	s := fmt.Sprintf("virtio-blk-pci,drive=disk%d", i)
	if d.Serial != "" {
		s += ",serial=" + escape(d.Serial)
	}
	return s
}

// escape writes a value for one of QEMU's comma-separated options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
