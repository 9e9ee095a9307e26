// Package atomicfile writes files that appear under their name whole or not at all.
//
// The bytes go to a file without a name (O_TMPFILE), so that a process killed at any moment leaves nothing
// behind; on file systems that have no such files (NFS, some FUSE), a hidden temporary name in the same
// directory is used and removed by Close. Commit syncs the file, gives it its name, replacing an older file,
// and syncs the directory.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A File is a file that has no name yet. Not safe for concurrent use.
type File struct {
	*os.File
	path string
	temp string // temporary name; "" while the file has none
	done bool
}

// Create opens a new file that Commit will name path. mode is subject to the umask. Close must be called
// in any case.
func Create(path string, mode fs.FileMode) (*File, error) {
	dir := filepath.Dir(path)
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s exists and is not a regular file", path)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err == nil {
		return &File{File: os.NewFile(uintptr(fd), path), path: path}, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
		return nil, &fs.PathError{Op: "creating a file in", Path: dir, Err: err}
	}
	temp := tempName(path)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode.Perm())
	if err != nil {
		return nil, err
	}
	return &File{File: f, path: path, temp: temp}, nil
}

func tempName(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:10])
}

// Commit syncs the file, names it and closes it.
func (f *File) Commit() error { return Commit("", f) }

// Commit syncs files, which lie in one directory, names them in this order and closes them. The file at stale, if that is not
// "", fits only what is replaced and is removed first. All that takes time or may well fail is done before, so that a kill
// finds a part of the names new only in the moment that the calls themselves take.
func Commit(stale string, files ...*File) error {
	for _, f := range files {
		if err := f.prepare(); err != nil {
			return err
		}
	}
	if stale != "" {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, f := range files {
		if err := os.Rename(f.temp, f.path); err != nil {
			return err
		}
		f.temp, f.done = "", true
	}
	if dir, err := os.Open(filepath.Dir(files[0].path)); err == nil {
		defer dir.Close()
		_ = dir.Sync() // not every file system can; the rename itself is done
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, f.File.Close())
	}
	return errors.Join(errs...)
}

// prepare syncs the file and gives it a temporary name.
func (f *File) prepare() error {
	if err := f.Sync(); err != nil {
		return err
	}
	if f.temp != "" {
		return nil
	}
	temp := tempName(f.path)
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &fs.PathError{Op: "naming", Path: f.path, Err: err}
	}
	f.temp = temp
	return nil
}

// Close drops the file if it was not committed, and does nothing after Commit.
func (f *File) Close() error {
	if f.done {
		return nil
	}
	f.done = true
	if f.temp != "" {
		os.Remove(f.temp)
	}
	return f.File.Close()
}
