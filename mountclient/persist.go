package mountclient

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// A panic in one goroutine ends a Go process. Under a root file system the work of ours that panics is done again: a reader
// that waits is better than a machine without a root. Goroutines of the libraries below have no such net.

// panicPause is the time before work that panicked is done again.
const panicPause = time.Second

// errPanicked stands for the error of work that panicked.
var errPanicked = errors.New("a bug in the client")

// persist does f, under a root file system as often as it panics, until ctx ends.
func (n *network) persist(ctx context.Context, what string, f func()) {
	for !n.survived(what, f) && sleep(ctx, panicPause) {
	}
}

// survived does f. Under a root file system it tells whether f ended without a panic; else a panic goes on.
func (n *network) survived(what string, f func()) (ok bool) {
	if !n.survive {
		f()
		return true
	}
	defer func() {
		if v := recover(); v != nil {
			n.log.Error("BUG: "+what+" panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	f()
	return true
}

// survived is network.survived for work that nothing waits for.
func (m *Mounted) survived(what string, f func()) {
	if !m.opts.Root {
		f()
		return
	}
	m.Client.fetch.survived(what, f)
}
