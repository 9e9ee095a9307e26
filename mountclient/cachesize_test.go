package mountclient

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
	"bootprof/internal/testrig"
)

// dirUsage returns the bytes that files of a directory take on disk.
func dirUsage(t testing.TB, dir string) (n int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Stat(name, &st) == nil {
			n += st.Blocks * 512
		}
	}
	return n
}

// A cache stays within its size, whatever is read; what is left of it is right, and boot pages are never taken out.
func TestCacheSize(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dir := t.TempDir()
	boot := p.pack.Header.BootPages * bpk.PageSize
	limit := boot + 1<<20
	if int64(len(p.image)) < limit+1<<20 {
		t.Fatalf("an image of %d bytes, %d of them for the boot, is too small", len(p.image), boot)
	}
	for run := range 3 {
		c := openClient(t, s, func(o *Options) { o.CacheDir, o.CacheBytes = dir, limit })
		checkImage(t, c, p.image, 128<<10)
		testrig.Eventually(t, "the cache is within its size", func() bool { return dirUsage(t, dir) <= limit })
		if c.cache.evicted.Load() == 0 {
			t.Errorf("run %d: nothing was taken out", run)
		}
		if lacks := c.store.lacking(c.index.Ranges); len(lacks) > 0 {
			t.Errorf("run %d: boot pages were taken out: %v", run, lacks)
		}
		checkImage(t, c, p.image, 100_000)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if n := c.cache.damagedRecords(); n != 0 {
			t.Errorf("run %d: %d records are damaged", run, n)
		}
		if got := dirUsage(t, dir); got > limit {
			t.Errorf("run %d: %d bytes after the end, want %d at most", run, got, limit)
		}
	}
}

// The records of what goes have room within the limit, too: nothing would look at the size again until more pages come.
func TestCacheSizeCountsRecords(t *testing.T) {
	t.Parallel()
	p := packOf(t, lean)
	filled := t.TempDir()
	fill(t, p.serve(t), p, filled)
	dir := copyDir(t, filled) // in which no file has holes
	d, err := os.Open(dir)
	testrig.Must(t, err)
	defer d.Close()
	c := cacheOf(t, dir, p)
	defer c.close()
	for range 60 {
		journal, err := c.journal.Stat()
		testrig.Must(t, err)
		rest := -journal.Size()&(bpk.PageSize-1) + 8*bpk.PageSize // beyond what is reserved; the next record begins a block
		_, err = c.journal.Write(bytes.Repeat(unused(0)[:cachefile.RecordSize], int(rest)/cachefile.RecordSize))
		testrig.Must(t, err)
		limit := dirUsage(t, dir) - bpk.PageSize
		c.mu.Lock()
		c.limit, c.dir, c.own = limit, d, fmt.Sprintf("%x", bpk.Digest(p.raw[:bpk.HeaderSize]))
		c.isBoot = func(int64) bool { return false }
		c.mu.Unlock()
		testrig.Must(t, c.shrink())
		if n := dirUsage(t, dir); n > limit && len(c.old) > c.passed {
			t.Errorf("%d bytes over the limit", n-limit)
		}
	}
}

func cachedImage(dir string, p *testPack) string {
	name, _ := cachefile.Names(dir, bpk.Digest(p.raw[:bpk.HeaderSize]))
	return name
}

// Packs that nobody uses go before chunks of this one, the one last used longest ago first; those in use stay.
func TestCacheSizeRemovesOthers(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p, newer := packOf(t, hotAndCold), packOf(t, next)
	dir := t.TempDir()
	fill(t, newer.serve(t), newer, dir)
	other := filepath.Join(dir, strings.Repeat("ab", 32))
	stranger := filepath.Join(dir, "stranger.image")
	long := time.Now().Add(-time.Hour)
	for _, name := range []string{other + ".image", other + ".journal", stranger} {
		if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, long, long); err != nil {
			t.Fatal(err)
		}
	}
	open := func(limit int64) (c *Client) {
		c = openClient(t, p.serve(t), func(o *Options) { o.CacheDir, o.CacheBytes = dir, limit })
		checkImage(t, c, p.image, 128<<10)
		return c
	}
	exists := func(name string) bool { _, err := os.Stat(name); return err == nil }
	nextImage := cachedImage(dir, newer)
	alone := t.TempDir()
	fill(t, p.serve(t), p, alone)
	// Without the 1 MiB of the stranger, who is not counted, and one of the other's two, it is enough.
	c := open(dirUsage(t, dir) + dirUsage(t, alone) - 2<<20)
	testrig.Eventually(t, "the pack used longest ago is removed", func() bool { return !exists(other + ".image") })
	if !exists(nextImage) || !exists(stranger) || exists(other+".journal") {
		t.Error("another file was removed, or one of its files was not")
	}
	c.Close()
	used := openClient(t, newer.serve(t), func(o *Options) { o.CacheDir = dir })
	defer used.Close()
	c = open(1 << 20)
	defer c.Close()
	testrig.Eventually(t, "chunks are taken out", func() bool { return c.cache.evicted.Load() > 0 })
	if !exists(nextImage) {
		t.Error("a pack in use was removed")
	}
}

// Readers that are at it while pages are taken out get the right bytes.
func TestDropWhileReading(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	const pages = 64
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(f, pages*bpk.PageSize, testLog(t))
	defer s.close()
	content := func(page int64) []byte {
		b := make([]byte, bpk.PageSize)
		for i := range b {
			b[i] = byte(page) + 1
		}
		return b
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for seed := range uint64(4) {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(seed, 1))
			buf := make([]byte, bpk.PageSize)
			for {
				select {
				case <-stop:
					return
				default:
				}
				page := r.Int64N(pages)
				if ok, err := s.read(buf, page*bpk.PageSize); err != nil || ok && string(buf) != string(content(page)) {
					t.Errorf("page %d: %v, first byte %d", page, err, buf[0])
					return
				} else if !ok {
					if err := s.put([]bpk.Range{{Page: page, Pages: 1}}, content(page)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(9, 9))
	for range 3000 {
		page := r.Int64N(pages - 4)
		if err := s.drop(bpk.Range{Page: page, Pages: 1 + r.Int64N(4)}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "500K": 500 << 10, "2M": 2 << 20, "3G": 3 << 30, "": 0, "0": 0, "-1": 0, "2T": 0, "1.5G": 0, "9999999999G": 0, "K": 0} {
		if got, err := ParseSize(s); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
}
