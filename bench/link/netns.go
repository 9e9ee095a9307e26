package link

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A Netns is a network namespace that has no name: it lives as long as its handle or a process in it, so nothing is
// left when this process ends, in whatever way. Safe for concurrent use.
type Netns struct {
	file *os.File
}

// newNetns makes an empty network namespace with its loopback device up.
func newNetns() (*Netns, error) {
	n := &Netns{}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		n.file = file
		return setUp("lo", unix.IFF_UP)
	})
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Path names the namespace to other programs (nsenter --net=PATH) while this process lives.
func (n *Netns) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Do runs fn on a thread that is in the namespace: sockets that fn itself opens belong to it. Goroutines that fn
// starts run elsewhere.
func (n *Netns) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace: %w", err)
		}
		return fn()
	})
}

// Start starts cmd in the namespace; its mounts are those of the caller. cmd must not ask for a parent-death signal:
// the thread that starts it ends.
func (n *Netns) Start(cmd *exec.Cmd) error {
	return n.Do(cmd.Start)
}

// Close lets go of the namespace.
func (n *Netns) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// onOwnThread runs fn on a thread whose namespaces fn may change. The thread goes back to the namespace it came from;
// if it cannot, it ends with its goroutine, so that no other code runs there.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = fn()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Probe tells whether something accepts TCP connections at the address, seen from the namespace.
func (n *Netns) Probe(ip string, port int) error {
	return n.Do(func() error {
		conn, err := net.DialTimeout("tcp4", net.JoinHostPort(ip, strconv.Itoa(port)), time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// PIDs lists the processes that are in the namespace.
func (n *Netns) PIDs() ([]int, error) {
	own, err := os.Readlink(n.Path())
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process may end while the list is read.
		if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil && ns == own {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
