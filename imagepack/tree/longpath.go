package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path, in bytes, that is given to the kernel at once: PATH_MAX less room for a prefix.
const maxPath = unix.PathMax - 64

// withPath calls f with a path by which the kernel finds the file full: full itself, or, if the kernel does not
// take that many bytes, one that begins at an open directory on the way there. Errors of f name full.
func withPath(full string, f func(path string) error) error {
	if len(full) <= maxPath {
		return f(full)
	}
	dir, rest := unix.AT_FDCWD, full
	for len(rest) > maxPath {
		cut := strings.LastIndexByte(rest[:maxPath], '/')
		if cut <= 0 {
			cut = len(rest) // a name that is too long: the kernel says so
		}
		next, err := unix.Openat(dir, rest[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if dir != unix.AT_FDCWD {
			unix.Close(dir)
		}
		if err != nil {
			return &fs.PathError{Op: "open", Path: full, Err: err}
		}
		dir, rest = next, strings.TrimLeft(rest[cut:], "/")
	}
	defer unix.Close(dir)
	err := f(fmt.Sprintf("/proc/self/fd/%d/%s", dir, rest))
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		pe.Path = full
	}
	return err
}

func lstat(full string, st *unix.Stat_t) error {
	return withPath(full, func(path string) error { return unix.Lstat(path, st) })
}

// readable tells at once that a file cannot be read, not when the pack is half written.
func readable(full string) error {
	return withPath(full, func(path string) error {
		return unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS)
	})
}
