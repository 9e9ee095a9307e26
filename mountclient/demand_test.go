package mountclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// sparsePack is a pack without a boot zone whose body index has two levels: chunks of 128 KiB with a few bytes.
func sparsePack(t *testing.T) *testPack {
	t.Helper()
	image := make([]byte, 20<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for off := 0; off < len(image); off += 5000 {
		image[off] = byte(r.Uint32())
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return buildPack(t, path, noZone)
}

func readAt(t testing.TB, c *Client, ctx context.Context, image []byte, off, n int64) error {
	t.Helper()
	b := make([]byte, n)
	m, err := c.ReadAt(ctx, b, off)
	if err == nil && !bytes.Equal(b[:m], image[off:min(off+n, int64(len(image)))]) {
		t.Errorf("[%d +%d): other bytes", off, n)
	}
	return err
}

// touching counts the requests whose range holds a byte of the pack.
func touching(s *faultserver.Server, off int64) (n int) {
	for _, r := range s.Requests() {
		if r.Touches(off) {
			n++
		}
	}
	return n
}

func TestDemandReadersShareAFetch(t *testing.T) {
	t.Parallel()
	p := packOf(t, noZone)
	s := p.serve(t)
	c := openClient(t, s, nil)
	defer c.Close()
	if err := readAt(t, c, soon(t), p.image, 0, 1); err != nil { // brings the index
		t.Fatal(err)
	}
	e := p.coldChunk(t, 40)
	s.Script(faultserver.Always(faultserver.Delay(100 * time.Millisecond)))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := readAt(t, c, soon(t), p.image, (e.Page+int64(i)%e.Pages)*bpk.PageSize, bpk.PageSize); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := touching(s, e.PackOff); n != 1 {
		t.Errorf("%d requests for one chunk", n)
	}
	if n := c.demand.misses.Load(); n != 2 {
		t.Errorf("%d misses counted, want 2", n)
	}
	if len(c.demand.flights) != 0 {
		t.Errorf("%d flights left", len(c.demand.flights))
	}
}

// A fetch outlives the reader that began it.
func TestDemandReaderIsInterrupted(t *testing.T) {
	t.Parallel()
	p := packOf(t, noZone)
	s := p.serve(t)
	c := openClient(t, s, nil)
	defer c.Close()
	if err := readAt(t, c, soon(t), p.image, 0, 1); err != nil {
		t.Fatal(err)
	}
	e := p.coldChunk(t, 30)
	n := len(s.Requests())
	s.Script(faultserver.Always(faultserver.Delay(200 * time.Millisecond)))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		s.Wait(n+1, testrig.Patience)
		cancel()
	}()
	if err := readAt(t, c, ctx, p.image, e.Page*bpk.PageSize, bpk.PageSize); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted read: %v", err)
	}
	if err := readAt(t, c, soon(t), p.image, e.Page*bpk.PageSize, bpk.PageSize); err != nil {
		t.Error(err)
	}
	if n := touching(s, e.PackOff); n != 1 {
		t.Errorf("%d requests for one chunk", n)
	}
}

func TestAdjacent(t *testing.T) {
	f := func(off, n int64) *flight {
		return &flight{entry: bpk.Entry{Block: bpk.Block{PackOff: off, Len: n}}}
	}
	for _, c := range []struct {
		name string
		fs   []*flight
		want int
	}{
		{"one", []*flight{f(0, 10)}, 1},
		{"side by side", []*flight{f(0, 10), f(10, 10), f(20, 5)}, 3},
		{"gap", []*flight{f(0, 10), f(11, 10)}, 1},
		{"backwards", []*flight{f(10, 10), f(0, 10)}, 1},
		{"the same chunk again", []*flight{f(0, 10), f(0, 10)}, 1},
		{"up to the limit", []*flight{f(0, demandJoinBytes-10), f(demandJoinBytes-10, 10), f(demandJoinBytes, 1)}, 2},
		{"beyond the limit", []*flight{f(0, demandJoinBytes), f(demandJoinBytes, 1)}, 1},
		{"one larger than the limit", []*flight{f(0, demandJoinBytes+1), f(demandJoinBytes+1, 1)}, 1},
		{"zeros first", []*flight{f(0, 0), f(0, 10)}, 1},
	} {
		if got := len(adjacent(c.fs)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// A read of several chunks that lie side by side is one request.
func TestDemandJoinsNeighbours(t *testing.T) {
	t.Parallel()
	p := sparsePack(t)
	s := p.serve(t)
	c := openClient(t, s, nil)
	defer c.Close()
	if err := readAt(t, c, soon(t), p.image, 0, 1); err != nil {
		t.Fatal(err)
	}
	n := len(s.Requests())
	if err := readAt(t, c, soon(t), p.image, 1<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	// Chunks are 128 KiB of the image; others may be fetched ahead of the reader.
	first, last := p.coldChunk(t, 8), p.coldChunk(t, 15)
	got := 0
	for _, r := range s.Requests()[n:] {
		if r.Off < last.PackOff+last.Len && r.Off+r.Len > first.PackOff {
			got++
		}
	}
	if got != 1 {
		t.Errorf("%d requests for 8 chunks side by side", got)
	}
}

// When a read fails half way, nobody is left waiting for the fetches that it had announced.
func TestDemandFailedReadLeavesNoFlight(t *testing.T) {
	t.Parallel()
	p := sparsePack(t)
	if p.pack.Header.BodyDepth != 2 {
		t.Fatalf("body index of depth %d", p.pack.Header.BodyDepth)
	}
	s := p.serve(t)
	c := openClient(t, s, nil)
	c.at.pack.pre = nil                                  // the opening has brought the whole index
	border := int64(bpk.NodeEntries * 32 * bpk.PageSize) // chunks of the first leaf end here
	const want = 128 << 10
	if err := readAt(t, c, soon(t), p.image, 0, 1); err != nil {
		t.Fatal(err)
	}
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.Len == bpk.NodeEntries*64/4 || r.Off+r.Len == p.pack.Header.PackSize { // the second leaf is the pack's end
			return faultserver.Status(404)
		}
		return nil
	})
	err := readAt(t, c, soon(t), p.image, border-want, 2*want)
	var h *HTTPError
	if !errors.As(err, &h) {
		t.Fatalf("read over an unreachable index node: %v, want 404", err)
	}
	s.Script(nil)
	if err := readAt(t, c, soon(t), p.image, border-want, want); err != nil {
		t.Errorf("the next read of the first chunk: %v", err)
		return // Close would wait for ever
	}
	if err := readAt(t, c, soon(t), p.image, border-want, 2*want); err != nil {
		t.Error(err)
	}
	c.Close()
}

// Damage on the way costs a second fetch and never a wrong byte, in chunks, boot chunks and index nodes.
func TestDamageOnTheWay(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	zone := p.pack.Header.Boot
	cold := p.coldChunk(t, 10)
	for _, c := range []struct {
		name string
		off  int64
	}{
		{"first boot chunk", zone.PackOff + 5},
		{"boot chunk in the middle", p.pack.Boot.Chunks[12].PackOff + 7},
		{"last byte of the boot zone", zone.PackOff + zone.Len - 1},
		{"body index", p.pack.Header.BodyRoot.PackOff + 3},
		{"body chunk", cold.PackOff + cold.Len/2},
	} {
		for _, times := range []int{1, 3} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s := p.serve(t)
				s.Script(faultserver.Touching(c.off, times, faultserver.Flip(c.off)))
				cl := openClient(t, s, nil)
				defer cl.Close()
				cl.fetch.setInUse()
				checkImage(t, cl, p.image, 256<<10)
				damaged := cl.fetch.src.count.corrupt.Load()
				// The opening requests bring the body index along, and nobody looks at that copy.
				least := int64(1)
				if c.name == "body index" && times == 1 {
					least = 0
				}
				if damaged < least || damaged > int64(times) {
					t.Errorf("%d damaged parts counted, want %d to %d", damaged, least, times)
				}
			})
		}
	}
}

// A pack that is damaged on the server ends the start with an error, in bounded time.
func TestDamageOnTheServer(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	for _, kind := range []string{hotAndCold, noZone} {
		p := packOf(t, kind)
		for name, off := range map[string]int64{
			"boot index": p.pack.Header.BootIndex.PackOff + 20,
			"boot chunk": p.pack.Header.Boot.PackOff + 20,
			"body index": p.pack.Header.BodyRoot.PackOff + 20,
			"body chunk": p.coldChunk(t, 5).PackOff + 20,
		} {
			if name == "boot chunk" && kind == noZone {
				continue
			}
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				raw := bytes.Clone(p.raw)
				raw[off] ^= 1
				s := serveBytes(t, raw)
				ctx, cancel := context.WithTimeout(t.Context(), testrig.Patience)
				defer cancel()
				c, err := Open(ctx, Options{URL: s.URL("pack"), Log: testLog(t)})
				if err == nil {
					defer c.Close()
					for off := int64(0); off < int64(len(p.image)) && err == nil; off += 128 << 10 {
						err = readAt(t, c, ctx, p.image, off, 128<<10)
					}
				}
				if !isCorrupt(err) || ExitCode(err) != ExitFormat {
					t.Errorf("%v, exit code %d", err, ExitCode(err))
				}
			})
		}
	}
}

// A body chunk that is whole and cannot be decoded was packed so: it is an error at once, in use or not.
func TestDemandUndecodableChunks(t *testing.T) {
	p := packOf(t, noZone)
	s := p.serve(t)
	c := openClient(t, s, nil)
	defer c.Close()
	c.fetch.setInUse()
	enc, _ := zstd.NewWriter(nil)
	page := make([]byte, bpk.PageSize)
	if !s.Wait(len(openingSegments), testrig.Patience) {
		t.Fatal("no opening requests")
	}
	before := len(s.Requests())
	for name, x := range map[string]struct {
		codec  byte
		stored []byte
	}{
		"not zstd":       {bpk.CodecZstd, []byte("hello")},
		"zstd, short":    {bpk.CodecZstd, enc.EncodeAll(page[:100], nil)},
		"zstd, long":     {bpk.CodecZstd, enc.EncodeAll(make([]byte, 3*bpk.PageSize), nil)},
		"zstd, cut":      {bpk.CodecZstd, enc.EncodeAll(page, nil)[:10]},
		"zstd, too long": {bpk.CodecZstd, enc.EncodeAll(make([]byte, 64<<20), nil)},
		"raw, short":     {bpk.CodecRaw, page[:4095]},
		"raw, long":      {bpk.CodecRaw, append(page[:len(page):len(page)], 0)},
		"raw, empty":     {bpk.CodecRaw, nil},
	} {
		e := bpk.Entry{Block: bpk.Block{PackOff: 512, Len: int64(len(x.stored)), SHA256: sha256.Sum256(x.stored)}, Page: 7, Pages: 1, Codec: x.codec}
		if err := c.demand.keep(&e, x.stored, false); !isCorrupt(err) {
			t.Errorf("%s: %v", name, err)
		}
		if _, lacks := c.store.missing(7, 1); !lacks {
			t.Fatalf("%s: the page is in the store", name)
		}
	}
	if n := len(s.Requests()); n != before {
		t.Errorf("%d requests for chunks that are whole", n-before)
	}
}

// Boot pages that were dropped from memory are decoded again, from what the preload holds.
func TestBootPagesAgain(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	c := openClient(t, s, func(o *Options) { o.MemoryBytes = 20 * bpk.PageSize })
	defer c.Close()
	testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
	n := len(s.Requests())
	for _, r := range c.index.Ranges {
		c.store.release(r)
	}
	if held := c.store.heldPages(); held > 200 {
		t.Fatalf("%d pages held", held)
	}
	s.Stop() // no network is needed
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 3))
			for range 40 {
				rng := c.index.Ranges[r.IntN(len(c.index.Ranges))]
				if err := readAt(t, c, soon(t), p.image, rng.Page*bpk.PageSize, rng.Pages*bpk.PageSize); err != nil {
					t.Error(err)
				}
				c.store.release(rng)
			}
		})
	}
	wg.Wait()
	if len(s.Requests()) != n {
		t.Errorf("%d requests for boot pages that were there", len(s.Requests())-n)
	}
}

// A miss early in the boot is served while the boot zone is still coming, or stands still.
func TestDemandDoesNotWaitForTheBootZone(t *testing.T) {
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if h := p.pack.Header; r.Off >= openingBytes && r.Off < h.Boot.PackOff+h.Boot.Len {
			return faultserver.Hang()
		}
		return nil
	})
	c := openClient(t, s, nil)
	defer c.Close()
	c.fetch.setInUse()
	if err := readAt(t, c, soon(t), p.image, p.coldChunk(t, 40).Page*bpk.PageSize, bpk.PageSize); err != nil {
		t.Errorf("a cold page waits for the boot zone: %v", err)
		s.Script(nil)
	}
	if c.hot.Load() > 0 {
		t.Error("the boot zone came: this tests nothing")
	}
}

// With Options.Timeout, reads fail when nothing comes for that long, and succeed again when the server is back:
// boot pages and others.
func TestReadTimeout(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	s := p.serve(t)
	last := p.pack.Boot.Chunks[len(p.pack.Boot.Chunks)-1]
	s.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.Off >= openingBytes {
			return faultserver.Hang()
		}
		return nil
	})
	c := openClient(t, s, func(o *Options) { o.Timeout = 300 * time.Millisecond })
	defer c.Close()
	c.fetch.setInUse()
	boot := p.pack.Boot.RangesOf(&last)[0].Page * bpk.PageSize
	cold := p.coldChunk(t, 40).Page * bpk.PageSize
	for name, off := range map[string]int64{"boot page": boot, "cold page": cold} {
		begin := time.Now()
		err := readAt(t, c, soon(t), p.image, off, bpk.PageSize)
		if took := time.Since(begin); err == nil || errors.Is(err, context.DeadlineExceeded) || took < 250*time.Millisecond {
			t.Errorf("%s: %v after %v", name, err, took)
		}
	}
	s.Script(nil)
	for name, off := range map[string]int64{"boot page": boot, "cold page": cold} {
		testrig.Eventually(t, name+" after the return", func() bool {
			return readAt(t, c, soon(t), p.image, off, bpk.PageSize) == nil
		})
	}
}
