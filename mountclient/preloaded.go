package mountclient

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// What a preload has, for those who wait for it and read it.

// advance wakes the readers if one of them has what it waits for. The caller holds mu.
func (p *preload) advance() {
	if p.err != nil || p.curious > 0 || slices.ContainsFunc(p.waiting, func(s *span) bool { return p.have(s.off) >= s.end }) {
		p.come.Broadcast()
	}
}

// have returns up to where all bytes from off on are there. The caller holds mu.
func (p *preload) have(off int64) int64 {
	for i := p.behind(off); i < len(p.sorted); i++ {
		s := p.sorted[i]
		if s.off == s.end { // all of it was given to another mirror
			continue
		}
		if s.off > off || s.off+s.filled <= off {
			break
		}
		if off = s.off + s.filled; off < s.end {
			break
		}
	}
	return off
}

// wait blocks until [off, off+n) is there, the remote file has ended before it (then it tells so), or ctx ends.
func (p *preload) wait(ctx context.Context, off, n int64) error {
	stop := context.AfterFunc(ctx, p.wake)
	defer stop()
	want := &span{off, off + n}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, want)
	defer func() { p.waiting = slices.DeleteFunc(p.waiting, func(s *span) bool { return s == want }) }()
	for {
		if p.err != nil {
			return p.err
		}
		if size := p.fetch.src.pin.size(); size >= 0 && size < want.end {
			return errEndsEarly
		}
		if p.have(off) >= want.end {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.come.Wait()
	}
}

// answered waits until the server has told the file's size, or what is wrong with the file.
func (p *preload) answered(ctx context.Context) error {
	stop := context.AfterFunc(ctx, p.wake)
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size(ctx) < 0 && p.err == nil {
		return context.Cause(ctx)
	}
	return p.err
}

// source returns who was asked for the byte at off; nil for none.
func (p *preload) source(off int64) *httpSource {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.behind(off); i < len(p.sorted) && p.sorted[i].off <= off {
		return p.sorted[i].src
	}
	return nil
}

// sources returns all that were asked for parts of [off, off+n).
func (p *preload) sources(off, n int64) (all []*httpSource) {
	p.each(off, n, func(s *segment, _, _ int64) {
		if s.src != nil && !slices.Contains(all, s.src) {
			all = append(all, s.src)
		}
	})
	return all
}

// liars returns those that have given other bytes than these from off on.
func (p *preload) liars(off int64, right []byte) (all []*httpSource) {
	p.each(off, int64(len(right)), func(s *segment, from, end int64) {
		got := make([]byte, end-from)
		if _, err := p.file(end).ReadAt(got, from); err == nil && !bytes.Equal(got, right[from-off:end-off]) && !slices.Contains(all, s.src) {
			all = append(all, s.src)
		}
	})
	return all
}

// each calls f with the segments that have a part in [off, off+n), and that part, with mu held.
func (p *preload) each(off, n int64, f func(s *segment, from, end int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := p.behind(off); i < len(p.sorted) && p.sorted[i].off < off+n; i++ {
		s := p.sorted[i]
		if from, end := max(off, s.off), min(off+n, s.end); from < end {
			f(s, from, end)
		}
	}
}

// has tells whether [off, off+n) is there.
func (p *preload) has(off, n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.have(off) >= off+n
}

// read returns [off, off+n) of what wait has waited for.
func (p *preload) read(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := p.file(off+n).ReadAt(b, off); err != nil {
		return nil, fmt.Errorf("reading preloaded bytes from memory: %w", err)
	}
	return b, nil
}

// replace puts a chunk that was fetched again in the place of a damaged one.
func (p *preload) replace(off int64, b []byte) error {
	_, err := p.file(off+int64(len(b))).WriteAt(b, off)
	return err
}

// forget frees the memory of bytes that nobody reads any more.
func (p *preload) forget(off, n int64) {
	_ = unix.Fallocate(int(p.zone.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// file returns where the bytes before end are: in the copy of a file without ranges, if that has them, or in zone.
func (p *preload) file(end int64) *os.File {
	if w := p.fetch.src.pin.standIn(nil); w != nil && w.holds(end) {
		return w.file
	}
	return p.zone
}
