package mountclient

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files in a directory that is held open: its path may lead elsewhere by now, or nowhere.

// newFileSuffix ends the name of a file that is being written.
const newFileSuffix = ".new"

// openIn opens the file name in dir.
func openIn(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0o600)
	path := filepath.Join(dir.Name(), name)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readIn returns what the file name in dir holds, and at most limit bytes of it.
func readIn(dir *os.File, name string, limit int64) ([]byte, error) {
	f, err := openIn(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// writeIn puts a file with the content b into dir. Whoever opens it sees an older one whole, or this one. One writer
// at a time.
func writeIn(dir *os.File, name string, b []byte) error {
	temp := name + newFileSuffix
	f, err := openIn(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	at := int(dir.Fd())
	if err == nil {
		err = unix.Renameat(at, temp, at, name)
	}
	if err != nil {
		_ = unix.Unlinkat(at, temp, 0)
		return fmt.Errorf("writing %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return nil
}
