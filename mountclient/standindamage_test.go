package mountclient

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// unranged sends the whole file to all requests, and lets f change the answers to those without a range.
func unranged(f func(stream int) *faultserver.Fault) faultserver.Script {
	streams := 0
	return func(r faultserver.Request) *faultserver.Fault {
		if r.Ranged {
			return faultserver.FullBody()
		}
		streams++
		return f(streams)
	}
}

// What of the copy is damaged is fetched again, around all caches, and put right in the copy.
func TestNoRangesDamage(t *testing.T) {
	p := packOf(t, hotAndCold)
	cold, hot := p.coldChunk(t, 0).PackOff+5, p.pack.Header.Boot.PackOff+p.pack.Header.Boot.Len/2
	s := p.serve(t)
	s.Script(unranged(func(stream int) *faultserver.Fault {
		if stream > 1 {
			return nil
		}
		return &faultserver.Fault{Name: "flip", Change: func(r *faultserver.Request, a *faultserver.Answer, file []byte) {
			faultserver.Flip(cold).Change(r, a, file)
			faultserver.Flip(hot).Change(r, a, file)
		}}
	}))
	c, _ := openMirrors(t, nil, s)
	c.fetch.setInUse()
	checkImage(t, c, p.image, 100_000)
	if n := wholeRequests(s); n != 3 {
		t.Errorf("%d requests for the file, want one, and one for each of two damaged chunks", n)
	}
	got, err := c.fetch.bytes(t.Context(), cold, 1)
	if err != nil || got[0] != p.raw[cold] {
		t.Errorf("the copy was not mended: %v", err)
	}
}

// Without an ETag, Last-Modified tells that a stream that is begun again is of another file.
func TestNoRangesReplacedWithoutETag(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	dated := func(day string, cut int) *faultserver.Fault {
		return &faultserver.Fault{Name: day, Change: func(_ *faultserver.Request, a *faultserver.Answer, _ []byte) {
			a.Header.Del("Etag")
			a.Header.Set("Last-Modified", day+" Nov 2026 00:00:00 GMT")
			a.Cut = int64(cut)
		}}
	}
	// Each stream is of another file and is cut off, until whole ones come, of all those files in turn. Requests besides the
	// copy's may take any of them.
	days := []string{"Mon, 02", "Tue, 03", "Wed, 04", "Thu, 05", "Fri, 06", "Sat, 07"}
	s.Script(unranged(func(stream int) *faultserver.Fault {
		switch n := stream - 1 - len(days); {
		case n < 0:
			return dated(days[stream-1], len(p.raw)/3)
		case n%2 == 0:
			return dated("Sun, 08", -1)
		default:
			return dated(days[n/2%len(days)], -1)
		}
	}))
	c, log := openMirrors(t, nil, s)
	c.fetch.setInUse()
	checkImage(t, c, p.image, 100_000)
	w := c.fetch.src.pin.standIn(nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	var other *identityError
	if !errors.As(w.err, &other) { // the last failure before the whole stream
		t.Errorf("no stream was refused for its date: %v; log:\n%s", w.err, log)
	}
}

// The copy goes on with another mirror, and back, when the one that it came from is gone.
func TestNoRangesMirrorsTakeTurns(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	a, b := p.serve(t), p.serve(t)
	cut := unranged(func(int) *faultserver.Fault { return faultserver.Cut(int64(len(p.raw) * 2 / 3)) })
	a.Script(cut)
	b.Script(unranged(func(int) *faultserver.Fault { return nil }))
	b.Stop()
	c, _ := openMirrors(t, nil, a, b)
	c.fetch.setInUse()
	a.Stop()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	checkImage(t, c, p.image, 100_000)
	if wholeRequests(b) == 0 {
		t.Error("the other mirror was not asked")
	}
}

// A copy that finds no room in the cache directory goes into memory.
func TestNoRangesFullDisk(t *testing.T) {
	testrig.NeedMounts(t)
	p := packOf(t, hotAndCold)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := p.serve(t)
	s.Script(faultserver.Always(faultserver.FullBody()))
	c, log := openMirrors(t, func(o *Options) { o.CacheDir = dir }, s)
	c.fetch.setInUse()
	checkImage(t, c, p.image, 100_000)
	if !strings.Contains(log.String(), "into memory") {
		t.Errorf("log:\n%s", log)
	}
}

// A file that would fill the memory is refused, with what to do.
func TestWholeFileRoom(t *testing.T) {
	if free := availableMemory(); free < 1<<20 {
		t.Errorf("%d bytes of memory available", free)
	}
	_, _, err := wholeFile("", 1<<50)
	if err == nil || !strings.Contains(err.Error(), "--cache") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a copy of 1 PiB in memory: %v", err)
	}
	dir := t.TempDir() + "/new"
	f, where, err := wholeFile(dir, 1<<20)
	if err != nil || where != dir {
		t.Fatalf("in %s: %v", where, err)
	}
	f.Close()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The boot zone is held once: what the copy has is not kept in the preload's file, too.
func TestNoRangesHoldsTheBootZoneOnce(t *testing.T) {
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	s.Script(faultserver.Always(faultserver.FullBody()))
	c, _ := openMirrors(t, nil, s)
	checkImage(t, c, p.image, 100_000)
	var st unix.Stat_t
	if err := unix.Fstat(int(c.pre.zone.Fd()), &st); err != nil || st.Blocks != 0 {
		t.Errorf("%d bytes in the preload's own file, %v", st.Blocks*512, err)
	}
}
