package imagepack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/zopt"
	"bootprof/profiles"
)

// Tuning of the boot zone, in pages. Within a frame, chunks share history, which is worth 8 to 20 % of the
// size; frames bound what a damaged or late chunk holds up, and are compressed in parallel.
const (
	framePages      = 4096 // 16 MiB of image
	firstChunkPages = 4    // the first chunk, then twice as many each, so that the boot begins early
	zoneChunkPages  = 32   // 128 KiB
	largeChunkPages = 64   // 256 KiB, for zones over largeZonePages: keeps the boot index under 64 KiB
	largeZonePages  = 8192
)

// chunkSizes returns the pages of each chunk of one frame of n pages.
func chunkSizes(n, zonePages int, firstFrame bool) []int {
	full := zoneChunkPages
	if zonePages > largeZonePages {
		full = largeChunkPages
	}
	size := full
	if firstFrame {
		size = firstChunkPages
	}
	var out []int
	for n > 0 {
		c := min(size, n)
		out = append(out, c)
		n -= c
		size = min(2*size, full)
	}
	return out
}

// A zoneChunk is a compressed chunk of the boot zone.
type zoneChunk struct {
	stored []byte
	pages  int
}

type zoneFrame struct {
	chunks []zoneChunk
	filter byte
}

// encodeFrame compresses the pages of ranges, which make one frame, and checks that they come back.
func encodeFrame(img io.ReaderAt, ranges []bpk.Range, sizes []int) (zoneFrame, error) {
	var data []byte
	for _, r := range ranges {
		n := len(data)
		data = append(data, make([]byte, r.Pages*bpk.PageSize)...)
		if err := readImage(img, data[n:], r.Page*bpk.PageSize); err != nil {
			return zoneFrame{}, err
		}
	}
	f, plain := zoneFrame{}, data
	if filtered := filterX86(data, ranges); filterHelps(data, filtered) {
		data, f.filter = filtered, bpk.FilterX86
	}
	enc, err := zopt.NewEncoder(zopt.Options{WindowSize: bpk.MaxWindow})
	if err != nil {
		return zoneFrame{}, err
	}
	for i, pages := range sizes {
		src := data[:pages*bpk.PageSize]
		data = data[len(src):]
		stored, err := enc.Chunk(nil, src, i == len(sizes)-1)
		if err != nil {
			return zoneFrame{}, err
		}
		f.chunks = append(f.chunks, zoneChunk{stored, pages})
	}
	return f, checkFrame(f, ranges, plain)
}

// checkFrame decodes a frame as a client does, and compares it with the pages it was made of: the filter and
// the compressor are ours, and a pack is read for years. It takes about 2 ms per MiB.
func checkFrame(f zoneFrame, ranges []bpk.Range, plain []byte) error {
	dec, err := bpk.NewBootDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	x, _ := indexZone(ranges, []zoneFrame{f}, 0)
	var buf []byte
	for i := range x.Chunks {
		c := &x.Chunks[i]
		if buf, err = dec.Decode(buf[:0], x, c, f.chunks[i].stored); err != nil {
			return fmt.Errorf("BUG: a boot chunk does not decode: %w", err)
		}
		if at := c.First * bpk.PageSize; !bytes.Equal(buf, plain[at:at+len(buf)]) {
			return fmt.Errorf("BUG: boot chunk %d with image pages %v does not come back as it was", i, x.RangesOf(c))
		}
	}
	if pages := x.Pages(); pages*bpk.PageSize != len(plain) || len(x.Chunks) == 0 || x.ChunkOf(pages-1) != len(x.Chunks)-1 {
		return fmt.Errorf("BUG: the chunks of a boot frame do not hold its %d pages", pages)
	}
	return nil
}

// readImage fills p with the image's bytes from imageOff on.
func readImage(img io.ReaderAt, p []byte, imageOff int64) error {
	n, err := img.ReadAt(p, imageOff)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		err = io.ErrUnexpectedEOF // it was longer when its size was asked for
	}
	return fmt.Errorf("reading the image [%d +%d): %w", imageOff, len(p), err)
}

func filterX86(data []byte, ranges []bpk.Range) []byte {
	out := bytes.Clone(data)
	rest := out
	for _, r := range ranges {
		for i := range r.Pages {
			bpk.EncodeX86(rest[:bpk.PageSize], (r.Page+i)*bpk.PageSize)
			rest = rest[bpk.PageSize:]
		}
	}
	return out
}

// filterHelps compares the two forms of a frame under a quick compression.
func filterHelps(plain, filtered []byte) bool {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return false
	}
	defer enc.Close()
	return len(enc.EncodeAll(filtered, nil)) < len(enc.EncodeAll(plain, nil))
}

// splitFrames cuts ranges into frames of at most framePages pages.
func splitFrames(ranges []bpk.Range, framePages int64) [][]bpk.Range {
	var out [][]bpk.Range
	var cur []bpk.Range
	room := framePages
	for _, r := range ranges {
		for r.Pages > 0 {
			n := min(r.Pages, room)
			cur = append(cur, bpk.Range{Page: r.Page, Pages: n})
			r.Page, r.Pages, room = r.Page+n, r.Pages-n, room-n
			if room == 0 {
				out, cur, room = append(out, cur), nil, framePages
			}
		}
	}
	if len(cur) > 0 {
		out = append(out, cur)
	}
	return out
}

// encodeZone compresses the boot zone, frames of framePages in parallel. All goroutines have ended when it returns; after
// an error, or if ctx ends, that is when the frames in work are done. Memory: 13 windows and two frames, 136 MiB, per
// worker, what the garbage collector lets grow beside it, and the compressed zone.
func encodeZone(ctx context.Context, img io.ReaderAt, ranges []bpk.Range, framePages int64, workers int, progress func(pages int64)) ([]zoneFrame, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	frames := splitFrames(ranges, framePages)
	total := 0
	for _, r := range ranges {
		total += int(r.Pages)
	}
	type result struct {
		frame zoneFrame
		err   error
	}
	results := make([]chan result, len(frames))
	slots := make(chan struct{}, workers)
	for i, rs := range frames {
		results[i] = make(chan result, 1)
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				results[i] <- result{err: context.Cause(ctx)}
				return
			}
			n := 0
			for _, r := range rs {
				n += int(r.Pages)
			}
			f, err := encodeFrame(img, rs, chunkSizes(n, total, i == 0))
			if err != nil {
				cancel(err)
			}
			results[i] <- result{f, err}
		}()
	}
	out := make([]zoneFrame, len(frames))
	var first error
	for i := range frames {
		r := <-results[i]
		if r.err != nil {
			first = context.Cause(ctx) // the first error in time; others are its echoes
			continue
		}
		out[i] = r.frame
		for _, c := range r.frame.chunks {
			progress(int64(c.pages))
		}
	}
	return out, first
}

// indexZone makes the boot index of the frames, whose bytes begin at packOff.
func indexZone(ranges []bpk.Range, frames []zoneFrame, packOff int64) (x *bpk.BootIndex, lenBytes int64) {
	x = bpk.NewBootIndex(ranges)
	start := packOff
	for _, f := range frames {
		for i, c := range f.chunks {
			b := bpk.Block{PackOff: packOff, Len: int64(len(c.stored)), SHA256: sha256.Sum256(c.stored)}
			x.AddChunk(b, c.pages, i == 0, f.filter)
			packOff += b.Len
		}
	}
	return x, packOff - start
}

// CompressedSizes returns, for ranges of an image in boot order, the stored bytes of a boot zone up to and
// with each range. Within a chunk, bytes are shared out by pages. Ranges count as the whole pages they touch,
// which must lie in the image, except that its last page may be cut short.
func CompressedSizes(img io.ReaderAt, ranges []profiles.Range) ([]int64, error) {
	pages := make([]bpk.Range, len(ranges))
	total := int64(0)
	for i, r := range ranges {
		if r.Len > 0 {
			first := r.ImageOff / bpk.PageSize
			pages[i] = bpk.Range{Page: first, Pages: (r.ImageOff+r.Len+bpk.PageSize-1)/bpk.PageSize - first}
			total += pages[i].Pages
		}
	}
	frames, err := encodeZone(context.Background(), wholePages{img}, pages, framePages, runtime.GOMAXPROCS(0), func(int64) {})
	if err != nil {
		return nil, err
	}
	upTo := make([]float64, 1, total+1) // stored bytes up to each page
	for _, f := range frames {
		for _, c := range f.chunks {
			for range c.pages {
				upTo = append(upTo, upTo[len(upTo)-1]+float64(len(c.stored))/float64(c.pages))
			}
		}
	}
	out := make([]int64, len(ranges))
	n := int64(0)
	for i, r := range pages {
		n += r.Pages
		out[i] = int64(upTo[n] + 0.5)
	}
	return out, nil
}

// wholePages shows an image whose last page is cut short with zeros in the rest of it.
type wholePages struct{ io.ReaderAt }

func (w wholePages) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.ReaderAt.ReadAt(p, off)
	if err == io.EOF && n%bpk.PageSize != 0 && len(p)-n < bpk.PageSize {
		clear(p[n:])
		return len(p), nil
	}
	return n, err
}
