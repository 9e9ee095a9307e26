package imagepack

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

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
	largeChunkPages = 64   // 256 KiB, for zones over largeZonePages
	largeZonePages  = 8192
	maxZoneChunks   = 768 // chunks are doubled until there are no more: their digests then leave the boot index under 64 KiB
)

// A BootLevel says how much time is spent to make the boot zone smaller. Every boot loads the zone; it is compressed
// once.
type BootLevel int

// The levels. Sizes are relative to one zstd -19 stream, speeds per core (imagepack/zopt).
const (
	BootAuto BootLevel = iota // the best with which a pack takes about as long as mksquashfs with zstd, or less
	BootBest                  // 0.98, 1.3 MB/s
	BootGood                  // 0.99, 2.3 MB/s
	BootFast                  // 1.03, 4.2 MB/s
)

// Zones of more pages than these are not compressed at the best, or at a good level unless asked for.
const (
	autoBestPages = 16 << 10 // 64 MiB
	autoGoodPages = 32 << 10 // 128 MiB
)

func (l BootLevel) effort(zonePages int) zopt.Effort {
	switch {
	case l == BootBest || l == BootAuto && zonePages <= autoBestPages:
		return zopt.Best
	case l == BootGood || l == BootAuto && zonePages <= autoGoodPages:
		return zopt.Good
	}
	return zopt.Fast
}

// chunkSizes returns the pages of each chunk of one frame of n pages.
func chunkSizes(n, zonePages int, firstFrame bool) []int {
	full := zoneChunkPages
	if zonePages > largeZonePages {
		full = largeChunkPages
	}
	for zonePages/full > maxZoneChunks && full < bpk.MaxChunkPages {
		full *= 2
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

// A frameEncoder compresses frames one after the other and keeps its memory for the next one: about 105 MiB, and the
// longest frame. Not safe for concurrent use.
type frameEncoder struct {
	zstd *zopt.Encoder
	data []byte // of the frame; filtered if that helps
}

func newFrameEncoder(effort zopt.Effort) (*frameEncoder, error) {
	z, err := zopt.NewEncoder(zopt.Options{WindowSize: bpk.MaxWindow, Effort: effort})
	return &frameEncoder{zstd: z}, err
}

// encode compresses the pages of ranges, which make one frame, in chunks of the given pages, and checks that they come
// back. progress is told of every chunk.
func (e *frameEncoder) encode(ctx context.Context, img io.ReaderAt, ranges []bpk.Range, sizes []int, progress func(pages int64)) (zoneFrame, error) {
	e.data = e.data[:0]
	for _, r := range ranges {
		n, end := len(e.data), len(e.data)+int(r.Pages)*bpk.PageSize
		e.data = slices.Grow(e.data, end-n)[:end]
		if err := readImage(img, e.data[n:], r.Page*bpk.PageSize); err != nil {
			return zoneFrame{}, err
		}
	}
	sums := chunkSums(e.data, sizes)
	var f zoneFrame
	plain := quickSize(e.data)
	eachPage(e.data, ranges, bpk.EncodeX86)
	if quickSize(e.data) < plain {
		f.filter = bpk.FilterX86
	} else {
		eachPage(e.data, ranges, bpk.DecodeX86)
	}
	data := e.data
	e.zstd.Reset()
	for i, pages := range sizes {
		if err := context.Cause(ctx); err != nil {
			return zoneFrame{}, err
		}
		src := data[:pages*bpk.PageSize]
		data = data[len(src):]
		stored, err := e.zstd.Chunk(nil, src, i == len(sizes)-1)
		if err != nil {
			return zoneFrame{}, err
		}
		f.chunks = append(f.chunks, zoneChunk{slices.Clip(stored), pages})
		progress(int64(pages))
	}
	return f, checkFrame(f, ranges, sums)
}

// chunkSums returns the SHA-256 of each chunk's pages, as they are in the image.
func chunkSums(data []byte, sizes []int) [][32]byte {
	sums := make([][32]byte, len(sizes))
	for i, pages := range sizes {
		n := pages * bpk.PageSize
		sums[i], data = sha256.Sum256(data[:n]), data[n:]
	}
	return sums
}

// checkFrame decodes a frame as a client does, and compares it with the pages it was made of: the filter and
// the compressor are ours, and a pack is read for years. It takes about 3 ms per MiB.
func checkFrame(f zoneFrame, ranges []bpk.Range, sums [][32]byte) error {
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
		if i >= len(sums) || sha256.Sum256(buf) != sums[i] {
			return fmt.Errorf("BUG: boot chunk %d with image pages %v does not come back as it was", i, x.RangesOf(c))
		}
	}
	if pages := x.Pages(); len(x.Chunks) != len(sums) || len(x.Chunks) == 0 || x.ChunkOf(pages-1) != len(x.Chunks)-1 {
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

// eachPage applies a filter to the pages of ranges in data, or undoes it.
func eachPage(data []byte, ranges []bpk.Range, filter func(page []byte, imageOff int64)) {
	for _, r := range ranges {
		for i := range r.Pages {
			filter(data[:bpk.PageSize], (r.Page+i)*bpk.PageSize)
			data = data[bpk.PageSize:]
		}
	}
}

// quickSize returns the length of data under a quick compression, by which the two forms of a frame are compared.
func quickSize(data []byte) int64 {
	var n byteCounter
	enc, err := zstd.NewWriter(&n, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic("BUG: " + err.Error()) // the options are constants
	}
	_, err = enc.Write(data)
	if err = errors.Join(err, enc.Close()); err != nil {
		panic("BUG: " + err.Error()) // a byteCounter takes everything
	}
	return int64(n)
}

type byteCounter int64

func (c *byteCounter) Write(b []byte) (int, error) {
	*c += byteCounter(len(b))
	return len(b), nil
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

// zoneFrames returns how many frames a zone of that many pages has.
func zoneFrames(pages int, framePages int64) int {
	return int((int64(pages) + framePages - 1) / framePages)
}

// sortInChunks puts the pages of each chunk in image order. All of a chunk comes at once, so the order within it is of no
// use to a client, while neighbours side by side take less room in the index, compress better, and are fewer pieces to hand on.
func sortInChunks(ranges []bpk.Range, framePages int64) []bpk.Range {
	total := 0
	for _, r := range ranges {
		total += int(r.Pages)
	}
	var out, chunk []bpk.Range
	for i, frame := range splitFrames(ranges, framePages) {
		n := 0
		for _, r := range frame {
			n += int(r.Pages)
		}
		for _, size := range chunkSizes(n, total, i == 0) {
			chunk = chunk[:0]
			for size > 0 {
				r := frame[0]
				r.Pages = min(r.Pages, int64(size))
				chunk, size = append(chunk, r), size-int(r.Pages)
				if frame[0].Pages -= r.Pages; frame[0].Pages == 0 {
					frame = frame[1:]
				} else {
					frame[0].Page += r.Pages
				}
			}
			slices.SortStableFunc(chunk, func(a, b bpk.Range) int { return cmp.Compare(a.Page, b.Page) })
			for _, r := range chunk {
				if k := len(out); k > 0 && out[k-1].Page+out[k-1].Pages == r.Page {
					out[k-1].Pages += r.Pages
				} else {
					out = append(out, r)
				}
			}
		}
	}
	return out
}

// encodeZone compresses the boot zone, frames of framePages in parallel. All goroutines have ended when it returns; after
// an error, or if ctx ends, that is when the chunks in work are done. Memory: a frameEncoder per worker, and the
// compressed zone.
func encodeZone(ctx context.Context, img io.ReaderAt, ranges []bpk.Range, framePages int64, level BootLevel, workers int, progress func(pages int64)) ([]zoneFrame, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	frames := splitFrames(ranges, framePages)
	total := 0
	for _, r := range ranges {
		total += int(r.Pages)
	}
	out := make([]zoneFrame, len(frames))
	next := make(chan int)
	var running sync.WaitGroup
	for range min(workers, len(frames)) {
		running.Go(func() {
			var enc *frameEncoder
			var err error
			for i := range next {
				if enc == nil && err == nil {
					enc, err = newFrameEncoder(level.effort(total))
				}
				n := 0
				for _, r := range frames[i] {
					n += int(r.Pages)
				}
				if err == nil {
					out[i], err = enc.encode(ctx, img, frames[i], chunkSizes(n, total, i == 0), progress)
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
feed:
	for i := range frames {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	running.Wait()
	return out, context.Cause(ctx) // the first error in time
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
	plan := planWorkers(runtime.GOMAXPROCS(0), encoderRoom(), int(total), zoneFrames(int(total), framePages), zstd.SpeedFastest)
	frames, err := encodeZone(context.Background(), wholePages{img}, sortInChunks(pages, framePages), framePages, BootAuto, plan.zone, func(int64) {})
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
