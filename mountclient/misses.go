package mountclient

import (
	"fmt"
	"sync"
	"time"

	"bootprof/imagepack/bpk"
)

// maxMisses bounds the list of misses: 2 MB.
const maxMisses = 64 << 10

// Misses are the body chunks that were fetched because of readers, in the order in which they were. They tell what the
// boot zone lacks.
type Misses struct {
	ImageBytes   int64   `json:"image_bytes"`
	ImageSHA256  string  `json:"image_sha256"` // hexadecimal
	Filesystem   string  `json:"filesystem"`   // "" if unknown
	UpSeconds    float64 `json:"up_seconds"`
	ReadySeconds float64 `json:"ready_seconds"` // from start to the mount being ready
	List         []Miss  `json:"list"`
	Dropped      int64   `json:"dropped"` // misses for which the list had no room
	Reads        bool    `json:"reads"`   // with Options.Record: List has what the kernel read, page by page, boot zone or not
}

// A Miss is a range of pages outside the boot zone: a chunk, or what of it is between boot pages.
type Miss struct {
	AfterNS int64 `json:"after_ns"` // since the client's start
	Page    int64 `json:"page"`     // of the image
	Pages   int64 `json:"pages"`
	Ahead   bool  `json:"ahead,omitempty"` // nobody waited: it was read ahead of a sequential reader
}

// A missLog keeps the first miss of each chunk. The zero value is ready. Safe for concurrent use.
type missLog struct {
	mu      sync.Mutex
	seen    map[int64]struct{} // first pages of chunks
	list    []Miss
	dropped int64
	reads   bool // list has READs, by read
}

// add notes the chunks of flights that have just begun.
func (l *missLog) add(boot *bpk.BootIndex, started time.Time, begun []*flight, ahead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reads {
		return
	}
	after := int64(time.Since(started))
	if l.seen == nil {
		l.seen = make(map[int64]struct{})
	}
	for _, f := range begun {
		e := &f.entry
		if _, again := l.seen[e.Page]; again {
			continue
		}
		cold := boot.ColdRanges(e.Page, e.Pages)
		if len(l.list)+len(cold) > maxMisses {
			l.dropped++
			continue
		}
		l.seen[e.Page] = struct{}{}
		for _, r := range cold {
			l.list = append(l.list, Miss{AfterNS: after, Page: r.Page, Pages: r.Pages, Ahead: ahead})
		}
	}
}

// read notes a READ of the kernel, in place of misses. With no pages pushed and readahead 0, the first READ of a page is its
// first touch.
func (l *missLog) read(started time.Time, page, pages int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) >= maxMisses {
		l.dropped++
		return
	}
	l.list = append(l.list, Miss{AfterNS: int64(time.Since(started)), Page: page, Pages: pages})
}

// Misses returns the misses so far; none of a plain image.
func (c *Client) Misses() *Misses {
	if c.demand == nil {
		return &Misses{}
	}
	l := &c.demand.missed
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Misses{
		ImageBytes: c.head.ImageSize, ImageSHA256: fmt.Sprintf("%x", c.head.ImageSHA256), Filesystem: c.head.Filesystem,
		UpSeconds: time.Since(c.started).Seconds(), ReadySeconds: seconds(c.ready.Load()),
		List: append([]Miss{}, l.list...), Dropped: l.dropped, Reads: l.reads,
	}
}

// ReadMisses asks the client that is process pid for its misses. runDir is as for ReadStatus.
func ReadMisses(runDir string, pid int) (*Misses, error) {
	path := socketPath(runDir, pid)
	var m Misses
	if err := askSocket(path, "/misses", &m); err != nil {
		return nil, fmt.Errorf("asking the client behind %s for its misses: %w", path, err)
	}
	return &m, nil
}

// missedPages returns how many pages readers waited for that the boot zone has not.
func (c *Client) missedPages() (pages int64) {
	if c.demand == nil {
		return c.misses() * windowPages
	}
	l := &c.demand.missed
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.list {
		if !m.Ahead {
			pages += m.Pages
		}
	}
	return pages
}

// report tells at the end of the boot how it went. Which files were missed, `bootprof status --report` tells.
func (m *Mounted) report() {
	c := m.Client
	round := func(ns int64) time.Duration { return time.Duration(ns).Round(10 * time.Millisecond) }
	coverage := 100.0
	if missed := c.missedPages(); missed > 0 {
		coverage = 100 * float64(c.head.BootPages) / float64(c.head.BootPages+missed)
	}
	m.opts.Log.Info("boot is over", "coverage", fmt.Sprintf("%.1f%%", coverage), "ready", round(c.ready.Load()), "hot", round(c.hot.Load()), "stalled", round(c.stalled.Load()),
		"misses", c.misses())
}
