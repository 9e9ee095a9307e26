package imagepack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/internal/atomicfile"
	"bootprof/profiles"
)

// WriteOptions say how a pack is written. The zero value writes a pack without a boot zone.
type WriteOptions struct {
	Boot        []profiles.Range                  // what a boot touches, in boot order; empty: everything is body
	BodyLevel   zstd.EncoderLevel                 // 0: SpeedBestCompression, in ratio and speed near zstd -15
	BootLevel   BootLevel                         // of the boot zone
	Workers     int                               // goroutines that compress the body, and others that compress the boot zone; 0: one per CPU, as far as 512 MB of memory reach
	Info        func(bootPages int64) []byte      // JSON kept in the pack for `bootprof inspect`; must not depend on the clock; nil: none
	ImageSHA256 [32]byte                          // of the image, if the caller knows it: another one is an error; zero: not known
	Progress    func(doneBytes, totalBytes int64) // called from one goroutine at a time; may be nil
	Sign        Signer                            // makes path.minisig, which Write replaces with the pack; nil: none

	frame int64 // pages of a boot frame; 0: framePages. Tests make small frames
}

// GoodHead is the largest Stats.Head, in bytes, that costs a boot hardly more than a round trip.
const GoodHead = 64 << 10

// Stats tell what was written, in bytes.
type Stats struct {
	ImageSize, PackSize int64
	BootPages           int64
	BootZone, BootIndex int64 // stored
	Head                int64 // header, boot index and root of the body index: a client needs them before the first boot byte
	Body, BodyIndex     int64 // stored
	BodyChunks, Shared  int64 // chunks of the body; those that repeat an earlier one
	Digest              [32]byte
}

// Write writes the pack of img to path. The file appears under its name when it is whole, replacing an
// older one; after an error or a kill at any moment, nothing new is there.
func Write(ctx context.Context, path string, img Image, opts WriteOptions) (*Stats, error) {
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := WriteTo(ctx, f, img, opts)
	if err != nil {
		return nil, err
	}
	return st, commit(opts.Sign, st.Digest, f, path, st.PackSize)
}

// WriteTo writes the pack of img to f, which is empty. After an error f holds nothing of use.
func WriteTo(ctx context.Context, f io.WriterAt, img Image, opts WriteOptions) (*Stats, error) {
	if err := checkSize(img); err != nil {
		return nil, err
	}
	if opts.frame == 0 {
		opts.frame = framePages
	}
	if opts.BodyLevel == 0 {
		opts.BodyLevel = zstd.SpeedBestCompression
	}
	w := &packWriter{img: img, opts: opts, f: f}
	if err := w.write(ctx); err != nil {
		return nil, err
	}
	return &w.stats, nil
}

func checkSize(img Image) error {
	if s := img.Size(); s%bpk.PageSize != 0 || s > bpk.MaxImageSize {
		return fmt.Errorf("image of %d bytes: a pack holds whole pages of %d bytes, %d bytes at most", s, bpk.PageSize, int64(bpk.MaxImageSize))
	}
	return nil
}

// packWriter writes the parts of a pack in the order in which they lie in the file:
// header, boot index, boot zone, root of the body index, body chunks, other nodes of the body index, info.
type packWriter struct {
	img   Image
	opts  WriteOptions
	f     io.WriterAt
	head  bpk.Header
	stats Stats
	plan  workers

	bodyStart int64 // packOff; set by writeZone

	mu   sync.Mutex // guards done and the calls of opts.Progress
	done int64      // image bytes packed
}

func (w *packWriter) progress(bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += bytes
	if w.opts.Progress != nil {
		w.opts.Progress(w.done, w.img.Size())
	}
}

// write compresses boot zone and body at the same time: a zone of few frames does not keep all processors
// busy.
func (w *packWriter) write(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	ranges := sortInChunks(pageRanges(w.img.Size(), w.opts.Boot), w.opts.frame)
	pages := bpk.NewBootIndex(ranges)
	plan := planBody(w.img.Size(), w.img.Segments(), pages)
	if n, frames := w.opts.Workers, zoneFrames(pages.Pages(), w.opts.frame); n > 0 {
		w.plan = workers{zone: min(n, frames), early: n, body: n}
	} else {
		w.plan = planWorkers(runtime.GOMAXPROCS(0), encoderRoom(), pages.Pages(), frames, w.opts.BodyLevel)
	}

	placed := make(chan struct{})
	zoneEnded := make(chan struct{})
	var zoneErr error
	go func() {
		defer close(zoneEnded)
		if zoneErr = w.writeZone(ctx, ranges, len(plan)); zoneErr != nil {
			cancel(zoneErr)
			return
		}
		close(placed)
	}()
	defer func() {
		cancel(nil)
		<-zoneEnded
	}()
	body := &bodyFile{ctx: ctx, placed: placed, start: &w.bodyStart, out: w.f}
	defer body.close()
	if err := w.writeBody(ctx, body, pages, plan); err != nil {
		cancel(err)
		return context.Cause(ctx) // the first error in time: the zone's, if it ended the body
	}
	return w.putHeader()
}

// putHeader writes the header, which is complete.
func (w *packWriter) putHeader() error {
	head := w.head.Encode()
	if _, err := bpk.DecodeHeader(head); err != nil {
		return fmt.Errorf("BUG: the pack's own header is refused: %w", err)
	}
	w.stats.Digest = bpk.Digest(head)
	return w.put(0, head)
}

// writeZone compresses and writes the boot zone and the boot index, and finds the place of the body, which has
// the given number of chunks.
func (w *packWriter) writeZone(ctx context.Context, ranges []bpk.Range, chunks int) error {
	frames, err := encodeZone(ctx, w.img, ranges, w.opts.frame, w.opts.BootLevel, w.plan.zone, func(pages int64) { w.progress(pages * bpk.PageSize) })
	if err != nil {
		return err
	}
	boot, zoneLen := indexZone(ranges, frames, 0) // its pack offsets are not used and not stored
	index, err := boot.Encode()
	if err != nil {
		return err
	}
	w.layoutHead(index, boot.Pages(), zoneLen, bpk.RootLen(chunks))
	if err := w.put(w.head.BootIndex.PackOff, index); err != nil {
		return err
	}
	out := &offsetWriter{w: w.f, off: w.head.Boot.PackOff}
	for _, f := range frames {
		for _, c := range f.chunks {
			if _, err := out.Write(c.stored); err != nil {
				return err
			}
		}
	}
	w.bodyStart = w.head.BodyRoot.PackOff + w.head.BodyRoot.Len // the root is written when it is known
	return nil
}

// layoutHead fills the header with all that lies before the body.
func (w *packWriter) layoutHead(index []byte, bootPages int, zoneLen, rootLen int64) {
	h := &w.head
	h.Major, h.Minor = bpk.Major, bpk.Minor
	h.ImageSize, h.Filesystem = w.img.Size(), w.img.Filesystem()
	h.BootPages = int64(bootPages)
	h.BootIndex = bpk.Block{PackOff: bpk.HeaderSize, Len: int64(len(index)), SHA256: sha256.Sum256(index)}
	h.Boot = bpk.Block{PackOff: h.BootIndex.PackOff + h.BootIndex.Len, Len: zoneLen}
	h.BodyRoot = bpk.Block{PackOff: h.Boot.PackOff + zoneLen, Len: rootLen}
	w.stats.BootPages, w.stats.BootZone, w.stats.BootIndex = h.BootPages, zoneLen, h.BootIndex.Len
	w.stats.Head = bpk.HeaderSize + h.BootIndex.Len + rootLen
}

// writeBody writes the body's chunks and index, and completes the header.
func (w *packWriter) writeBody(ctx context.Context, body *bodyFile, boot *bpk.BootIndex, plan []bpk.Range) error {
	entries, sum, err := w.packBody(ctx, boot, plan, body.placed, body.add)
	if err != nil {
		return err
	}
	if err := body.place(); err != nil {
		return err
	}
	for i := range entries {
		if entries[i].Codec != bpk.CodecZero {
			entries[i].PackOff += w.bodyStart
		}
	}
	store := func(b []byte) (int64, error) {
		at, err := body.add(b)
		return w.bodyStart + at, err
	}
	w.stats.Body = body.len
	root, depth, err := bpk.BuildTree(entries, store)
	if err != nil {
		return err
	}
	h := &w.head
	rootLen := h.BodyRoot.Len
	if int64(len(root)) != rootLen {
		panic(fmt.Sprintf("BUG: body root of %d bytes, planned %d", len(root), rootLen))
	}
	h.BodyRoot.SHA256, h.BodyDepth, h.ImageSHA256 = sha256.Sum256(root), depth, sum
	w.stats.BodyIndex = body.len - w.stats.Body + rootLen
	if w.opts.Info != nil {
		info := w.opts.Info(h.BootPages)
		if len(info) > bpk.MaxIndexLen {
			return fmt.Errorf("info of %d bytes: a pack holds %d at most", len(info), bpk.MaxIndexLen)
		}
		at, err := store(info)
		if err != nil {
			return err
		}
		h.Info = bpk.Block{PackOff: at, Len: int64(len(info)), SHA256: sha256.Sum256(info)}
	}
	if err := body.buf.Flush(); err != nil {
		return err
	}
	h.PackSize = w.bodyStart + body.len
	w.stats.ImageSize, w.stats.PackSize = h.ImageSize, h.PackSize
	return w.put(h.BodyRoot.PackOff, root)
}

func (w *packWriter) put(packOff int64, b []byte) error {
	_, err := w.f.WriteAt(b, packOff)
	return err
}

// offsetWriter writes one piece after the other to an io.WriterAt.
type offsetWriter struct {
	w   io.WriterAt
	off int64
}

func (o *offsetWriter) Write(b []byte) (int, error) {
	n, err := o.w.WriteAt(b, o.off)
	o.off += int64(n)
	return n, err
}
