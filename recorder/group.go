package recorder

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// groupPoll is the pause between two looks at a process group that was told to end.
const groupPoll = 5 * time.Millisecond

// killWait is how long processes may take to be gone after SIGKILL, before they are left to the kernel.
const killWait = 2 * time.Second

// terminate ends the command if it still runs: SIGTERM to its process group, SIGKILL after the grace period.
func (c *command) terminate(exited chan struct{}) {
	select {
	case <-exited:
		return
	default:
	}
	pgid := c.cmd.Process.Pid
	syscall.Kill(-pgid, syscall.SIGTERM)
	t := time.NewTimer(c.o.Grace)
	defer t.Stop()
	select {
	case <-exited:
	case <-t.C:
		c.o.Logger.Warn("killing the command, which did not end", "grace", c.o.Grace)
		syscall.Kill(-pgid, syscall.SIGKILL)
		<-exited
	}
}

// endGroup ends what the command left running in its process group, so that it does not keep the image busy.
func (c *command) endGroup() {
	pgid := c.cmd.Process.Pid
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGTERM, c.o.Grace}, {syscall.SIGKILL, killWait}} {
		if !groupAlive(pgid) {
			return
		}
		syscall.Kill(-pgid, step.sig)
		for end := time.Now().Add(step.wait); groupAlive(pgid) && time.Now().Before(end); {
			time.Sleep(groupPoll)
		}
	}
}

// groupAlive tells whether the group has a process that is no zombie: where process 1 does not reap,
// zombies stay.
func groupAlive(pgid int) bool {
	if syscall.Kill(-pgid, 0) != nil {
		return false
	}
	ents, err := os.ReadDir("/proc")
	if err != nil {
		return true
	}
	for _, e := range ents {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// "pid (comm) state ppid pgrp ...": comm may hold blanks and parentheses.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) > 2 && string(fields[2]) == strconv.Itoa(pgid) && fields[0][0] != 'Z' && fields[0][0] != 'X' {
			return true
		}
	}
	return false
}
