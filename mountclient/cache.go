package mountclient

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
)

// A cache keeps a store's pages in two files of a directory, in the format of package cachefile. One client at a time
// uses the files (flock); a second one on the same directory keeps its pages in memory.
//
// Pages that came are recorded at once, by one goroutine, and synced every second, by another: a kill costs what was not
// recorded yet, a power cut what was not synced. No page of an earlier run is used before its hash is compared, so the order
// in which a file system writes pages and records does not matter.
type cache struct {
	store   *store
	journal *os.File
	entries *os.File // the directory, until it is synced
	local   *os.File // the store's file once more, read-only and locked; what a loop device is put on
	log     *slog.Logger

	mu      sync.Mutex
	old     []cachefile.Record // of earlier runs, by page, not used yet
	fresh   []bpk.Range
	wrong   []bpk.Range   // of records whose pages have another hash
	wake    chan struct{} // has room for one
	dirty   chan struct{} // has room for one: there are records to sync
	closing chan struct{}
	written chan struct{} // closed when the writer has ended
	stopped chan struct{} // closed when the last sync is done
	damaged int64         // records that are damaged, or whose pages are
	failed  error         // why the journal is not written any more
	order   []bpk.Range   // pages of this run's records, by age; with a limit only
	passed  int           // old[:passed] were looked at by oldest
	limit   int64         // bytes of the directory; 0: none. See limitTo, for the next three, too
	dir     *os.File
	own     string
	isBoot  func(page int64) bool

	chunks      *os.File // of chunk records; nil: they are not kept
	freshChunks []cachefile.ChunkRecord
	evicted     atomic.Int64 // pages
	recorded    atomic.Int64 // bytes written to the journal
	synced      atomic.Int64 // so many of them are on the disk, and their pages
}

const (
	journalReserve = 8               // disk space is reserved for a record per so many pages of the image
	syncEvery      = 1 * time.Second // between two syncs while pages come in, and two looks at the directory's size
	recordEvery    = 128             // pages, at most some more of which a kill costs when many come at once
	maxJournal     = 64 << 20        // bytes read of a journal
	maxChunks      = 16 << 20        // bytes of chunk records
	slackRecords   = 1024            // of a journal that are not worth rewriting it
)

// errInUse tells that another client has the cache files open.
var errInUse = errors.New("another client uses its files, or a mount is served from them")

// isFull tells that a file system takes no bytes: it is full, or read-only.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS)
}

// openCache opens or makes the cache files of a pack in dir.
func openCache(dir string, digest [32]byte, imageSize int64, log *slog.Logger) (*cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	imageName, journalName := cachefile.Names(dir, digest)
	journal, err := lockJournal(journalName)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(imageName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		journal.Close()
		return nil, fmt.Errorf("cache: %w", err)
	}
	local, err := lockImage(imageName)
	if err != nil {
		f.Close()
		journal.Close()
		return nil, err
	}
	c := &cache{store: newStore(f, imageSize, log), journal: journal, local: local, log: log, wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1), closing: make(chan struct{}), written: make(chan struct{}), stopped: make(chan struct{})}
	var records int64
	c.old, records, c.damaged, err = readJournal(journal, imageSize/bpk.PageSize)
	if err == nil { // half a record at the end would spoil the next one
		err = errors.Join(journal.Truncate(records*cachefile.RecordSize), f.Truncate(imageSize))
	}
	if err == nil {
		c.entries, err = os.Open(dir)
	}
	if err != nil {
		f.Close()
		journal.Close()
		local.Close()
		return nil, fmt.Errorf("cache %s: %w", imageName, err)
	}
	if c.damaged > 0 || records > 2*int64(len(c.old))+slackRecords {
		if c.journal, err = rewriteJournal(journal, c.old); err != nil {
			log.Debug("the cache's journal stays as it is", "error", err)
		}
		journal = c.journal
	}
	// Pages that fill the disk are of no use without room for their records; where that is not possible, so be it.
	_ = unix.Fallocate(int(journal.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, imageSize/bpk.PageSize/journalReserve*cachefile.RecordSize)
	if c.chunks, err = openChunks(cachefile.ChunksName(dir, digest)); err != nil {
		log.Debug("the cache will not serve other versions of the image", "error", err)
	}
	go c.write()
	go c.sync()
	return c, nil
}

// revive brings the pages of ranges that earlier runs left in the image file back into the store, after
// comparing their hash. Records that have another one are taken back, so that they are counted once.
func (c *cache) revive(ranges []bpk.Range) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.old) == 0 {
		return
	}
	buf := make([]byte, cachefile.RecordPages*bpk.PageSize)
	for _, r := range ranges {
		// Records are at most cachefile.RecordPages long, so one that reaches into r starts at most that much before it.
		i := sort.Search(len(c.old), func(i int) bool { return c.old[i].Page > r.Page-cachefile.RecordPages })
		for ; i < len(c.old) && c.old[i].Page < r.Page+r.Pages; i++ {
			rec := &c.old[i]
			if rec.Pages == 0 || rec.Page+rec.Pages <= r.Page {
				continue
			}
			b := buf[:rec.Pages*bpk.PageSize]
			if _, err := c.store.f.ReadAt(b, rec.Page*bpk.PageSize); err == nil && sha256.Sum256(b) == rec.SHA256 {
				c.store.mark([]bpk.Range{rec.Range})
				c.order = append(c.order, rec.Range)
			} else {
				c.damaged++
				c.wrong = append(c.wrong, rec.Range)
			}
			rec.Pages = 0 // used
		}
	}
	if len(c.wrong) > 0 {
		c.wakeUp()
	}
}

// note queues pages that came into the store for the journal.
func (c *cache) note(ranges []bpk.Range) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return
	}
	for _, r := range ranges {
		for r.Pages > 0 {
			n := min(r.Pages, cachefile.RecordPages)
			c.fresh = append(c.fresh, bpk.Range{Page: r.Page, Pages: n})
			r.Page, r.Pages = r.Page+n, r.Pages-n
		}
	}
	c.wakeUp()
}

// noteChunk queues a record that a chunk was decoded into pages.
func (c *cache) noteChunk(e *bpk.Entry, data []byte) {
	r := cachefile.ChunkRecord{Stored: e.SHA256, Sum: sha256.Sum256(data), Range: bpk.Range{Page: e.Page, Pages: e.Pages}, Codec: e.Codec}
	c.mu.Lock()
	if c.failed == nil {
		c.freshChunks = append(c.freshChunks, r)
	}
	c.mu.Unlock()
}

func (c *cache) wakeUp() { poke(c.wake) }

// poke sends to a channel that has room for one.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// write records what note queues, as it comes, until the cache is closed.
func (c *cache) write() {
	defer close(c.written)
	buf := make([]byte, cachefile.RecordPages*bpk.PageSize)
	var look <-chan time.Time // at the size of the directory
	for last := false; !last; {
		isTime := false
		select {
		case <-c.wake:
		case <-look:
			isTime = true
		case <-c.closing:
			last = true
		}
		err := c.record(buf)
		if err == nil && (isTime || last) {
			look = nil
			err = c.shrink()
		} else if look == nil {
			look = time.After(syncEvery)
		}
		if err != nil {
			c.fail(err)
		}
		if c.recorded.Load() != c.synced.Load() {
			poke(c.dirty)
		}
		if err != nil {
			return
		}
	}
}

// fail says that the cache is not written any more.
func (c *cache) fail(err error) {
	c.mu.Lock()
	isFirst := c.failed == nil
	if isFirst {
		c.failed = err
	}
	c.fresh, c.wrong, c.freshChunks = nil, nil, nil
	c.mu.Unlock()
	if isFirst {
		c.log.Warn("the cache is not written any more", "error", err)
	}
}

// record writes records of what is queued. buf has room for the pages of one.
func (c *cache) record(buf []byte) error {
	c.mu.Lock()
	wrong, batch, chunks, failed := c.wrong, c.fresh, c.freshChunks, c.failed
	c.wrong, c.fresh, c.freshChunks = nil, nil, nil
	c.mu.Unlock()
	if failed != nil {
		return failed
	}
	c.writeChunks(chunks)
	var out []byte
	for _, r := range wrong {
		out = cachefile.Record{Range: r}.Append(out)
	}
	kept, hashed := make([]bpk.Range, 0, len(batch)), int64(0) // pages
	for _, r := range batch {
		if hashed > recordEvery {
			if err := c.append(out); err != nil {
				return err
			}
			out, hashed = out[:0], 0
		}
		b := buf[:r.Pages*bpk.PageSize]
		ok, err := c.store.readFile(b, r)
		if err != nil {
			return err
		}
		if ok {
			out = cachefile.Record{Range: r, SHA256: sha256.Sum256(b)}.Append(out)
			kept = append(kept, r)
			hashed += r.Pages
		}
	}
	if err := c.append(out); err != nil {
		return err
	}
	c.mu.Lock()
	c.order = append(c.order, kept...)
	c.mu.Unlock()
	return nil
}

// append writes records to the journal.
func (c *cache) append(records []byte) error {
	if len(records) == 0 {
		return nil
	}
	n, err := c.journal.Write(records)
	c.recorded.Add(int64(n))
	return err
}

// sync syncs records and their pages every second, and a last time when the writer has ended.
func (c *cache) sync() {
	defer close(c.stopped)
	for last := false; !last; {
		select {
		case <-c.dirty:
		case <-c.written:
			last = true
		}
		select {
		case <-time.After(syncEvery):
		case <-c.written:
			last = true
		}
		n := c.recorded.Load()
		if n == c.synced.Load() {
			continue
		}
		if err := c.syncFiles(); err != nil {
			c.fail(err)
			return
		}
		c.synced.Store(n)
	}
}

func (c *cache) syncFiles() error {
	for _, f := range []*os.File{c.store.f, c.journal} {
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return fmt.Errorf("syncing %s: %w", f.Name(), err)
		}
	}
	if c.entries != nil { // the files may be new
		_ = c.entries.Sync() // not every file system can
		c.entries.Close()
		c.entries = nil
	}
	return nil
}

// writeChunks appends chunk records. They are of use to another pack only: that they cannot be written is not told.
func (c *cache) writeChunks(records []cachefile.ChunkRecord) {
	if c.chunks == nil || len(records) == 0 {
		return
	}
	var b []byte
	for _, r := range records {
		b = r.Append(b)
	}
	if st, err := c.chunks.Stat(); err != nil || st.Size() > maxChunks {
		return
	}
	if _, err := c.chunks.Write(b); err != nil { // half a record may be its end
		c.chunks.Close()
		c.chunks = nil
	}
}

// close journals what is left and closes the files.
func (c *cache) close() error {
	close(c.closing)
	<-c.written
	<-c.stopped
	if c.chunks != nil {
		c.chunks.Close()
	}
	if c.dir != nil {
		c.dir.Close()
	}
	if c.entries != nil {
		c.entries.Close()
	}
	return errors.Join(c.store.close(), c.journal.Close(), c.local.Close())
}

// damagedRecords returns how many records of earlier runs were dropped because they are damaged, or their pages have
// another hash.
func (c *cache) damagedRecords() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.damaged
}
