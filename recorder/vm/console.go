package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
)

const (
	consoleBytes = 32 << 20 // of the console's text kept in memory; the log file has all
	tailBytes    = 8 << 10  // looked at for the last lines
	tailLines    = 15       // of a ConsoleError
)

// ErrEnded means that the machine ended while something was awaited of it.
var ErrEnded = errors.New("the machine has ended")

// A ConsoleError tells what was awaited in vain, and what the console said last.
type ConsoleError struct {
	Awaited string // a regular expression, or another description
	Log     string // the console's log file
	Tail    string // the console's last lines, without escape sequences
	Err     error  // ErrEnded, or the context's cause
}

// Brief is the error in one line, without the console's last lines.
func (e *ConsoleError) Brief() string {
	return fmt.Sprintf("waiting for %s: %v (console log: %s)", e.Awaited, e.Err, e.Log)
}

func (e *ConsoleError) Error() string {
	if e.Tail == "" {
		return e.Brief() + "; the console is empty"
	}
	return e.Brief() + "; its last lines:\n  " + strings.ReplaceAll(e.Tail, "\n", "\n  ")
}

func (e *ConsoleError) Unwrap() error { return e.Err }

// Console returns all that the console said (the last 32 MiB of it).
func (v *VM) Console() string {
	_, text, _ := v.console.from(0)
	return string(text)
}

// ConsoleTail returns the last n lines of the console, without escape sequences and empty lines.
func (v *VM) ConsoleTail(n int) string { return lastLines(v.console.tail(), n) }

// ConsolePos is the number of bytes that the console has said so far: a position for WaitConsole.
func (v *VM) ConsolePos() int64 {
	v.console.mu.Lock()
	defer v.console.mu.Unlock()
	return v.console.base + int64(len(v.console.text))
}

// Type writes to the console, as a keyboard does.
func (v *VM) Type(text string) error {
	_, err := v.input.WriteString(text)
	return err
}

// WaitConsole waits until a line matches, among those that were said from position from on (0: all), and returns the
// position after the match. A line that is not finished yet, such as a prompt, is matched as it stands; a line end is no part
// of it. The error is a *ConsoleError.
func (v *VM) WaitConsole(ctx context.Context, re *regexp.Regexp, from int64) (end int64, err error) {
	for {
		var text []byte
		var changed <-chan struct{}
		from, text, changed = v.console.from(from)
		for len(text) > 0 {
			line, rest, finished := bytes.Cut(text, []byte("\n"))
			if m := re.FindIndex(bytes.TrimSuffix(line, []byte("\r"))); m != nil {
				return from + int64(m[1]), nil
			}
			if !finished {
				break // look at it again with what comes
			}
			from += int64(len(line) + 1)
			text = rest
		}
		if changed == nil {
			return from, v.consoleError(re.String(), ErrEnded)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return from, v.consoleError(re.String(), context.Cause(ctx))
		}
	}
}

func (v *VM) consoleError(awaited string, err error) error {
	return &ConsoleError{awaited, v.console.log.Name(), v.ConsoleTail(tailLines), err}
}

// A console keeps what the guest says, in a file and in memory.
type console struct {
	log *os.File

	mu      sync.Mutex
	text    []byte
	base    int64         // position of text[0]
	changed chan struct{} // closed by the next change; nil at the end
}

func newConsole(path string) (*console, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("making the console log: %w", err)
	}
	return &console{log: f, changed: make(chan struct{})}, nil
}

// Write never fails: a full disk must not stop the guest.
func (c *console) Write(p []byte) (int, error) {
	c.log.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.text)+len(p) > consoleBytes {
		cut := len(c.text) / 2
		c.text = bytes.Clone(c.text[cut:])
		c.base += int64(cut)
	}
	c.text = append(c.text, p...)
	close(c.changed)
	c.changed = make(chan struct{})
	return len(p), nil
}

// close ends the log. What waits for more text is woken.
func (c *console) close() {
	c.log.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = nil
}

// from returns the text from a position on, or from the nearest position that there is, and a channel that is closed when
// there is more, nil at the end. The bytes stay as they are.
func (c *console) from(pos int64) (int64, []byte, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := min(max(pos-c.base, 0), int64(len(c.text)))
	return c.base + at, c.text[at:len(c.text):len(c.text)], c.changed
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text[max(0, len(c.text)-tailBytes):])
}

// lastLines is the end of a text, without escape sequences and empty lines.
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(escapes.ReplaceAllString(text, "")) {
		if line = strings.TrimRight(line, " \t\r\n"); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// escapes are a terminal's control sequences, as firmware and systemd send them.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|[@-Z\\\\^_=>c78])|[\x00-\x08\x0b\x0c\x0e-\x1a]")
