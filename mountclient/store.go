package mountclient

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
)

// A store holds the decoded pages that the client has, in a sparse file as long as the image. Pages are
// added whole and verified; readers wait for a page until it is there.
//
// In memory (a memfd), pages that the kernel's page cache has taken over may be dropped again, oldest
// first, so that the store stays within its budget. In a cache file, pages go only if the cache has a limit, see drop.
//
// Safe for concurrent use. mu guards the fields below it; reads and writes of the file itself go without
// it, since a page's bytes never change once its bit is set.
type store struct {
	f        *os.File
	log      *slog.Logger
	budget   int64 // pages held at most where that is possible; 0: no limit
	isMemory bool
	pages    int64 // of the image

	mu      sync.Mutex
	have    []uint64                  // bit per page: its bytes are in f
	held    int64                     // bits set
	spill   *os.File                  // pages that f had no room for; nil: none
	spilt   []uint64                  // bit per page: its bytes are in spill
	pushed  []bpk.Range               // droppable, oldest first
	waiters map[int64][]chan struct{} // by page; closed when the page comes or the store fails
	busy    [2]int                    // reads and writes of f under way, by the epoch that they began in: nothing is dropped meanwhile
	epoch   int                       // 0 or 1
	idle    sync.Cond                 // busy of the other epoch has become 0

	puts sync.RWMutex // held to write by drop, to read by put; locked before mu
}

// newMemoryStore makes a store in memory.
func newMemoryStore(imageSize, budgetBytes int64, log *slog.Logger) (*store, error) {
	f, err := memfd("bootprof-pages")
	if err != nil {
		return nil, err
	}
	s := newStore(f, imageSize, log)
	s.isMemory, s.budget = true, budgetBytes/bpk.PageSize
	return s, nil
}

// newStore makes an empty store in f, which it owns from now on.
func newStore(f *os.File, imageSize int64, log *slog.Logger) *store {
	pages := imageSize / bpk.PageSize
	s := &store{f: f, log: log, pages: pages, have: make([]uint64, (pages+63)/64), waiters: make(map[int64][]chan struct{})}
	s.idle.L = &s.mu
	return s
}

// memfd makes a file in memory that has no name in any directory.
func memfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "memfd:"+name), nil
}

func (s *store) close() error {
	if s.spill != nil {
		s.spill.Close()
	}
	return s.f.Close()
}

// enter keeps pages from being dropped until the function it returns is called.
func (s *store) enter() (leave func()) {
	s.mu.Lock()
	epoch := s.epoch
	s.busy[epoch]++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		if s.busy[epoch]--; s.busy[epoch] == 0 {
			s.idle.Broadcast()
		}
		s.mu.Unlock()
	}
}

func (s *store) bit(page int64) bool { return s.have[page/64]&(1<<(page%64)) != 0 }

// put adds the pages of ranges, whose bytes are concatenated in data; nil data means zeros. Pages that are
// there already are written again with the same bytes. Pages for which a cache file has no room are kept in
// memory.
func (s *store) put(ranges []bpk.Range, data []byte) error {
	s.puts.RLock()
	defer s.puts.RUnlock()
	return s.putIn(ranges, data)
}

func (s *store) putIn(ranges []bpk.Range, data []byte) error {
	defer s.enter()()
	for _, r := range ranges {
		if data == nil {
			if err := s.putZeros(r); err != nil {
				return err
			}
			continue
		}
		n := r.Pages * bpk.PageSize
		if _, err := s.f.WriteAt(data[:n], r.Page*bpk.PageSize); err != nil {
			if s.isMemory {
				return err
			}
			if err := s.putSpill(r, data[:n], err); err != nil {
				return err
			}
		}
		data = data[n:]
	}
	s.mark(ranges)
	return nil
}

// putZeros makes the pages of r zeros. In memory they are, as nothing was written there; a cache file may hold
// what a bad disk left.
func (s *store) putZeros(r bpk.Range) error {
	if s.isMemory || unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Page*bpk.PageSize, r.Pages*bpk.PageSize) == nil {
		return nil
	}
	zeros := make([]byte, min(r.Pages, bpk.MaxChunkPages)*bpk.PageSize)
	for p := r; p.Pages > 0; p.Page, p.Pages = p.Page+bpk.MaxChunkPages, p.Pages-bpk.MaxChunkPages {
		part := bpk.Range{Page: p.Page, Pages: min(p.Pages, bpk.MaxChunkPages)}
		if err := s.putIn([]bpk.Range{part}, zeros[:part.Pages*bpk.PageSize]); err != nil {
			return err
		}
	}
	return nil
}

// putSpill keeps pages in memory that could not be written to the cache file because of why.
func (s *store) putSpill(r bpk.Range, data []byte, why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spill == nil {
		f, err := memfd("bootprof-spill")
		if err != nil {
			return err
		}
		s.spill, s.spilt = f, make([]uint64, len(s.have))
		s.log.Warn("the cache cannot take more pages, which are kept in memory now", "error", why)
	}
	if _, err := s.spill.WriteAt(data, r.Page*bpk.PageSize); err != nil {
		return err
	}
	for p := r.Page; p < r.Page+r.Pages; p++ {
		s.spilt[p/64] |= 1 << (p % 64)
	}
	return nil
}

// mark says that the pages of ranges are in the file, and wakes their readers.
func (s *store) mark(ranges []bpk.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range ranges {
		for p := r.Page; p < r.Page+r.Pages; p++ {
			if s.bit(p) {
				continue
			}
			s.have[p/64] |= 1 << (p % 64)
			s.held++
			for _, w := range s.waiters[p] {
				close(w)
			}
			delete(s.waiters, p)
		}
	}
}

// missing returns the first page of [page, page+pages) that is not there.
func (s *store) missing(page, pages int64) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := page; p < page+pages; p++ {
		if !s.bit(p) {
			return p, true
		}
	}
	return 0, false
}

// lacking returns the parts of ranges that are not there.
func (s *store) lacking(ranges []bpk.Range) []bpk.Range {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []bpk.Range
	for _, r := range ranges {
		for p := r.Page; p < r.Page+r.Pages; p++ {
			if s.bit(p) {
				continue
			}
			if n := len(out); n > 0 && out[n-1].Page+out[n-1].Pages == p {
				out[n-1].Pages++
			} else {
				out = append(out, bpk.Range{Page: p, Pages: 1})
			}
		}
	}
	return out
}

// arrival returns a channel that is closed when the page comes, or nil if it is there.
func (s *store) arrival(page int64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bit(page) {
		return nil
	}
	w := make(chan struct{})
	s.waiters[page] = append(s.waiters[page], w)
	return w
}

// read fills dst with the bytes from imageOff on if all their pages are there, and tells whether it did.
func (s *store) read(dst []byte, imageOff int64) (bool, error) {
	defer s.enter()()
	first, last := imageOff/bpk.PageSize, (imageOff+int64(len(dst))-1)/bpk.PageSize
	if _, lacks := s.missing(first, last-first+1); lacks {
		return false, nil
	}
	for len(dst) > 0 {
		f, n := s.fileOf(imageOff, int64(len(dst)))
		// The file may be shorter than the image while its tail is zeros.
		m, err := f.ReadAt(dst[:n], imageOff)
		if int64(m) < n && err != io.EOF {
			return false, err
		}
		clear(dst[m:n])
		dst, imageOff = dst[n:], imageOff+n
	}
	return true, nil
}

// fileOf returns the file that holds the page at imageOff, and how many of the next n bytes it holds too.
func (s *store) fileOf(imageOff, n int64) (*os.File, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spill == nil {
		return s.f, n
	}
	in := func(page int64) bool { return s.spilt[page/64]&(1<<(page%64)) != 0 }
	first := imageOff / bpk.PageSize
	page := first + 1
	for page*bpk.PageSize < imageOff+n && in(page) == in(first) {
		page++
	}
	f := s.f
	if in(first) {
		f = s.spill
	}
	return f, min(n, page*bpk.PageSize-imageOff)
}

// readFile fills dst with the pages of r if the store's own file holds them all, and tells whether it does.
func (s *store) readFile(dst []byte, r bpk.Range) (bool, error) {
	if f, n := s.fileOf(r.Page*bpk.PageSize, int64(len(dst))); f != s.f || n < int64(len(dst)) {
		return false, nil
	}
	return s.read(dst, r.Page*bpk.PageSize)
}

// release says that the kernel holds the pages of r. Over the budget, the pages released first are dropped.
func (s *store) release(r bpk.Range) {
	if !s.isMemory {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushed = append(s.pushed, r)
	for s.budget > 0 && s.held > s.budget && len(s.pushed) > 0 && s.busy[0]+s.busy[1] == 0 {
		old := s.pushed[0]
		s.pushed = s.pushed[1:]
		for p := old.Page; p < old.Page+old.Pages; p++ {
			if s.bit(p) {
				s.have[p/64] &^= 1 << (p % 64)
				s.held--
			}
		}
		// With no reader under way and the bits gone, nobody sees the hole as content.
		_ = unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, old.Page*bpk.PageSize, old.Pages*bpk.PageSize)
	}
}

// drop takes the pages of r out of the file. It waits until nobody reads them any more.
func (s *store) drop(r bpk.Range) error {
	s.puts.Lock()
	defer s.puts.Unlock()
	s.mu.Lock()
	for p := r.Page; p < r.Page+r.Pages; p++ {
		if s.bit(p) {
			s.have[p/64] &^= 1 << (p % 64)
			s.held--
		}
	}
	// Who comes from now on finds them missing, and is not waited for.
	before := s.epoch
	s.epoch = 1 - before
	for s.busy[before] > 0 {
		s.idle.Wait()
	}
	s.mu.Unlock()
	if err := unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Page*bpk.PageSize, r.Pages*bpk.PageSize); err != nil {
		return fmt.Errorf("taking pages out of %s: %w", s.f.Name(), err)
	}
	return nil
}

// heldPages returns the number of pages that are there.
func (s *store) heldPages() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// whole returns an error that tells what the store's own file lacks, nil if it holds every page.
func (s *store) whole() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch pages := s.pages; {
	case s.spill != nil:
		return fmt.Errorf("%s had no room for some pages", s.f.Name())
	case s.held < pages:
		return fmt.Errorf("%s lacks %d of %d pages", s.f.Name(), pages-s.held, pages)
	}
	return nil
}

// isWholeIn tells whether the store's own file holds the pages of ranges.
func (s *store) isWholeIn(ranges []bpk.Range) bool {
	s.mu.Lock()
	isSpilt := s.spill != nil
	s.mu.Unlock()
	return !isSpilt && len(s.lacking(ranges)) == 0
}

// sync writes the store's own file to its disk.
func (s *store) sync() error {
	if err := unix.Fsync(int(s.f.Fd())); err != nil {
		return fmt.Errorf("syncing %s: %w", s.f.Name(), err)
	}
	return nil
}
