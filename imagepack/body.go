package imagepack

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/zopt"
)

var errChanged = errors.New("the input changed while it was packed: its SHA-256 was another one before")

// packBody reads the image once, in order, compresses the chunks of the plan in parallel, and hands their
// stored bytes to write in order. It returns the chunks' index entries and the SHA-256 of the image.
//
// Goroutines: one reads and hashes, w.plan.early compress, and w.plan.body once zoneDone is closed, the caller's writes.
// Memory is bounded by the jobs in flight: four chunks of at most 1 MiB, twice, per worker.
func (w *packWriter) packBody(ctx context.Context, boot *bpk.BootIndex, plan []bpk.Range, zoneDone <-chan struct{}, write func([]byte) (int64, error)) ([]bpk.Entry, [32]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait() // nobody reads the image or encodes after the return
	}()
	type job struct {
		data   []byte // the chunk's cold pages
		stored []byte
		codec  byte
		sum    [32]byte
		err    error
		ready  chan struct{}
	}
	order := make(chan *job, 4*w.plan.body)
	work := make(chan *job, 4*w.plan.body)
	image := sha256.New()
	running.Go(func() {
		defer close(order)
		defer close(work)
		for _, r := range plan {
			if ctx.Err() != nil {
				return
			}
			j := &job{ready: make(chan struct{})}
			j.data, j.err = readChunk(w.img, r, boot, image)
			select {
			case order <- j:
			case <-ctx.Done():
				return
			}
			if j.err != nil {
				close(j.ready)
				return
			}
			work <- j // the workers empty it until it is closed
		}
	})
	compress := func() {
		enc, err := newChunkEncoder(w.opts.BodyLevel)
		for j := range work {
			if j.err = err; err == nil {
				j.stored, j.codec = encodeChunk(enc, j.data)
				j.sum = sha256.Sum256(j.stored)
			}
			close(j.ready)
		}
	}
	for range w.plan.early {
		running.Go(compress)
	}
	running.Go(func() {
		select {
		case <-zoneDone: // and its encoders' memory is free
			for range w.plan.body - w.plan.early {
				running.Go(compress)
			}
		case <-ctx.Done():
		}
	})
	entries := make([]bpk.Entry, 0, len(plan))
	stored := make(map[[32]byte]int64) // packOff by digest: equal content is kept once
	for j := range order {
		<-j.ready
		if j.err != nil {
			return nil, [32]byte{}, j.err
		}
		r := plan[len(entries)] // chunks come in the order of the plan
		e := bpk.Entry{Page: r.Page, Pages: r.Pages, Codec: j.codec}
		e.Len = int64(len(j.stored))
		if j.codec != bpk.CodecZero {
			e.SHA256 = j.sum
			off, shared := stored[e.SHA256]
			if shared {
				w.stats.Shared++
			} else {
				var err error
				if off, err = write(j.stored); err != nil {
					return nil, [32]byte{}, err
				}
				stored[e.SHA256] = off
			}
			e.PackOff = off
		}
		entries = append(entries, e)
		w.progress(int64(len(j.data)))
	}
	w.stats.BodyChunks = int64(len(entries))
	if err := ctx.Err(); err != nil {
		return nil, [32]byte{}, err
	}
	sum := [32]byte(image.Sum(nil))
	if known := w.opts.ImageSHA256; known != [32]byte{} && known != sum {
		return nil, [32]byte{}, errChanged
	}
	return entries, sum, nil
}

// BodyMax is a level beyond the library's best: the boot zone's own compressor, at a quarter of the speed.
const BodyMax zstd.EncoderLevel = 100

// A chunkEncoder makes one zstd frame of a chunk. Not safe for concurrent use.
type chunkEncoder func(data []byte) []byte

func newChunkEncoder(level zstd.EncoderLevel) (chunkEncoder, error) {
	const window = bpk.MaxChunkPages * bpk.PageSize
	if level != BodyMax {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(window))
		return func(data []byte) []byte { return enc.EncodeAll(data, make([]byte, 0, len(data)/2)) }, err
	}
	enc, err := zopt.NewEncoder(zopt.Options{WindowSize: window, Effort: zopt.Good})
	return func(data []byte) []byte {
		enc.Reset()
		z, err := enc.Chunk(nil, data, true)
		if err != nil {
			panic("BUG: " + err.Error()) // there is none for a whole frame
		}
		return z
	}, err
}

// readChunk reads the image range r, adds it to the image's hash, and returns its cold pages.
func readChunk(img io.ReaderAt, r bpk.Range, boot *bpk.BootIndex, image io.Writer) ([]byte, error) {
	b := make([]byte, r.Pages*bpk.PageSize)
	if err := readImage(img, b, r.Page*bpk.PageSize); err != nil {
		return nil, err
	}
	image.Write(b)
	cold := boot.ColdRanges(r.Page, r.Pages)
	if len(cold) == 1 && cold[0] == r {
		return b, nil
	}
	out := b[:0]
	for _, c := range cold {
		p := (c.Page - r.Page) * bpk.PageSize
		out = append(out, b[p:p+c.Pages*bpk.PageSize]...)
	}
	return out, nil
}

// encodeChunk returns the stored form of a chunk: nothing for zeros, and the plain bytes where compression
// gains less than 3 %.
func encodeChunk(enc chunkEncoder, data []byte) ([]byte, byte) {
	if allZero(data) {
		return nil, bpk.CodecZero
	}
	z := enc(data)
	if len(z) > len(data)-len(data)/32 {
		return data, bpk.CodecRaw
	}
	return z, bpk.CodecZstd
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
