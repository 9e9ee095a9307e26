package erofs

import (
	"errors"
	"sync"

	"bootprof/imagepack/tree"
)

// openFiles keeps a few opened contents that nobody is reading from. A content is taken out for the time
// of a read, since it serves one goroutine at a time: two readers of one file open it twice.
type openFiles struct {
	max int

	mu     sync.Mutex // guards all below
	idle   []openFile // least recently used first
	closed bool
}

type openFile struct {
	node *tree.Inode
	tree.ReadAtCloser
}

func newOpenFiles(max int) *openFiles { return &openFiles{max: max} }

// get takes out an opened content of n, or opens it.
func (o *openFiles) get(n *tree.Inode) (tree.ReadAtCloser, error) {
	o.mu.Lock()
	for i := len(o.idle) - 1; i >= 0; i-- {
		if o.idle[i].node == n {
			c := o.idle[i].ReadAtCloser
			o.idle = append(o.idle[:i], o.idle[i+1:]...)
			o.mu.Unlock()
			return c, nil
		}
	}
	o.mu.Unlock()
	return n.Content.Open()
}

// put gives a content back. What does not fit any more is closed.
func (o *openFiles) put(n *tree.Inode, c tree.ReadAtCloser) {
	o.mu.Lock()
	if !o.closed {
		o.idle = append(o.idle, openFile{n, c})
		c = nil
		if len(o.idle) > o.max {
			c = o.idle[0].ReadAtCloser
			o.idle = append(o.idle[:0], o.idle[1:]...)
		}
	}
	o.mu.Unlock()
	if c != nil {
		c.Close() // it was only read from
	}
}

func (o *openFiles) close() error {
	o.mu.Lock()
	idle := o.idle
	o.idle, o.closed = nil, true
	o.mu.Unlock()
	var errs []error
	for _, c := range idle {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
