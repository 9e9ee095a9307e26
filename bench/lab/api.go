package lab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountAPI mounts what init expects of a container manager: /proc, /sys, its cgroup2, and a /dev with the few devices
// that do no harm.
func (c stageConfig) mountAPI(root string) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fs, dir, opts string
		flags         uintptr
	}{
		{"proc", "/proc", "", safe},
		{"sysfs", "/sys", "", safe},
		{"cgroup2", "/sys/fs/cgroup", "", safe},
		{"tmpfs", "/dev", "mode=755", unix.MS_NOSUID},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=620,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
	} {
		if err := os.MkdirAll(root+m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, root+m.dir, m.fs, m.flags, m.opts); err != nil {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	// The settings of the kernel are the host's.
	if err := bind(root+"/proc/sys", root+"/proc/sys"); err != nil {
		return err
	}
	err := unix.Mount("", root+"/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|safe, "")
	if err != nil {
		return fmt.Errorf("making /proc/sys read-only: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := bindFile("/dev/"+name, root+"/dev/"+name); err != nil {
			return err
		}
	}
	if err := bindFile(c.Console, root+"/dev/console"); err != nil {
		return err
	}
	for _, l := range []struct{ name, to string }{
		{"ptmx", "pts/ptmx"}, {"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"},
	} {
		if err := os.Symlink(l.to, root+"/dev/"+l.name); err != nil {
			return err
		}
	}
	return nil
}

func bindFile(from, to string) error {
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		return err
	}
	return bind(from, to)
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", from, to, err)
	}
	return nil
}
