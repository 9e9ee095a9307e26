package mountclient

import (
	"os"
	"path/filepath"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
)

// newBody returns the stored bytes of body chunks that p has and was has not.
func newBody(t *testing.T, p, was *testPack) (bytes int64) {
	t.Helper()
	have := map[[32]byte]bool{}
	if err := was.pack.Chunks(func(e bpk.Entry) error { have[e.SHA256] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.pack.Chunks(func(e bpk.Entry) error {
		if e.Codec != bpk.CodecZero && !have[e.SHA256] {
			bytes += e.Len
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// The cache of one version serves the chunks that the next one has in common with it: of the body only what changed is
// fetched. Damage of the older files costs a fetch.
func TestCacheOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	v1, v2 := packOf(t, hotAndCold), packOf(t, next)
	changed := newBody(t, v2, v1)
	if all := newBody(t, v2, &testPack{pack: packOf(t, small).pack}); changed == 0 || changed > all/2 {
		t.Fatalf("%d of %d bytes of the body are new", changed, all)
	}
	s1 := v1.serve(t)
	filled := t.TempDir()
	fill(t, s1, v1, filled)
	read := func(t *testing.T, dir string) (demanded, reused int64) {
		t.Helper()
		c := openClient(t, v2.serve(t), func(o *Options) { o.CacheDir = dir })
		defer c.Close()
		checkImage(t, c, v2.image, 128<<10)
		by := c.fetch.src.count.causes()
		return by.Demand + by.Readahead, c.demand.reused.Load()
	}
	t.Run("whole", func(t *testing.T) {
		dir := copyDir(t, filled)
		demanded, reused := read(t, dir)
		if demanded > changed*12/10+64<<10 || reused == 0 {
			t.Errorf("%d bytes of the body fetched, %d are new; %d taken from the older version", demanded, changed, reused)
		}
		if demanded, reused = read(t, dir); demanded != 0 || reused != 0 {
			t.Errorf("the second run of the new version fetches %d bytes and takes %d over again", demanded, reused)
		}
	})
	digest := bpk.Digest(v1.raw[:bpk.HeaderSize])
	image, _ := cachefile.Names("", digest)
	for name, damage := range map[string]func(dir string) error{
		"image zeros": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, image), make([]byte, len(v1.image)), 0o600)
		},
		"image cut": func(dir string) error { return os.Truncate(filepath.Join(dir, image), 1<<20) },
		"no head":   func(dir string) error { return os.Remove(keptName(dir, digest)) },
		"records of another image": func(dir string) error {
			var b []byte
			if err := v2.pack.Chunks(func(e bpk.Entry) error {
				if e.Codec != bpk.CodecZero {
					b = cachefile.ChunkRecord{Stored: e.SHA256, Range: bpk.Range{Page: 1, Pages: e.Pages}, Codec: e.Codec}.Append(b)
				}
				return nil
			}); err != nil {
				return err
			}
			return os.WriteFile(cachefile.ChunksName(dir, digest), b, 0o600)
		},
		"half records": func(dir string) error { return os.Truncate(cachefile.ChunksName(dir, digest), 96*20+50) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, filled)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if demanded, _ := read(t, dir); demanded <= changed*12/10+64<<10 {
				t.Errorf("%d bytes of the body fetched: damaged files were used", demanded)
			}
		})
	}
}
