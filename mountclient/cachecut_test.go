package mountclient

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
	"bootprof/internal/testrig"
)

// What a cache is after a kill or a power cut.

// revivable returns how many pages a client would take from a cache directory, and how many records it would find
// damaged. The directory stays as it is.
func revivable(t testing.TB, dir string, p *testPack) (pages, damaged int64) {
	t.Helper()
	c := cacheOf(t, copyDir(t, dir), p)
	c.revive([]bpk.Range{{Page: 0, Pages: c.store.pages}})
	pages, damaged = c.store.heldPages(), c.damagedRecords()
	if err := c.close(); err != nil {
		t.Error(err)
	}
	return pages, damaged
}

func cacheOf(t testing.TB, dir string, p *testPack) *cache {
	t.Helper()
	afterForks(dir)
	c, err := openCache(dir, bpk.Digest(p.raw[:bpk.HeaderSize]), int64(len(p.image)), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serves starts a client on a cache directory, compares all of the image, and sees that the damage is repaired. It returns how
// many records the client found damaged.
func serves(t testing.TB, dir string, p *testPack) (damaged int64) {
	t.Helper()
	c := openClient(t, p.serve(t), func(o *Options) { o.CacheDir = dir })
	if c.cache == nil {
		t.Error("the cache is not used")
	}
	checkImage(t, c, p.image, 128<<10)
	damaged = c.cache.damagedRecords()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n, damaged := revivable(t, dir, p); n != int64(len(p.image)/bpk.PageSize) || damaged > 0 {
		t.Errorf("the next run has %d pages of %d, and %d damaged records", n, len(p.image)/bpk.PageSize, damaged)
	}
	return damaged
}

func putFile(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// overfull puts records before a journal that make it worth rewriting, and returns its content now.
func overfull(t testing.TB, journal string) []byte {
	t.Helper()
	b := testrig.ReadFile(t, journal)
	b = append(unused(len(b)), b...)
	putFile(t, journal, b)
	return b
}

// unused returns records that are too many beside others of that many bytes.
func unused(others int) []byte {
	return bytes.Repeat(cachefile.Record{Range: bpk.Range{Page: 1, Pages: 1}}.Append(nil), slackRecords+2*others/cachefile.RecordSize)
}

// A journal is rewritten beside itself, and locked before it has the name.
func TestJournalRewrite(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	filled := t.TempDir()
	fill(t, p.serve(t), p, filled)
	all := int64(len(p.image) / bpk.PageSize)
	_, journal := cacheFiles(t, filled)
	before := overfull(t, journal)

	dir := copyDir(t, filled)
	_, journal = cacheFiles(t, dir)
	was, err := os.Open(journal)
	if err != nil {
		t.Fatal(err)
	}
	defer was.Close()
	c := cacheOf(t, dir, p)
	if b := testrig.ReadFile(t, fmt.Sprintf("/proc/self/fd/%d", was.Fd())); !bytes.Equal(b, before) {
		t.Errorf("the old journal was written to: %d bytes, %d before", len(b), len(before))
	}
	after := testrig.ReadFile(t, journal)
	if len(after) >= len(before)/2 {
		t.Errorf("%d of %d bytes after rewriting", len(after), len(before))
	}
	f, err := os.Open(journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := lockFile(f); !errors.Is(err, errInUse) {
		t.Errorf("locking the new journal: %v", err)
	}
	f.Close()
	if err := c.close(); err != nil {
		t.Error(err)
	}

	// What a kill or a power cut leaves after each step.
	for _, step := range []struct {
		name            string
		journal, beside []byte // nil: missing
	}{
		{"made", before, []byte{}},
		{"made, with what a longer one had", before, bytes.Repeat([]byte{7}, 2*len(before))},
		{"written in part", before, after[:len(after)/2+17]},
		{"written, not synced", before, make([]byte, len(after))},
		{"written", before, after},
		{"renamed", after, nil},
		{"renamed, under both names", after, after},
	} {
		t.Run(step.name, func(t *testing.T) {
			dir := copyDir(t, filled)
			_, journal := cacheFiles(t, dir)
			putFile(t, journal, step.journal)
			if step.beside != nil {
				putFile(t, journal+newFileSuffix, step.beside)
			}
			if n, damaged := revivable(t, dir, p); n != all || damaged != 0 {
				t.Errorf("%d pages of %d, %d damaged records", n, all, damaged)
			}
			serves(t, dir, p)
			if _, err := os.Stat(journal + newFileSuffix); step.journal[0] == before[0] && len(step.journal) == len(before) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a new journal is left beside: %v", err)
			}
		})
	}

	t.Run("no room", func(t *testing.T) {
		dir := filepath.Join(tmpfs(t, len(p.image)>>10+1000), "cache")
		if err := os.CopyFS(dir, os.DirFS(filled)); err != nil {
			t.Fatal(err)
		}
		full, err := os.Create(filepath.Join(dir, "full"))
		if err != nil {
			t.Fatal(err)
		}
		for _, err = full.Write(make([]byte, bpk.PageSize)); err == nil; _, err = full.Write(make([]byte, bpk.PageSize)) {
		}
		full.Close()
		c := cacheOf(t, dir, p)
		c.revive([]bpk.Range{{Page: 0, Pages: all}})
		if n := c.store.heldPages(); n != all {
			t.Errorf("%d pages of %d", n, all)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
}

// One client at a time has the files, and what it has locked is what has the name, also while journals are rewritten.
func TestJournalRewriteOneClient(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	dir := t.TempDir()
	fill(t, p.serve(t), p, dir)
	_, journal := cacheFiles(t, dir)
	overfull(t, journal)
	var holders, rewritten atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for rewritten.Load() < 12 {
				c, err := openCache(dir, bpk.Digest(p.raw[:bpk.HeaderSize]), int64(len(p.image)), testLog(t))
				if errors.Is(err, errInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d clients have the files", n)
				}
				held, err := c.journal.Stat()
				named, err2 := os.Stat(journal)
				if err != nil || err2 != nil || !os.SameFile(held, named) {
					t.Errorf("the locked journal is not the one that has the name (%v, %v)", err, err2)
				}
				if _, err := c.journal.Write(unused(3 * cachefile.RecordSize * len(c.old))); err != nil {
					t.Error(err)
				}
				rewritten.Add(1)
				holders.Add(-1)
				if err := c.close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	if n, damaged := revivable(t, dir, p); n != int64(len(p.image)/bpk.PageSize) || damaged != 0 {
		t.Errorf("%d pages, %d damaged records", n, damaged)
	}
}

// A cacheState is what the files of a cache hold at a moment.
type cacheState struct{ image, journal []byte }

// pages returns how many pages the records name.
func (s *cacheState) pages(t testing.TB) int64 {
	t.Helper()
	recs, _, _, err := readJournal(bytes.NewReader(s.journal), int64(len(s.image)/bpk.PageSize))
	if err != nil {
		t.Fatal(err)
	}
	named := map[int64]bool{}
	for _, r := range recs {
		for p := r.Page; p < r.Page+r.Pages; p++ {
			named[p] = true
		}
	}
	return int64(len(named))
}

// damaged returns how many records do not hold.
func (s *cacheState) damaged() (n int64) {
	for b := s.journal; len(b) >= cachefile.RecordSize; b = b[cachefile.RecordSize:] {
		r, ok := cachefile.Decode(b, int64(len(s.image)/bpk.PageSize))
		if !ok || !r.Gone() && sha256.Sum256(s.image[r.Page*bpk.PageSize:(r.Page+r.Pages)*bpk.PageSize]) != r.SHA256 {
			n++
		}
	}
	return n
}

// Whatever a power cut leaves of pages and records that were not synced, and in which order ever: what was synced is kept, no
// byte is wrong, and damage is counted once.
func TestCachePowerCutModel(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	dir := t.TempDir()
	all := int64(len(p.image) / bpk.PageSize)
	c := openClient(t, p.serve(t), func(o *Options) { o.CacheDir = dir })
	defer c.Close()
	image, journal := cacheFiles(t, dir)
	now := func(part int) (s cacheState) { // with a part of the image read
		checkImage(t, c, p.image[:len(p.image)*part/8/bpk.PageSize*bpk.PageSize], bpk.PageSize)
		testrig.Eventually(t, "records", func() bool {
			held := c.store.heldPages()
			s.journal = testrig.ReadFile(t, journal) // before the image: what it names is there
			s.image = testrig.ReadFile(t, image)
			return s.pages(t) >= held
		})
		return s
	}
	synced, last := now(4), now(7)
	from, to := len(synced.journal), len(last.journal)
	if !bytes.HasPrefix(last.journal, synced.journal) || to-from < 5*cachefile.RecordSize {
		t.Fatalf("a journal of %d bytes was one of %d", to, from)
	}
	garbage := make([]byte, len(p.image))
	rand.NewChaCha8([32]byte{5}).Read(garbage)
	whole := func([]byte) []byte { return last.journal }
	for _, cut := range []struct {
		name    string
		pages   []byte // what takes the place of pages that were not synced, in turn with new ones; nil: none are new
		journal func(garbage []byte) []byte
		missing []string // suffixes of files whose names were not synced
	}{
		{"pages only", p.image, func([]byte) []byte { return synced.journal }, nil},
		{"records only", nil, whole, nil},
		{"records and some pages, others old", synced.image, whole, nil},
		{"records and some pages, others zeros", make([]byte, len(p.image)), whole, nil},
		{"records and some pages, others of another file", garbage, whole, nil},
		{"record cut", synced.image, func([]byte) []byte { return last.journal[:from+(to-from)/2/64*64+41] }, nil},
		{"first new record cut", synced.image, func([]byte) []byte { return last.journal[:from+1] }, nil},
		{"zeros for records", synced.image, func([]byte) []byte {
			return append(bytes.Clone(synced.journal), make([]byte, to-from+13)...)
		}, nil},
		{"zeros for the last records", synced.image, func([]byte) []byte {
			return append(bytes.Clone(last.journal[:from+80]), make([]byte, to-from-80)...)
		}, nil},
		{"records of another file", synced.image, func(garbage []byte) []byte {
			return append(bytes.Clone(synced.journal), garbage[:to-from]...)
		}, nil},
		{"a block between records is missing", synced.image, func([]byte) []byte {
			b := bytes.Clone(last.journal)
			clear(b[from+30 : from+30+200])
			return b
		}, nil},
		{"names of other files", synced.image, whole, []string{keptSuffix, ".chunks"}},
	} {
		t.Run(cut.name, func(t *testing.T) {
			s := cacheState{bytes.Clone(synced.image), cut.journal(garbage)}
			r := rand.New(rand.NewPCG(11, 12))
			for off := 0; off < len(s.image); off += bpk.PageSize {
				page := s.image[off : off+bpk.PageSize]
				if cut.pages == nil || bytes.Equal(page, last.image[off:off+bpk.PageSize]) {
					continue
				}
				copy(page, cut.pages[off:])
				if r.IntN(2) == 0 {
					copy(page, last.image[off:])
				}
			}
			dir := copyDir(t, dir)
			image, journal := cacheFiles(t, dir)
			putFile(t, image, s.image)
			putFile(t, journal, s.journal)
			for _, suffix := range cut.missing {
				if err := os.Remove(strings.TrimSuffix(journal, ".journal") + suffix); err != nil {
					t.Error(err)
				}
			}
			kept, damaged := revivable(t, dir, p)
			t.Logf("%d pages kept of %d synced, %d recorded, %d in all; %d damaged records", kept, synced.pages(t), last.pages(t), all, damaged)
			if kept*100 < synced.pages(t)*95 {
				t.Errorf("%d pages kept of %d synced", kept, synced.pages(t))
			}
			if want := s.damaged(); damaged != want {
				t.Errorf("%d damaged records, want %d", damaged, want)
			}
			if n := serves(t, dir, p); (n > 0) != (damaged > 0) {
				t.Errorf("the client counts %d damaged records of %d", n, damaged)
			}
		})
	}

	t.Run("before the first sync", func(t *testing.T) {
		for _, ext := range []string{".image", ".journal"} {
			dir := copyDir(t, dir)
			if err := os.Remove(strings.TrimSuffix(filepath.Join(dir, filepath.Base(journal)), ".journal") + ext); err != nil {
				t.Fatal(err)
			}
			serves(t, dir, p)
		}
	})
}

// A power cut of a real file system: its disk as it is at moments of a fill. What the client takes for synced is there.
func TestCachePowerCutExt4(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	disk := filepath.Join(t.TempDir(), "disk")
	testrig.Run(t, "mkfs.ext4", "-q", disk, "32m")
	mount := func(t *testing.T, disk string) string { // the kernel's own time to sync comes after the test
		return testrig.MountWith(t, "ext4", disk, "commit=300")
	}
	dir := filepath.Join(mount(t, disk), "cache")
	c := openClient(t, p.serve(t), func(o *Options) { o.CacheDir = dir })
	defer c.Close()
	_, journal := cacheFiles(t, dir)
	synced := func() int64 {
		n := c.cache.synced.Load()
		s := cacheState{p.image, testrig.ReadFile(t, journal)[:n]}
		return s.pages(t)
	}
	for part := 1; part <= 4; part++ {
		checkImage(t, c, p.image[:len(p.image)*part/4/bpk.PageSize*bpk.PageSize], bpk.PageSize)
		if part%2 == 0 {
			held := c.store.heldPages()
			testrig.Eventually(t, "the sync", func() bool { return synced() >= held })
		}
		least := synced()
		var copied []byte
		testrig.Eventually(t, "a disk at rest", func() bool {
			copied = testrig.ReadFile(t, disk)
			return bytes.Equal(copied, testrig.ReadFile(t, disk))
		})
		t.Run(fmt.Sprintf("%d pages synced of %d", least, c.store.heldPages()), func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			putFile(t, disk, copied)
			dir := filepath.Join(mount(t, disk), "cache")
			if _, err := os.Stat(dir); err != nil && least == 0 {
				return
			}
			kept, damaged := revivable(t, dir, p)
			t.Logf("%d pages kept, %d damaged records", kept, damaged)
			if kept*100 < least*95 {
				t.Errorf("%d pages kept of %d", kept, least)
			}
			serves(t, dir, p)
		})
	}
}
