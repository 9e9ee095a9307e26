package mountclient

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// A pin holds the identity of a remote file: what the first answer said of it. The zero value holds none.
type pin struct {
	mu     sync.Mutex
	set    bool
	length int64
	etag   string
}

// size returns the file's length in bytes, or -1 before the first answer.
func (p *pin) size() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.set {
		return -1
	}
	return p.length
}

// check takes the identity from the first answer and compares later ones with it. Weak ETags and missing
// ones say nothing; the digests of the pack catch what they would.
func (p *pin) check(url string, length int64, etag string) error {
	if strings.HasPrefix(etag, "W/") {
		etag = ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.set {
		p.set, p.length, p.etag = true, length, etag
		return nil
	}
	if length != p.length {
		return &identityError{url, fmt.Sprintf("%d bytes", p.length), fmt.Sprintf("%d bytes", length)}
	}
	if etag != "" && p.etag != "" && etag != p.etag {
		return &identityError{url, "ETag " + p.etag, "ETag " + etag}
	}
	return nil
}

// counters count what went over one source.
type counters struct {
	requests atomic.Int64
	bytes    atomic.Int64 // of bodies
	retries  atomic.Int64
	corrupt  atomic.Int64 // chunks and nodes whose digest was wrong
}
