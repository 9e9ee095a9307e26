package lab

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// consoleBytes is how much of the console's text is kept.
const consoleBytes = 64 << 10

// A console is the guest's /dev/console: a pseudo-terminal whose output is read all the time, so that the guest never
// waits for it.
type console struct {
	path     string   // of the guest's end
	ours     *os.File // the other end
	guestEnd *os.File // until the guest has it
	heldOpen *os.File // the guest's end once more: systemd closes and opens its console, which is no end of it

	mu   sync.Mutex
	text []byte // guarded by mu
	done chan struct{}
}

func openConsole() (*console, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the guest's console: %w", err)
	}
	c := &console{ours: os.NewFile(uintptr(fd), "/dev/ptmx"), done: make(chan struct{})}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		c.path = fmt.Sprintf("/dev/pts/%d", n)
		c.guestEnd, err = os.OpenFile(c.path, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		c.heldOpen, err = os.OpenFile(c.path, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		c.guestEnd.Close() // a nil *os.File only says so
		c.ours.Close()
		return nil, fmt.Errorf("making the guest's console: %w", err)
	}
	go c.read()
	return c, nil
}

// started lets go of the guest's end once the guest has it.
func (c *console) started() { c.guestEnd.Close() }

// read keeps the last text, until no one has the guest's end open any more: then the kernel reports EIO.
func (c *console) read() {
	defer close(c.done)
	b := make([]byte, 4096)
	for {
		n, err := c.ours.Read(b)
		c.mu.Lock()
		c.text = append(c.text, b[:n]...)
		if len(c.text) > 2*consoleBytes {
			c.text = append(c.text[:0], c.text[len(c.text)-consoleBytes:]...)
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text[max(0, len(c.text)-consoleBytes):])
}

// close ends the console of a guest that has ended. What the guest wrote last is read before.
func (c *console) close() {
	c.guestEnd.Close()
	c.heldOpen.Close()
	select {
	case <-c.done:
	case <-time.After(time.Second): // someone else has it open
	}
	c.ours.Close()
	<-c.done
}

// lastLines is the end of a text, without escape sequences and empty lines.
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(stripEscapes(text)) {
		if line = strings.TrimRight(line, " \t\r\n"); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// stripEscapes takes terminal control sequences (ESC [ ... letter) out of a text.
func stripEscapes(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != 0x1b {
			b.WriteByte(s[i])
			continue
		}
		if i++; i < len(s) && s[i] == '[' {
			for i++; i < len(s) && (s[i] < 0x40 || s[i] > 0x7e); i++ {
			}
		}
	}
	return b.String()
}
