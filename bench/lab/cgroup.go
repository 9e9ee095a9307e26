package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A cgroup is a fresh group of the cgroup2 hierarchy for one guest. It is reached through a mount of its own that is
// attached nowhere, so that it does not matter whether and where the host has mounted cgroup2.
type cgroup struct {
	top  *os.File // the root of the hierarchy
	dir  *os.File // the group
	name string   // of the group in top
}

func newCgroup() (*cgroup, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening cgroup2: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("opening cgroup2: %w", err)
	}
	top, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mounting cgroup2: %w", err)
	}
	c := &cgroup{top: os.NewFile(uintptr(top), "cgroup2")}
	c.name = fmt.Sprintf("bench-lab-%d-%d", os.Getpid(), time.Now().UnixNano())
	if err := unix.Mkdirat(top, c.name, 0o755); err != nil {
		c.top.Close()
		return nil, fmt.Errorf("making cgroup %s: %w", c.name, err)
	}
	fd, err := unix.Openat(top, c.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Unlinkat(top, c.name, unix.AT_REMOVEDIR)
		c.top.Close()
		return nil, fmt.Errorf("opening cgroup %s: %w", c.name, err)
	}
	c.dir = os.NewFile(uintptr(fd), c.name)
	return c, nil
}

// remove takes the group and all below it away. Its processes must have ended; the kernel may need a moment more to
// see the groups as empty.
func (c *cgroup) remove() error {
	defer c.top.Close()
	c.dir.Close()
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", c.top.Fd()), c.name)
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := removeGroups(path)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("removing cgroup %s: %w", c.name, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// removeGroups removes the directories alone: the files in them are the kernel's.
func removeGroups(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(path)
}
