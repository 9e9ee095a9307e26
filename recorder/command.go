package recorder

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"bootprof/profiles"
)

// filePoll is the pause between two looks for Options.UntilFile.
const filePoll = 5 * time.Millisecond

// outputWait is how long the command's output is awaited after its end, should a process it left hold the pipe.
const outputWait = time.Second

// A CommandError means that the command could not be started, or ended with a failure before the recording was
// stopped.
type CommandError struct {
	Command string         // its first word
	Code    int            // exit status; 128 + the signal's number, 127 if it did not start
	Signal  syscall.Signal // 0 unless a signal ended it
	Err     error          // why it did not start
}

func (e *CommandError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("starting %s: %v", e.Command, e.Err)
	case e.Signal != 0:
		return fmt.Sprintf("%s was ended by signal %d (%v) while recording", e.Command, int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("%s ended with exit status %d while recording", e.Command, e.Code)
}

func (e *CommandError) Unwrap() error { return e.Err }

// A result is how a recording ended.
type result struct {
	end   string        // Header.End
	endAt time.Duration // touches after it do not count
	marks []profiles.Mark
	err   error // of the command or the context
}

// An event is a condition that came true.
type event struct {
	name string // Header.End, and the mark's name
	at   time.Duration
}

// A command is the process whose reads are recorded.
type command struct {
	o      *Options
	log    *readLog
	cmd    *exec.Cmd
	events chan event // UntilRegex and UntilFile; the first one is kept
	outMu  sync.Mutex
	lines  []*lineWatch
}

func newCommand(ctx context.Context, o *Options, st *stage, log *readLog) (*command, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("recording was interrupted: %w", context.Cause(ctx))
	}
	if o.UntilFile != "" {
		if _, err := os.Lstat(o.UntilFile); err == nil {
			return nil, fmt.Errorf("%s, whose appearance is to end the recording, is there already", o.UntilFile)
		}
	}
	words := st.words(o.Command)
	if under(words[0], st.root) {
		words = append([]string{"/bin/sh", "-c", `exec "$0" "$@"`}, words...)
	}
	c := &command{o: o, log: log, cmd: exec.Command(words[0], words[1:]...), events: make(chan event, 1)}
	if c.cmd.Err != nil {
		return nil, &CommandError{Command: o.Command[0], Code: 127, Err: c.cmd.Err}
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = o.Stdin, o.Stdout, o.Stderr
	if o.UntilRegex != nil {
		found := func(at time.Duration) { c.post(event{"until", at}) }
		for _, w := range []struct{ to, from *io.Writer }{{&c.cmd.Stdout, &o.Stdout}, {&c.cmd.Stderr, &o.Stderr}} {
			l := &lineWatch{out: *w.from, outMu: &c.outMu, re: o.UntilRegex, now: log.now, found: found}
			c.lines = append(c.lines, l)
			*w.to = l
		}
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.WaitDelay = outputWait
	return c, nil
}

// post keeps an event if it is the first.
func (c *command) post(e event) {
	select {
	case c.events <- e:
	default:
	}
}

// run starts the command and returns when it has ended, with all of its process group.
func (c *command) run(ctx context.Context) (result, error) {
	c.log.begin()
	if err := c.cmd.Start(); err != nil {
		return result{}, &CommandError{Command: c.o.Command[0], Code: 127, Err: err}
	}
	exited := make(chan struct{})
	go func() {
		c.cmd.Wait() // what it returns is in ProcessState
		close(exited)
	}()
	defer c.endGroup()

	stopPoll := make(chan struct{})
	var polls sync.WaitGroup
	if c.o.UntilFile != "" {
		polls.Go(func() { c.pollFile(stopPoll) })
	}
	defer polls.Wait()
	defer close(stopPoll)

	res := c.await(ctx, exited)
	res.marks = append(res.marks, profiles.Mark{At: res.endAt, Name: "end"})
	c.terminate(exited)
	return res, nil
}

// await returns when the recording is over: a condition, the end of the command, or of ctx.
func (c *command) await(ctx context.Context, exited chan struct{}) result {
	res := result{marks: []profiles.Mark{{At: 0, Name: "start"}}}
	var limit <-chan time.Time
	if c.o.Duration > 0 {
		t := time.NewTimer(c.o.Duration - c.log.now())
		defer t.Stop()
		limit = t.C
	}
	reached := false
	until := func(e event) (over bool) {
		reached = true
		res.marks = append(res.marks, profiles.Mark{At: e.at, Name: e.name})
		res.end, res.endAt = e.name, e.at
		return !c.o.KeepGoing
	}
	events := c.events
	for {
		select {
		case e := <-events:
			if until(e) {
				return res
			}
			events = nil
		case <-limit:
			res.end, res.endAt = "duration", c.log.now()
			return res
		case <-ctx.Done():
			res.end, res.endAt = "interrupted", c.log.now()
			res.err = fmt.Errorf("recording was interrupted: %w", context.Cause(ctx))
			return res
		case <-exited:
			endAt := c.log.now()
			if e, ok := c.lastEvent(endAt); ok && !reached && until(e) {
				return res
			}
			res.end, res.endAt = exitName(c.cmd.ProcessState), endAt
			res.err = c.exitError()
			if res.err == nil && !reached && (c.o.UntilRegex != nil || c.o.UntilFile != "") {
				res.err = ErrNotReached
			}
			return res
		}
	}
}

// lastEvent looks once more after the command's end: its last act may have been the condition.
func (c *command) lastEvent(at time.Duration) (event, bool) {
	for _, l := range c.lines {
		l.flush()
	}
	if c.o.UntilFile != "" {
		if _, err := os.Lstat(c.o.UntilFile); err == nil {
			c.post(event{"until-file", at})
		}
	}
	select {
	case e := <-c.events:
		return e, true
	default:
		return event{}, false
	}
}

func (c *command) pollFile(stop chan struct{}) {
	t := time.NewTicker(filePoll)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		if _, err := os.Lstat(c.o.UntilFile); err == nil {
			c.post(event{"until-file", c.log.now()})
			return
		}
	}
}

// exitCode is the shell's: 128 + the signal's number for a process that a signal ended.
func exitCode(ps *os.ProcessState) (code int, sig syscall.Signal) {
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), ws.Signal()
	}
	return ps.ExitCode(), 0
}

func exitName(ps *os.ProcessState) string {
	code, _ := exitCode(ps)
	return fmt.Sprintf("exit %d", code)
}

func (c *command) exitError() error {
	code, sig := exitCode(c.cmd.ProcessState)
	if code == 0 {
		return nil
	}
	return &CommandError{Command: c.o.Command[0], Code: code, Signal: sig}
}
