package mountclient

import (
	"sync/atomic"
	"time"
)

// A moment is a time that is read and set atomically, with its monotonic reading: the clock of a booting machine may jump by
// years, and what waits is not to notice. The zero value is the zero time. Safe for concurrent use.
type moment struct{ at atomic.Pointer[time.Time] }

func (m *moment) set(t time.Time) { m.at.Store(&t) }

func (m *moment) get() time.Time {
	if t := m.at.Load(); t != nil {
		return *t
	}
	return time.Time{}
}
