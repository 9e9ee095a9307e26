package link

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The TUN descriptors are non-blocking, so that reads and writes return at once and need not tell the scheduler: that
// saves a good part of the cost per packet.

func readFD(fd int, b []byte) (n int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(r), errno
}

func writeFD(fd int, b []byte) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return errno
}

// waitFDs is ppoll(2). It does not tell the scheduler either, although it blocks: a thread that comes back from a
// system call that does must first find a free processor of the Go scheduler. The garbage collector stops such a thread
// by a signal, which ends the wait early.
func waitFDs(fds []unix.PollFd, timeout *unix.Timespec) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)),
		uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
