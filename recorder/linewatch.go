package recorder

import (
	"bytes"
	"io"
	"regexp"
	"sync"
	"time"
)

// idleLine is how long an unfinished line must stand before it is matched: a prompt ("login: ") has no line end.
const idleLine = 100 * time.Millisecond

// maxLine is how much of a line without an end is kept for matching.
const maxLine = 64 << 10

// A lineWatch passes what is written on and looks for a line that matches. An unfinished line is matched as it stands
// once nothing was added for idleLine, and at the end. A carriage return before the line end is no part of the line.
// It is safe for concurrent use.
type lineWatch struct {
	out   io.Writer   // nil: dropped
	outMu *sync.Mutex // held while writing to out: stdout and stderr may be the same
	re    *regexp.Regexp
	now   func() time.Duration
	found func(at time.Duration) // called for every matching line, with the time at which its last byte came

	mu    sync.Mutex
	line  []byte // unfinished
	at    time.Duration
	timer *time.Timer
}

// Write never fails: a caller who stopped reading must not end the command.
func (w *lineWatch) Write(p []byte) (int, error) {
	at := w.now()
	if w.out != nil {
		w.outMu.Lock()
		w.out.Write(p)
		w.outMu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.at = at
	w.line = append(w.line, p...)
	for {
		i := bytes.IndexByte(w.line, '\n')
		if i < 0 {
			break
		}
		w.match(w.line[:i])
		w.line = w.line[i+1:]
	}
	if len(w.line) > maxLine {
		w.match(w.line)
		w.line = bytes.Clone(w.line[len(w.line)-maxLine/2:])
	}
	if len(w.line) > 0 {
		w.timer = time.AfterFunc(idleLine, w.flush)
	}
	return len(p), nil
}

// flush matches the unfinished line.
func (w *lineWatch) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	if len(w.line) > 0 {
		w.match(w.line)
	}
}

func (w *lineWatch) match(line []byte) {
	if w.re.Match(bytes.TrimSuffix(line, []byte("\r"))) {
		w.found(w.at)
	}
}
