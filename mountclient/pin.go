package mountclient

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// A pin holds the identity of a remote file: what the first answer said of it. Mirrors share it; ETags are each
// server's own. The zero value holds none.
type pin struct {
	image int64 // bytes that the file must have because its manifest says so; 0: any. Set before the first answer

	mu     sync.Mutex
	set    bool
	length int64
	etags  map[string]string // by URL

	stand *standIn // the local copy, if the server gives no ranges

	modified string // Last-Modified of the first answer that had one
	dated    bool   // it has to be that of all answers
	redated  error  // the first answer with another one

	undated  map[string]bool // URLs that told no Last-Modified, though one was known or came later
	compared bool            // mirrors have to tell the same, see compare
	etag     string          // that they do; empty: none
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
		if p.image > 0 && length != p.image {
			return wrongSize(url, length, p.image)
		}
		p.set, p.length, p.etags = true, length, make(map[string]string)
	}
	if length != p.length {
		return &identityError{url, fmt.Sprintf("%d bytes", p.length), fmt.Sprintf("%d bytes", length)}
	}
	was := p.etags[url]
	if etag != "" && was != "" && etag != was {
		return &identityError{url, "ETag " + was, "ETag " + etag}
	}
	if was == "" && len(p.etags) < maxMirrors {
		p.etags[url] = etag
	}
	return nil
}

// date takes Last-Modified from the first answer that has it. Later ones are compared with it after checkDate.
func (p *pin) date(url, modified string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if modified == "" && len(p.undated) < maxMirrors {
		if p.undated == nil {
			p.undated = make(map[string]bool)
		}
		p.undated[url] = true
	}
	if p.compared && !p.agrees(url) {
		return p.differs(url)
	}
	if p.modified == "" || modified == "" || modified == p.modified {
		p.modified = max(p.modified, modified)
		return nil
	}
	err := &identityError{url, "Last-Modified " + p.modified, "Last-Modified " + modified}
	if p.redated == nil {
		p.redated = err
	}
	if p.dated {
		return err
	}
	return nil
}

// checkDate makes Last-Modified a part of the identity, as nothing else tells one version of the file from another. It
// returns an error if answers have differed already.
func (p *pin) checkDate() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dated = true
	return p.redated
}

// compare makes sure that mirrors of a file that has no digests have the same one, as far as they tell: each must have told
// the ETag, or the Last-Modified, of the first. Servers that made neither of the bytes (a copy's time of copying) differ in
// both. From now on an answer that does not agree is one of another file.
func (p *pin) compare(first string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.compared, p.etag = true, p.etags[first]
	for url := range p.etags {
		if !p.agrees(url) {
			return p.differs(url)
		}
	}
	return nil
}

// agrees tells whether url has the file of the others. The caller holds mu, and has compared Last-Modified where that
// was told.
func (p *pin) agrees(url string) bool {
	return p.etag != "" && p.etags[url] == p.etag || p.modified != "" && !p.undated[url]
}

func (p *pin) differs(url string) error {
	return &identityError{url, "Last-Modified " + p.modified + ", ETag " + p.etag, "nothing that says that it is the same image"}
}

// name returns what tells this version of the file from others: ETag and Last-Modified; "" if nothing does.
func (p *pin) name(url string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.etags[url]+p.modified == "" {
		return ""
	}
	return fmt.Sprintf("%d\n%s\n%s", p.length, p.etags[url], p.modified)
}

// counters count what went over the sources of one client.
type counters struct {
	requests atomic.Int64
	bytes    atomic.Int64 // of bodies
	retries  atomic.Int64
	corrupt  atomic.Int64         // chunks and nodes whose digest was wrong
	byCause  [causes]atomic.Int64 // bytes
}

// An ImageError tells that the image beside a manifest is not the one that the manifest was made of.
type ImageError struct {
	URL, Why string
	Err      error // what showed it; nil: the file's length
}

func (e *ImageError) Error() string {
	return fmt.Sprintf("%s is not the image of its manifest: %s", e.URL, e.Why)
}

func (e *ImageError) Unwrap() error { return e.Err }

func wrongSize(url string, is, want int64) error {
	return &ImageError{URL: url, Why: fmt.Sprintf("%d bytes on the server instead of %d: uploaded in part, or of another version?", is, want)}
}
