package recorder

import (
	"fmt"
	"sync"
	"time"

	"bootprof/profiles"
)

// A readLog keeps the first touch of every page. It is safe for concurrent use.
type readLog struct {
	size int64 // of the image

	mu      sync.Mutex
	start   time.Time // zero until begin
	seen    profiles.PageSet
	touches []profiles.Touch
	readErr error // the first one
}

func newReadLog(size int64) *readLog { return &readLog{size: size} }

// begin starts the clock, unless it runs. What was read before does not count.
func (l *readLog) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.start.IsZero() {
		l.start = time.Now()
	}
}

// now is the time since begin.
func (l *readLog) now() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sinceStart()
}

// sinceStart is called with mu held: what is appended under mu is in order of time.
func (l *readLog) sinceStart() time.Duration {
	if l.start.IsZero() {
		return 0
	}
	return time.Since(l.start)
}

// add logs a READ of [imageOff, imageOff+length), before it is answered.
func (l *readLog) add(imageOff, length int64) {
	if imageOff < 0 || imageOff >= l.size {
		return
	}
	length = min(length, l.size-imageOff)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.start.IsZero() {
		return
	}
	at := l.sinceStart()
	for _, r := range l.seen.Add(imageOff, length) {
		r.Len = min(r.Len, l.size-r.ImageOff)
		l.touches = append(l.touches, profiles.Touch{At: at, ImageOff: r.ImageOff, Len: r.Len})
	}
}

// pages is the number of pages touched so far.
func (l *readLog) pages() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, t := range l.touches {
		n += (t.Len + profiles.PageSize - 1) / profiles.PageSize
	}
	return n
}

// failed keeps the first error of reading the image.
func (l *readLog) failed(imageOff int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readErr == nil {
		l.readErr = fmt.Errorf("reading the image at %d while recording: %w", imageOff, err)
	}
}

// touchesUntil returns the touches up to a time, and the first read error.
func (l *readLog) touchesUntil(at time.Duration) ([]profiles.Touch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.touches)
	for n > 0 && l.touches[n-1].At > at {
		n--
	}
	return l.touches[:n:n], l.readErr
}
