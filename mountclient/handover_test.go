package mountclient

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/loopdev"
	"bootprof/internal/testrig"
)

// squashed returns a pack of a squashfs of the same tree as p. Its source is a loop mount of that squashfs: it cannot hold
// all that the tree has.
func squashed(t testing.TB, p *testPack) *testPack {
	t.Helper()
	img := t.TempDir() + "/tree.sqfs"
	testrig.Run(t, "mksquashfs", p.source, img, "-quiet", "-no-progress", "-processors", "1")
	q := buildPack(t, img, noZone)
	q.source = testrig.Mount(t, "squashfs", img)
	return q
}

// filling are the options of a mount that fills the cache in dir at once.
func filling(dir string) func(*MountOptions) {
	return func(o *MountOptions) { o.CacheDir, o.FillRate, o.window = dir, FillMax, time.Millisecond }
}

func dropCaches(t testing.TB) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}

// handedOver waits for the end of a client that has left the mount to the kernel.
func (r *rig) handedOver() {
	r.t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			r.t.Errorf("the end of the client: %v", err)
		}
	case <-time.After(testrig.Patience):
		r.t.Fatalf("the client does not hand over: %+v", r.Status())
	}
}

// After the hand-over the tree reads as before, from the file alone, and goes as any loop mount does.
func TestHandOver(t *testing.T) {
	testrig.Slow(t)
	for _, fs := range []string{"erofs", "squashfs"} {
		t.Run(fs, func(t *testing.T) {
			watchdog(t)
			p := packOf(t, hotAndCold)
			if fs == "squashfs" {
				p = squashed(t, p)
			}
			s := p.serve(t)
			before := takeCensus()
			cache := t.TempDir()
			r := mountPack(t, s, filling(cache))
			r.compareDuring(p, r.handedOver)
			s.Stop()
			before.check(t) // all of the client is gone
			dropCaches(t)
			r.compare(p)

			image, _ := cacheFiles(t, cache)
			if files, err := loopdev.BackingFiles(); err != nil || files[r.loop] != image {
				t.Errorf("the loop device is on %q, want %s (%v)", files[r.loop], image, err)
			}
			st, err := ReadStatus(r.run)
			if err != nil || len(st) != 1 || st[0].Phase != "local" || st[0].LocalFile != image || st[0].Dir != r.dir || st[0].PID != 0 ||
				st[0].FillPages != st[0].ImagePages || st[0].ImagePages != int64(len(p.image)/bpk.PageSize) {
				t.Errorf("status: %+v, %v", st, err)
			}
			// The kernel holds the lock: no other client may change the file.
			if _, err := openCache(cache, r.Client.digest, r.Client.Size(), slog.New(slog.DiscardHandler)); !errors.Is(err, errInUse) {
				t.Errorf("the cache under the mount can be opened: %v", err)
			}
			testrig.Unmount(t, r.dir)
			testrig.Eventually(t, "loop device is let go", func() bool { _, attached := loopBacking(r.loop); return !attached })
			if st, err := ReadStatus(r.run); err != nil || len(st) != 0 {
				t.Errorf("status after the unmount: %+v, %v", st, err)
			}
			r.gone()
			// The next run has everything, and needs the server for the opening only.
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			r = mountPack(t, s, filling(cache))
			r.handedOver()
			r.compare(p)
			testrig.Unmount(t, r.dir)
			_, _ = ReadStatus(r.run)
			r.gone()
		})
	}
}

// The process ends by itself, and the mount outlives it.
func TestHandOverProcess(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	run, dir := runDir(t), t.TempDir()
	cmd, out := role(roleMount, run, t.TempDir(), testrig.Patience.String(), "0", "fill", "fg", s.URL("pack"), dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	case <-time.After(testrig.Patience):
		_ = cmd.Process.Kill()
		t.Fatalf("the client does not end\n%s", out)
	}
	s.Stop()
	dropCaches(t)
	r := &rig{t: t, dir: dir, run: run, loop: -1}
	r.compare(p)
	testrig.Unmount(t, dir)
	_, _ = ReadStatus(run)
	r.gone()
}

// A damaged page of the cache is fetched anew before the hand-over.
func TestHandOverMendsTheCache(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	cache := t.TempDir()
	fill(t, s, p, cache)
	image, _ := cacheFiles(t, cache)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cold := p.coldChunk(t, 20)
	off := cold.Page*bpk.PageSize + 99
	if _, err := f.WriteAt([]byte{p.image[off] ^ 1}, off); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := mountPack(t, s, filling(cache))
	r.handedOver()
	if !slices.ContainsFunc(s.Requests(), func(q faultserver.Request) bool { return q.Touches(cold.PackOff) }) {
		t.Error("the damaged page was not fetched anew")
	}
	if b := testrig.ReadFile(t, image); string(b) != string(p.image) {
		t.Error("the file under the mount is not the image")
	}
	r.compare(p)
	testrig.Unmount(t, r.dir)
	_, _ = ReadStatus(r.run)
	r.gone()
}

// An outage delays the hand-over; an unmount during it ends the client.
func TestFillOutage(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	for _, ends := range []string{"outage", "unmount"} {
		t.Run(ends, func(t *testing.T) {
			t.Parallel()
			watchdog(t)
			p := packOf(t, hotAndCold)
			s := p.serve(t)
			r := mountPack(t, s, func(o *MountOptions) { filling(t.TempDir())(o); o.window = time.Second })
			r.hot()
			s.Stop()
			testrig.Eventually(t, "the fill", func() bool { return r.Status().Phase == "filling" })
			if ends == "unmount" {
				r.unmount()
				return
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			r.handedOver()
			r.compare(p)
			testrig.Unmount(t, r.dir)
			_, _ = ReadStatus(r.run)
			r.gone()
		})
	}
}

// A cache that has no room for the image is never put under the mount.
func TestNoHandOverFromAFullDisk(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	r := mountPack(t, p.serve(t), filling(filepath.Join(tmpfs(t, 2<<10), "cache")))
	testrig.Eventually(t, "the fill", func() bool { st := r.Status(); return st.FillPages == st.ImagePages })
	r.compare(p)
	if st := r.Status(); st.Phase == "local" {
		t.Errorf("status: %+v", st)
	}
	r.unmount()
}

// While a reader waits the fill asks for nothing; and it keeps to its rate.
func TestFillPausesAndKeepsItsRate(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, noZone)
	s := p.serve(t)
	const seconds = 1
	c := openClient(t, s, func(o *Options) { o.CacheDir, o.FillRate = t.TempDir(), int64(len(p.raw))/seconds })
	defer c.Close()
	c.waiting.Add(1)
	done := make(chan error, 1)
	go func() { done <- c.fill(t.Context()) }()
	time.Sleep(10 * fillPause) // in which nothing happens
	if n := c.store.heldPages(); n > 0 {
		t.Errorf("%d pages came while a reader waits", n)
	}
	begin := time.Now()
	c.waiting.Add(-1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// The last step and what came with the opening are not paid for.
	if took := time.Since(begin); took < seconds*time.Second/4 {
		t.Errorf("filled after %v, want about %d s", took, seconds)
	}
	checkImage(t, c, p.image, 128<<10)
}

func TestParseFill(t *testing.T) {
	for s, want := range map[string]int64{"off": 0, "max": FillMax, "1": 1, "500K": 500 << 10, "2M": 2 << 20, "1G": 1 << 30} {
		if got, err := ParseFill(s); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "-1", "2 M", "M", "2m", "2MM", "1.5M", "9999999999G", "on"} {
		if got, err := ParseFill(s); err == nil {
			t.Errorf("%s: %d", s, got)
		}
	}
}
