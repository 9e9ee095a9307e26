package mountclient

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// cacheFiles returns the two files of the one pack in a cache directory.
func cacheFiles(t testing.TB, dir string) (image, journal string) {
	t.Helper()
	for _, ext := range []string{".image", ".journal"} {
		m, err := filepath.Glob(filepath.Join(dir, "*"+ext))
		if err != nil || len(m) != 1 {
			t.Fatalf("%d %s files in the cache, %v", len(m), ext, err)
		}
		image, journal = journal, m[0]
	}
	return image, journal
}

// journaled returns the pages that whole records of a journal name.
func journaled(t testing.TB, journal string, pages int64) map[int64]bool {
	t.Helper()
	f, err := os.Open(journal)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	recs, _, _, err := readJournal(f, pages)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int64]bool{}
	for _, r := range recs {
		for p := r.Page; p < r.Page+r.Pages; p++ {
			out[p] = true
		}
	}
	return out
}

// fill reads the whole image through a client with a cache in dir and closes it.
func fill(t testing.TB, s *faultserver.Server, p *testPack, dir string) {
	t.Helper()
	c := openClient(t, s, func(o *Options) { o.CacheDir = dir })
	checkImage(t, c, p.image, 128<<10)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestCacheServesTheNextRun(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	fill(t, s, p, dir)
	image, journal := cacheFiles(t, dir)
	if n := len(journaled(t, journal, int64(len(p.image)/bpk.PageSize))); n != len(p.image)/bpk.PageSize {
		t.Errorf("%d pages journaled of %d", n, len(p.image)/bpk.PageSize)
	}
	for _, f := range []string{image, journal} {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v: others may read it", f, st.Mode(), err)
		}
	}
	n := len(s.Requests())
	c := openClient(t, s, func(o *Options) { o.CacheDir = dir })
	defer c.Close()
	if c.hot.Load() == 0 {
		t.Error("the boot zone is not complete at once")
	}
	s.Stop()
	checkImage(t, c, p.image, 100_000)
	if got := len(s.Requests()) - n; got > len(openingSegments) || c.demand.misses.Load() != 0 || c.cache.damagedRecords() != 0 {
		t.Errorf("%d requests, %d misses, %d damaged records", got, c.demand.misses.Load(), c.cache.damagedRecords())
	}
}

// With a cache, the compressed boot zone does not stay in memory; without one it does, as pages are decoded from it anew.
func TestCacheFreesTheZone(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	for name, dir := range map[string]string{"cache": t.TempDir(), "memory": ""} {
		c := openClient(t, s, func(o *Options) { o.CacheDir = dir })
		defer c.Close()
		testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
		testrig.Eventually(t, name, func() bool { return (usage(c.pre.zone) < p.pack.Header.Boot.Len/2) == (dir != "") })
		checkImage(t, c, p.image, 128<<10)
	}
}

// Whatever happened to the cache's files, a run reads the right bytes, and keeps them for the next one.
func TestCacheDamage(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	filled := t.TempDir()
	fill(t, s, p, filled)
	boot := p.pack.Boot.Ranges[len(p.pack.Boot.Ranges)/2].Page * bpk.PageSize
	cold := p.coldChunk(t, 20).Page * bpk.PageSize
	zero := int64(-1)
	for off := int64(0); off < int64(len(p.image)); off += bpk.PageSize {
		if isZero(p.image[off:off+bpk.PageSize]) && !p.pack.Boot.Contains(off/bpk.PageSize) {
			zero = off
		}
	}
	if zero < 0 {
		t.Fatal("no page of zeros in the image")
	}
	type files struct{ image, journal string }
	edit := func(path string, off int64, f func(b []byte)) {
		t.Helper()
		fd, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer fd.Close()
		b := make([]byte, 64)
		if _, err := fd.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		f(b)
		if _, err := fd.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(b []byte) { b[17] ^= 4 }
	truncate := func(path string, keep func(size int64) int64) {
		st, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, keep(st.Size()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		damage  func(f files)
		damaged int64 // records dropped; -1: some
	}{
		{"none", func(files) {}, 0},
		{"byte of a boot page", func(f files) { edit(f.image, boot, flip) }, 1},
		{"byte of a cold page", func(f files) { edit(f.image, cold, flip) }, 1},
		{"byte of a page of zeros", func(f files) { edit(f.image, zero, flip) }, 1},
		{"byte of the last page", func(f files) { edit(f.image, int64(len(p.image))-64, flip) }, 1},
		{"image empty", func(f files) { truncate(f.image, func(int64) int64 { return 0 }) }, -1},
		{"image cut", func(f files) { truncate(f.image, func(n int64) int64 { return n/2 + 100 }) }, -1},
		{"image too long", func(f files) { truncate(f.image, func(n int64) int64 { return n + 100 }) }, 0},
		{"image gone", func(f files) { os.Remove(f.image) }, -1},
		{"image of garbage, no journal", func(f files) {
			b := make([]byte, len(p.image))
			rand.NewChaCha8([32]byte{9}).Read(b)
			os.WriteFile(f.image, b, 0o600)
			os.Remove(f.journal)
		}, 0},
		{"journal gone", func(f files) { os.Remove(f.journal) }, 0},
		{"journal empty", func(f files) { truncate(f.journal, func(int64) int64 { return 0 }) }, 0},
		{"torn record", func(f files) { truncate(f.journal, func(n int64) int64 { return n - 20 }) }, 0},
		{"one byte of a record", func(f files) { truncate(f.journal, func(n int64) int64 { return n - 63 }) }, 0},
		{"hash in a record", func(f files) { edit(f.journal, 5*cachefile.RecordSize, func(b []byte) { b[20] ^= 1 }) }, 1},
		{"page in a record", func(f files) { edit(f.journal, 5*cachefile.RecordSize, func(b []byte) { b[1] ^= 1 }) }, 1},
		{"record of another page, with its checksum", func(f files) {
			edit(f.journal, 0, func(b []byte) {
				copy(b, cachefile.Record{Range: bpk.Range{Page: 3, Pages: 64}, SHA256: [32]byte{1}}.Append(nil))
			})
		}, 1},
		{"record outside the image", func(f files) {
			edit(f.journal, 0, func(b []byte) { copy(b, cachefile.Record{Range: bpk.Range{Page: 1 << 40, Pages: 1}}.Append(nil)) })
		}, 1},
		{"journal of zeros", func(f files) { os.WriteFile(f.journal, make([]byte, 6400), 0o600) }, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, filled)
			image, journal := cacheFiles(t, dir)
			c.damage(files{image, journal})
			for run := 1; run <= 2; run++ {
				cl := openClient(t, s, func(o *Options) { o.CacheDir = dir })
				checkImage(t, cl, p.image, 128<<10)
				damaged := cl.cache.damagedRecords()
				if err := cl.Close(); err != nil {
					t.Error(err)
				}
				if run == 1 && damaged != c.damaged && (c.damaged >= 0 || damaged == 0) {
					t.Errorf("%d damaged records, want %d", damaged, c.damaged)
				}
				if run == 2 && cl.demand.misses.Load() != 0 {
					t.Errorf("second run: %d misses", cl.demand.misses.Load())
				}
			}
		})
	}
}

func TestCacheSecondClient(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dir := t.TempDir()
	first := openClient(t, s, func(o *Options) { o.CacheDir = dir })
	log := &syncBuffer{}
	second := openClient(t, s, func(o *Options) { o.CacheDir, o.Log = dir, NewLog(log, 0) })
	if second.cache != nil || !strings.Contains(log.String(), "the cache is not used") {
		t.Errorf("cache %v, log %q", second.cache, log)
	}
	checkImage(t, second, p.image, 128<<10)
	checkImage(t, first, p.image, 128<<10)
	for _, c := range []*Client{second, first} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	third := openClient(t, s, func(o *Options) { o.CacheDir = dir })
	if third.cache == nil || third.hot.Load() == 0 {
		t.Error("the cache is not used when its first client has ended")
	}
	third.Close()
}

// A cache disk that is full slows nothing down and breaks nothing; what it holds serves the next run.
func TestCacheFullDisk(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dir := tmpfs(t, 3000)
	for run := 1; run <= 2; run++ {
		c := openClient(t, s, func(o *Options) { o.CacheDir = dir })
		checkImage(t, c, p.image, 128<<10)
		if c.store.spill == nil {
			t.Fatal("the disk is too large for this test")
		}
		revived := int64(0)
		for _, r := range c.cache.old {
			if r.Pages == 0 {
				revived++
			}
		}
		if run == 2 && (revived == 0 || c.cache.damagedRecords() > 0) {
			t.Errorf("second run: %d records used, %d damaged", revived, c.cache.damagedRecords())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A cache directory that cannot be used is the user's mistake, told before anything is mounted.
func TestCacheDirUnusable(t *testing.T) {
	p := packOf(t, small)
	s := p.serve(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, file + "/below"} {
		_, err := Open(t.Context(), Options{URL: s.URL("x"), CacheDir: dir, Log: testLog(t)})
		if err == nil || ExitCode(err) != ExitSetup || !strings.Contains(err.Error(), filepath.Dir(file)) {
			t.Errorf("%s: %v, exit code %d", dir, err, ExitCode(err))
		}
	}
}

// kill -9 at any moment keeps what the client had, and never makes a wrong byte.
func TestCacheSurvivesKill(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	s.Script(faultserver.Always(faultserver.Slow(1 << 20)))
	late := watchLateness(t)
	pages := int64(len(p.image) / bpk.PageSize)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 4 {
		moment := pages/10 + random.Int64N(pages*6/10)
		t.Run(fmt.Sprintf("%d pages of %d", moment, pages), func(t *testing.T) {
			t.Parallel()
			cache, dir, run := t.TempDir(), t.TempDir(), runDir(t)
			cmd, out := role(roleMount, run, cache, testrig.Patience.String(), "0", "fs", "fg", s.URL("pack"), dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // if the test fails
				_ = cmd.Process.Kill()
				_ = unix.Unmount(dir, unix.MNT_DETACH)
			})
			testrig.Eventually(t, "the mount", func() bool { return testrig.IsMounted(dir) })
			touch, _ := role(roleTouch, filesBelow(t, dir)...)
			if err := touch.Start(); err != nil {
				t.Fatal(err)
			}
			type told struct {
				outageEnd // its moment
				held      int64
			}
			var all []told
			testrig.Eventually(t, fmt.Sprintf("%d pages", moment), func() bool {
				st, err := ReadStatus(run)
				if err != nil || len(st) != 1 { // not yet
					return false
				}
				all = append(all, told{late.outageEnds(), st[0].HeldPages})
				return st[0].HeldPages >= moment
			})
			_, journal := cacheFiles(t, cache)
			named := int64(len(journaled(t, journal, pages)))
			self, _ := os.Stat("/proc/self/exe")
			connections := fuseConnectionsOf(self, fmt.Sprintf("/proc/%d", cmd.Process.Pid))
			_ = cmd.Process.Kill()
			// A thread that pushes pages waits for the lock of one, which a READ has that nobody answers any more: the kernel
			// ends neither by itself.
			for _, id := range connections {
				abort(id)
			}
			_ = cmd.Wait()
			_ = touch.Process.Kill()
			_ = touch.Wait()
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			last := all[len(all)-1]
			held := last.held
			// What came just before may wait for its hash on a processor that the test shares: a sync would be ten times later.
			for _, a := range slices.Backward(all) {
				if last.at.Sub(a.at) > syncEvery/10+4*time.Duration(last.was-a.was) {
					break
				}
				held = a.held
			}
			kept, damaged := revivable(t, cache, p)
			said := fmt.Sprintf("%d pages kept of %d, %d in the journal before, %d held a moment before; %d damaged records",
				kept, last.held, named, held, damaged)
			t.Log(said)
			if kept < named || kept*100 < held*95 || damaged > 0 {
				t.Error(said)
			}
			serves(t, cache, p)
		})
	}
}

// filesBelow lists the regular files below dir. It reads metadata of a mount: use it for file systems whose
// server is another process only.
func filesBelow(t testing.TB, dir string) (out []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// A cache that was written beforehand is a warm one: no boot page is asked for.
func TestCacheWrittenBeforehand(t *testing.T) {
	t.Parallel()
	for _, form := range []string{formPack, formManifest, formImage, formSplit} {
		f := folderOf(t, hotAndCold)
		p := f.formOf(form)
		dir := filepath.Join(t.TempDir(), "cache")
		if err := cachefile.Write(t.Context(), dir, p.Digest, int64(len(f.image)), p.Boot.Ranges, func(dst []byte, off int64) error {
			copy(dst, f.image[off:])
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s := serveDir(t, f.dir)
		c := mustOpen(t, s.url(form), func(o *Options) { o.CacheDir = dir })
		if c.hot.Load() == 0 || c.cache.damagedRecords() != 0 {
			t.Errorf("%s: the boot zone is not there at once; %d damaged records", form, c.cache.damagedRecords())
		}
		for _, r := range p.Boot.Ranges {
			if err := readAt(t, c, soon(t), f.image, r.Page*bpk.PageSize, r.Pages*bpk.PageSize); err != nil {
				t.Error(err)
			}
		}
		// Which bytes the opening requests bring is not known when they are sent.
		opening := map[string]int{formPack: len(openingSegments), formManifest: len(manifestOpening), formImage: len(openingSegments) + 1, formSplit: len(openingSegments)}
		if n := len(s.requests()); n > opening[form] {
			t.Errorf("%s: %d requests", form, n)
		}
		checkImage(t, c, f.image, 128<<10)
	}
}
