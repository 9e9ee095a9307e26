package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// size prints bytes for people: "4.6 MB".
func size(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, prefixes := float64(n)/unit, "kMGTP"
	for v >= unit && len(prefixes) > 1 {
		v, prefixes = v/unit, prefixes[1:]
	}
	return fmt.Sprintf("%.1f %cB", v, prefixes[0])
}

// progressTick is how often the line is drawn anew.
const progressTick = 250 * time.Millisecond

// A progress shows one line that moves on a terminal, and nothing elsewhere: the step that is being done, and how far it
// is. A step that does not tell how far it is shows how long it has lasted. Safe for concurrent use. close must be called.
type progress struct {
	w   io.Writer
	tty bool
	end chan struct{} // closed by close; nil where there is no terminal

	mu          sync.Mutex
	what        string // the step; "" between steps
	began       time.Time
	done, total int64 // bytes; total 0: not told yet
	dirty       bool  // the line is on the screen
}

// newProgress begins with the step what.
func newProgress(w io.Writer, what string) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.tty = err == nil
	}
	p.step(what)
	if p.tty {
		p.end = make(chan struct{})
		go p.tick(p.end)
	}
	return p
}

// tick draws the line until end is closed.
func (p *progress) tick(end chan struct{}) {
	t := time.NewTicker(progressTick)
	defer t.Stop()
	for {
		select {
		case <-end:
			return
		case now := <-t.C:
			p.draw(now)
		}
	}
}

// step begins another step.
func (p *progress) step(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.began, p.done, p.total = what, time.Now(), 0, 0
}

// set tells how many of total bytes of the step are done.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
}

func (p *progress) draw(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.what == "" {
		return
	}
	p.dirty = true
	fmt.Fprintf(p.w, "\r%s\x1b[K", progressLine(p.what, p.done, p.total, now.Sub(p.began)))
}

// progressLine is "packing: 40 %, 4.0 MB of 10.0 MB, 2.0 MB/s, 3s left".
func progressLine(what string, done, total int64, spent time.Duration) string {
	whole := spent.Round(time.Second)
	switch {
	case total <= 0 || done <= 0:
		return fmt.Sprintf("%s: %s", what, whole)
	case done >= total:
		return fmt.Sprintf("%s: 100 %% of %s, finishing: %s", what, size(total), whole)
	}
	secs := max(spent.Seconds(), 1e-3)
	left := time.Duration(secs * (float64(total)/float64(done) - 1) * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s: %d %%, %s of %s, %s/s, %s left", what, int(100*float64(done)/float64(total)), size(done), size(total),
		size(int64(float64(done)/secs)), left)
}

// line prints a line above the progress.
func (p *progress) line(format string, v ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", v...)
}

// close removes the progress from the screen for good. It may be called again.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.what = ""
	if p.end != nil {
		close(p.end)
		p.end = nil
	}
}

func (p *progress) clear() {
	if p.dirty {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.dirty = false
	}
}
