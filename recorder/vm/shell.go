package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	helloEvery = time.Second // between two attempts to find a shell at the other end
	lineBytes  = 800         // of a command sent in one line; a terminal takes 4095
)

// Shell runs a command in the guest, in the root shell on ttyS1, and returns what it wrote to stdout and stderr and its
// exit status. It waits until there is such a shell, which systemd.debug_shell=ttyS1 starts early in the boot. The
// command may have several lines; it runs in a subshell with stdin from /dev/null. CR LF in its output becomes LF; for
// other bytes a terminal is no way. If ctx ends first the command is interrupted, and the error is a *ConsoleError.
func (v *VM) Shell(ctx context.Context, command string) (output string, code int, err error) {
	output, code, err = v.shell.run(ctx, command)
	if err != nil {
		err = v.consoleError(fmt.Sprintf("the guest's shell to run %q", command), err)
	}
	return output, code, err
}

// A shell is the connection to the guest's second serial port. A nil one has nothing to close.
type shell struct {
	conn  net.Conn
	runMu sync.Mutex // one command at a time; guards ready and count
	ready bool       // our shell runs at the other end
	count int        // makes each marker new

	mu      sync.Mutex
	said    []byte        // by the guest, since the last command
	changed chan struct{} // closed by the next change; nil at the end
}

func newShell(conn net.Conn) *shell {
	s := &shell{conn: conn, changed: make(chan struct{})}
	go s.read()
	return s
}

// read takes what the guest writes, so that it never waits.
func (s *shell) read() {
	b := make([]byte, 4096)
	for {
		n, err := s.conn.Read(b)
		s.mu.Lock()
		if s.said = append(s.said, b[:n]...); len(s.said) > consoleBytes {
			s.said = bytes.Clone(s.said[len(s.said)/2:])
		}
		close(s.changed)
		s.changed = make(chan struct{})
		if err != nil {
			s.changed = nil
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

func (s *shell) run(ctx context.Context, command string) (string, int, error) {
	s.runMu.Lock()
	defer s.runMu.Unlock()
	if err := s.hello(ctx); err != nil {
		return "", 0, err
	}
	s.count++
	s.forget()
	if err := s.send(commandLines(command, s.count)); err != nil {
		return "", 0, err
	}
	reader := answerReader{
		begin: []byte(fmt.Sprintf("@@begin-%d@@\n", s.count)),
		end:   endMarker(s.count),
	}
	err := s.await(ctx, 0, reader.read)
	if err != nil {
		s.ready = false
		s.send("\x03") // systemd starts its shell anew
	}
	return reader.output, reader.code, err
}

// An answerReader finds the answer to a command in what the guest says.
type answerReader struct {
	begin []byte
	end   *regexp.Regexp

	looked int // bytes in which there is no end
	output string
	code   int
}

func endMarker(n int) *regexp.Regexp {
	return regexp.MustCompile(fmt.Sprintf(`\n@@end-%d=(\d+)@@\r?\n`, n))
}

// endBytes is more than an end marker has.
const endBytes = 64

func (r *answerReader) read(said []byte) (done bool) {
	from := max(0, min(r.looked, len(said))-endBytes)
	m := r.end.FindSubmatchIndex(said[from:])
	if r.looked = len(said); m == nil {
		return false
	}
	r.code, _ = strconv.Atoi(string(said[from+m[2] : from+m[3]]))
	output := bytes.ReplaceAll(said[:from+m[0]+1], []byte("\r\n"), []byte("\n"))
	if _, after, found := bytes.Cut(output, r.begin); found {
		output = after
	}
	r.output = strings.TrimSuffix(string(output), "\n") // the marker's own line end
	return true
}

// hello makes sure that a shell of ours reads at the other end, one that is not interactive: it has no prompt, edits no lines
// and echoes nothing.
func (s *shell) hello(ctx context.Context) error {
	first := s.count + 1
	s.forget()
	for !s.ready {
		s.count++
		if err := s.send(helloLines(s.count)); err != nil {
			return err
		}
		// The first may be answered late, where a guest is slow.
		err := s.await(ctx, helloEvery, func(said []byte) bool { return answersHello(said, first, s.count) })
		if err != nil && !errors.Is(err, errSilent) {
			return err
		}
		s.ready = err == nil
	}
	return nil
}

// helloLines replace the shell at the other end by one that is not interactive (+i for dash, no terminal for bash), and make it say
// so. They have no quotation marks: a shell that is only starting, or a terminal that an interrupt empties, may miss the
// beginning, and half a line with one would leave the shell inside a string for good. An echo of them is no answer.
func helloLines(n int) string {
	return fmt.Sprintf("stty -echo -opost 2>/dev/null; exec /bin/sh +i 2>/dev/null\necho @@ready-$((%d))-$-@@\n", n)
}

var helloAnswer = regexp.MustCompile(`@@ready-(\d+)-([A-Za-z]*)@@`)

// answersHello looks for an answer, to one of the hellos from first to last, of a shell that is not interactive.
func answersHello(said []byte, first, last int) bool {
	for _, m := range helloAnswer.FindAllSubmatch(said, -1) {
		if n, _ := strconv.Atoi(string(m[1])); n >= first && n <= last && !bytes.Contains(m[2], []byte("i")) {
			return true
		}
	}
	return false
}

// isPlain tells whether a byte means nothing to printf and in quotation marks.
func isPlain(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(" /.-=_,", c) >= 0
}

// commandLines are what runs a command between two markers. The text goes in octal, so that no quoting matters.
func commandLines(command string, n int) string {
	var b strings.Builder
	b.WriteString("C=\n")
	var line strings.Builder
	flush := func() {
		if line.Len() > 0 {
			fmt.Fprintf(&b, "C=$C'%s'\n", line.String())
			line.Reset()
		}
	}
	for i := range len(command) {
		if c := command[i]; isPlain(c) {
			line.WriteByte(c)
		} else {
			fmt.Fprintf(&line, `\0%03o`, c)
		}
		if line.Len() >= lineBytes {
			flush()
		}
	}
	flush()
	fmt.Fprintf(&b, `printf '@@%%s@@\n' begin-%d; (eval "$(printf %%b "$C")") </dev/null 2>&1; printf '\n@@%%s=%%d@@\n' end-%d $?`+"\n", n, n)
	return b.String()
}

func (s *shell) forget() {
	s.mu.Lock()
	s.said = nil
	s.mu.Unlock()
}

// send fails only if QEMU, the other end, is gone.
func (s *shell) send(text string) error {
	if _, err := s.conn.Write([]byte(text)); err != nil {
		return ErrEnded
	}
	return nil
}

// errSilent means that await's time is over.
var errSilent = errors.New("the guest's shell says nothing")

// await waits until what was said is enough; patience 0 has no end.
func (s *shell) await(ctx context.Context, patience time.Duration, enough func(said []byte) bool) error {
	var over <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		over = t.C
	}
	for {
		s.mu.Lock()
		said, changed := s.said[:len(s.said):len(s.said)], s.changed
		s.mu.Unlock()
		switch {
		case enough(said):
			return nil
		case changed == nil:
			return ErrEnded
		}
		select {
		case <-changed:
		case <-over:
			return errSilent
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *shell) close() {
	if s != nil {
		s.conn.Close()
	}
}
