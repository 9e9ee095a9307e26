package mountclient

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// wholeFile makes a file without a name for size bytes: in dir if there is room, else in memory. where tells which.
func wholeFile(dir string, size int64) (f *os.File, where string, err error) {
	var onDisk error
	if dir != "" {
		if f, onDisk = tempFile(dir, size); onDisk == nil {
			return f, dir, nil
		}
		onDisk = fmt.Errorf(", nor in %s (%w)", dir, onDisk)
	} else {
		onDisk = errors.New("; --cache DIR puts it on a disk")
	}
	if free := availableMemory(); free >= 0 && size > free/2 {
		return nil, "", fmt.Errorf("there is no room for its %d MB in memory (%d MB available)%w", size/1e6, free/1e6, onDisk)
	}
	f, err = memfd("bootprof-whole")
	return f, "memory", err
}

// tempFile makes a file without a name in dir, and takes the room for it.
func tempFile(dir string, size int64) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	// Its length stays 0: what is written makes it.
	err = unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// availableMemory returns how many bytes programs can still have, as the kernel estimates it; -1: not known.
func availableMemory() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return -1
	}
	defer f.Close()
	var total, free, available int64
	if n, _ := fmt.Fscanf(f, "MemTotal: %d kB\nMemFree: %d kB\nMemAvailable: %d kB", &total, &free, &available); n != 3 {
		return -1
	}
	return available << 10
}
