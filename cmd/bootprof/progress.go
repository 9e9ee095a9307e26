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

// A progress shows one line that moves on a terminal, and nothing elsewhere. Safe for concurrent use.
type progress struct {
	w     io.Writer
	what  string
	began time.Time
	tty   bool

	mu    sync.Mutex
	shown time.Time
	dirty bool // the line is on the screen
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{w: w, what: what, began: time.Now()}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.tty = err == nil
	}
	return p
}

// set shows done of total bytes, the rate and the time left.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tty || time.Since(p.shown) < 100*time.Millisecond || total == 0 {
		return
	}
	p.shown, p.dirty = time.Now(), true
	secs := time.Since(p.began).Seconds()
	left := ""
	if done > 0 {
		left = fmt.Sprintf(", %.0f s left", secs*float64(total-done)/float64(done))
	}
	fmt.Fprintf(p.w, "\r%s: %3d %%, %s of %s, %s/s%s   ", p.what, 100*done/total, size(done), size(total), size(int64(float64(done)/secs)), left)
}

// line prints a line above the progress.
func (p *progress) line(format string, v ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", v...)
}

// done removes the progress from the screen. It may be called again.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *progress) clear() {
	if p.dirty {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.dirty = false
	}
}
