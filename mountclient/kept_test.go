package mountclient

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

func digestOf(p *testPack) string {
	return fmt.Sprintf("sha256:%x", bpk.Digest(p.raw[:bpk.HeaderSize]))
}

// With a digest, a warm cache needs no server.
func TestKeptNeedsNoServer(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dir := t.TempDir()
	fill(t, s, p, dir)
	n := len(s.Requests())
	warm := func(o *Options) { o.CacheDir, o.Digest = dir, digestOf(p) }
	c := openClient(t, s, warm)
	checkImage(t, c, p.image, 128<<10)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s.Stop()
	c = openClient(t, s, warm)
	defer c.Close()
	checkImage(t, c, p.image, 100_000)
	if got := len(s.Requests()) - n; got != 0 || c.hot.Load() == 0 || c.fetch.src.count.requests.Load() != 0 {
		t.Errorf("%d requests reached the server, %d were sent", got, c.fetch.src.count.requests.Load())
	}
}

// A mount does not need one either, and the kernel gets the boot pages as in any other boot.
func TestKeptMount(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dir := t.TempDir()
	fill(t, s, p, dir)
	s.Stop()
	r := mountPack(t, s, func(o *MountOptions) { o.CacheDir, o.Digest = dir, digestOf(p) })
	testrig.Eventually(t, "the kernel has the boot pages", func() bool { st := r.Status(); return st.PushedPages >= st.BootPages/2 })
	r.compare(p)
	r.unmount()
}

// Without a digest the server is asked, and the cache is taken if none answers: only for the same URL.
func TestKeptWithoutAnswer(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dir := t.TempDir()
	fill(t, s, p, dir)
	s.Stop()
	log := &syncBuffer{}
	o := Options{URL: s.URL("pack.bpk"), CacheDir: dir, StartTimeout: 200 * time.Millisecond, Log: NewLog(log, 0)}
	afterForks(dir)
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, c, p.image, 128<<10)
	if err := c.Close(); err != nil || strings.Count(log.String(), "no server answers") != 1 {
		t.Errorf("%v, log %q", err, log)
	}
	for name, change := range map[string]func(*Options){
		"other URL":    func(o *Options) { o.URL = s.URL("other.bpk") },
		"other digest": func(o *Options) { o.Digest = "sha256:" + strings.Repeat("0", 64) },
		"no cache":     func(o *Options) { o.CacheDir = "" },
	} {
		o := o
		change(&o)
		afterForks(dir)
		if c, err := Open(t.Context(), o); ExitCode(err) != ExitNetwork {
			t.Errorf("%s: %v", name, err)
			if c != nil {
				c.Close()
			}
		}
	}
}

// That holds for every form of a pack. What the cache has not got is asked for in the right place.
func TestKeptForms(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	f := folderOf(t, hotAndCold)
	for _, form := range []string{formPack, formManifest, formImage, formSplit} {
		dir, url := t.TempDir(), ""
		digest := fmt.Sprintf("sha256:%x", f.formOf(form).Digest)
		read := func(t *testing.T, change func(*Options)) {
			c, err := openURL(t, url, change)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, c, f.image, 128<<10)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		t.Run(form+", server there", func(t *testing.T) { // it ends with it
			s := serveDir(t, f.dir)
			url = s.url(form)
			read(t, func(o *Options) { o.CacheDir = dir })
			n := len(s.asked)
			read(t, func(o *Options) { o.CacheDir, o.Digest = dir, digest })
			if len(s.asked) != n {
				t.Errorf("requests for %q", s.asked[n:])
			}
			damaged := copyDir(t, dir)
			image, _ := cacheFiles(t, damaged)
			for off := 0; off < len(f.image); off += 64 * bpk.PageSize {
				flipByte(t, image, int64(off))
			}
			read(t, func(o *Options) { o.CacheDir, o.Digest = damaged, digest })
			if len(s.asked) == n {
				t.Error("no request for what was damaged")
			}
		})
		t.Run(form+", server gone", func(t *testing.T) {
			read(t, func(o *Options) { o.CacheDir, o.Digest = dir, digest })
			read(t, func(o *Options) { o.CacheDir, o.StartTimeout = dir, 200*time.Millisecond })
		})
	}
}

// What the server has comes before what the cache has.
func TestKeptIsNotPreferred(t *testing.T) {
	t.Parallel()
	p, newer := packOf(t, hotAndCold), packOf(t, small)
	s := p.serve(t)
	dir := t.TempDir()
	fill(t, s, p, dir)
	s2 := newer.serve(t)
	c := openClient(t, s2, func(o *Options) { o.CacheDir = dir })
	defer c.Close()
	checkImage(t, c, newer.image, 128<<10)
}

// Without a digest, one request tells whether the server still has what is in the cache: then there is no other. Whatever is
// missing or damaged comes as if there had been no cache.
func TestKeptAsksOnce(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	filled := t.TempDir()
	fill(t, s, p, filled)
	head := filepath.Base(keptName("", bpk.Digest(p.raw[:bpk.HeaderSize])))
	for name, c := range map[string]struct {
		damage      func(dir string)
		least, most int // requests; 1 where the first may have what is missing
	}{
		"whole":    {func(string) {}, 1, 1},
		"index":    {func(dir string) { flipByte(t, filepath.Join(dir, head), bpk.HeaderSize+40) }, 1, 100},
		"no pages": {func(dir string) { os.Remove(filepath.Join(dir, strings.TrimSuffix(head, keptSuffix)+".journal")) }, 2, 100},
		"boot page": {func(dir string) {
			image, _ := cacheFiles(t, dir)
			flipByte(t, image, p.pack.Boot.Ranges[0].Page*bpk.PageSize)
		}, 1, 100},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, filled)
			c.damage(dir)
			n := len(s.Requests())
			cl := openClient(t, s, func(o *Options) { o.CacheDir = dir })
			checkImage(t, cl, p.image, 128<<10)
			if err := cl.Close(); err != nil {
				t.Error(err)
			}
			got := s.Requests()[n:]
			if len(got) < c.least || len(got) > c.most || got[0].Sent > openingSegments[0] {
				t.Errorf("requests %+v", got)
			}
		})
	}
}

// A key holds for the cache as for the server.
func TestKeptSignature(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	k, other := newSigner(t), newSigner(t)
	f := folderOf(t, hotAndCold)
	p := f.formOf(formPack)
	dir := t.TempDir()
	var gone string
	t.Run("fill", func(t *testing.T) { // client and server end with it
		s := serveDir(t, f.dir)
		gone = s.url(formPack)
		s.put(formPack+SignatureSuffix, k.sign(f.raw, commentOf(p)))
		checkImage(t, mustOpen(t, gone, func(o *Options) { o.CacheDir, o.PublicKey = dir, k.key }), f.image, 128<<10)
	})
	for _, want := range []struct {
		key string
		ok  bool
	}{{k.key, true}, {other.key, false}, {"", true}} {
		o := Options{URL: gone, CacheDir: dir, PublicKey: want.key, StartTimeout: 200 * time.Millisecond, Log: testLog(t)}
		afterForks(dir)
		c, err := Open(t.Context(), o)
		if (err == nil) != want.ok {
			t.Errorf("key %q: %v", want.key, err)
		}
		if err == nil {
			c.Close()
		}
	}
}

// A damaged head, or boot pages that are damaged, cost requests and never a wrong byte.
func TestKeptDamage(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	filled := t.TempDir()
	fill(t, s, p, filled)
	name := filepath.Base(keptName("", bpk.Digest(p.raw[:bpk.HeaderSize])))
	whole, err := os.ReadFile(filepath.Join(filled, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		damage func(dir string)
	}{
		{"header", func(dir string) { flipByte(t, filepath.Join(dir, name), 100) }},
		{"length", func(dir string) { flipByte(t, filepath.Join(dir, name), bpk.HeaderSize+2) }},
		{"index", func(dir string) { flipByte(t, filepath.Join(dir, name), bpk.HeaderSize+40) }},
		{"cut", func(dir string) { os.WriteFile(filepath.Join(dir, name), whole[:len(whole)/2], 0o600) }},
		{"empty", func(dir string) { os.WriteFile(filepath.Join(dir, name), nil, 0o600) }},
		{"boot page", func(dir string) {
			image, _ := cacheFiles(t, dir)
			flipByte(t, image, p.pack.Boot.Ranges[0].Page*bpk.PageSize)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, filled)
			c.damage(dir)
			n := len(s.Requests())
			cl := openClient(t, s, func(o *Options) { o.CacheDir, o.Digest = dir, digestOf(p) })
			checkImage(t, cl, p.image, 128<<10)
			if err := cl.Close(); err != nil {
				t.Error(err)
			}
			if len(s.Requests()) == n {
				t.Error("the server was not asked")
			}
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(b, whole) {
				t.Errorf("the head was not mended: %v", err)
			}
		})
	}
}

func flipByte(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func FuzzKept(f *testing.F) {
	f.Add(make([]byte, bpk.HeaderSize+12))
	f.Add(append(make([]byte, bpk.HeaderSize), 255, 255, 255, 255))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, ok := decodeKept(b); ok && len(k.header)+len(k.index)+len(k.signature)+len(k.url)+12 > len(b) {
			t.Errorf("more than the %d bytes there are", len(b))
		}
	})
}

// A cache on a file system that takes nothing is not used, and no mount fails for it.
func TestCacheReadOnlyAtStart(t *testing.T) {
	p := packOf(t, small)
	s := p.serve(t)
	dir := tmpfs(t, 100)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	c := openClient(t, s, func(o *Options) { o.CacheDir, o.Log = dir, NewLog(log, 0) })
	defer c.Close()
	checkImage(t, c, p.image, 128<<10)
	if c.cache != nil || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "read-only") {
		t.Errorf("cache %v, log %q", c.cache, log)
	}
}
