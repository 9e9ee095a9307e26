package mountclient

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"bootprof/imagepack/bpk"
)

// A remote is a file on the server, and what is preloaded of it.
type remote struct {
	fetch *fetcher
	pre   *preload // nil: nothing
}

// places say where the blocks of a pack lie: in the pack, in the image beside a manifest, or, body chunks of a
// split pack, each in a file of its own. Safe for concurrent use after the image is set.
type places struct {
	head  *bpk.Header
	pack  remote
	image remote // of a manifest
}

// find returns the file that holds a block, and where; own tells that the block is a file of its own.
func (p *places) find(b bpk.Block) (file remote, off int64, own bool) {
	if off, ok := p.head.InImage(b.PackOff); ok {
		return p.image, off, false
	}
	if p.head.IsOutside(b) {
		return remote{fetch: p.pack.fetch.sibling(func(index string) string { return besidePath(index, bpk.ChunkName(b.SHA256)) })}, 0, true
	}
	return p.pack, b.PackOff, false
}

// besidePath returns the path of a file in the folder of the file at path.
func besidePath(file, name string) string {
	dir, _ := path.Split(file)
	return dir + name
}

// fetch returns the bytes of a block, or of several side by side, from the server, unchecked. Of a file that is
// longer than its block one byte more comes. src is whom to ask first, nil for any; who was asked is returned.
func (p *places) fetch(ctx context.Context, b bpk.Block, src *httpSource) ([]byte, *httpSource, error) {
	file, off, own := p.find(b)
	if src == nil {
		src = file.fetch.pick(b.Len, nil)
	}
	var raw []byte
	var err error
	if own {
		raw, err = file.fetch.wholeFrom(ctx, src, b.Len)
	} else {
		raw, err = file.fetch.bytesFrom(ctx, src, off, b.Len)
	}
	return raw, src, err
}

// pick returns whom to ask for a block, or for several side by side.
func (p *places) pick(b bpk.Block) *httpSource {
	file, _, _ := p.find(b)
	return file.fetch.pick(b.Len, nil)
}

// stream is fetch for blocks side by side in one file, whose bytes go to sink as they come, in order.
func (p *places) stream(ctx context.Context, b bpk.Block, src *httpSource, sink func([]byte)) error {
	file, off, _ := p.find(b)
	left := b.Len
	err := file.fetch.streamFrom(ctx, src, off, b.Len, func(more []byte) {
		left -= int64(len(more))
		sink(more)
	})
	if err == nil && left > 0 {
		err = fmt.Errorf("GET %s: the file ends %d bytes early", file.fetch.src.shown, left)
	}
	return err
}

// again fetches a block that was damaged when src gave it: at first from there once more, around all caches, then
// from each mirror in turn. It returns when check finds the bytes whole, when ctx ends, or with the error of check
// when patient says that the fault lasts too long.
func (p *places) again(ctx context.Context, b bpk.Block, src *httpSource, check func([]byte) error, damaged error, patient func(time.Duration) bool) ([]byte, error) {
	file, off, own := p.find(b)
	if own && src != nil {
		src = file.fetch.like(src)
	}
	begun := time.Now()
	if !own && src != nil && len(file.fetch.mirrors) > 0 {
		p.pack.fetch.log.Warn("damaged chunk, fetching it again", "from", p.where(b), "error", damaged)
		raw, _, err := file.fetch.either(ctx, src, off, b.Len, check)
		if err == nil && raw != nil {
			return raw, nil
		}
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, maxRetryWait) {
		if !patient(time.Since(begun)) {
			return nil, p.explain(b, damaged)
		}
		p.pack.fetch.last.note(damaged)
		p.pack.fetch.log.Warn("damaged chunk, fetching it again", "from", p.where(b), "error", damaged)
		var raw []byte
		var err error
		if own {
			raw, err = file.fetch.wholeFrom(fresh(ctx), src, b.Len)
		} else {
			raw, err = file.fetch.bytesFrom(fresh(ctx), src, off, b.Len)
		}
		if err != nil {
			return nil, err
		}
		if damaged = check(raw); damaged == nil {
			return raw, nil
		}
		p.pack.fetch.src.count.corrupt.Add(1)
		if src == nil {
			src = file.fetch.src
		}
		file.fetch.suspect(src)
		next := file.fetch.after(src)
		if turn := slices.Index(file.fetch.mirrors, next); next != src && turn > 0 {
			src = next
			continue // all have been asked when it is the first one's turn
		}
		src = next
		if !sleep(ctx, wait) {
			return nil, context.Cause(ctx)
		}
	}
}

// wait waits for the preload to bring a block.
func (p *places) wait(ctx context.Context, b bpk.Block) error {
	file, off, _ := p.find(b)
	return file.pre.wait(ctx, off, b.Len)
}

// read returns the preloaded bytes of a block.
func (p *places) read(b bpk.Block) ([]byte, error) {
	file, off, _ := p.find(b)
	return file.pre.read(off, b.Len)
}

// source returns who gave the preloaded bytes of a block.
func (p *places) source(b bpk.Block) *httpSource {
	file, off, _ := p.find(b)
	return file.pre.source(off)
}

// replace puts other bytes in the place of those preloaded of a block.
func (p *places) replace(b bpk.Block, raw []byte) error {
	file, off, _ := p.find(b)
	return file.pre.replace(off, raw)
}

// inImage tells whether a block lies in the image beside a manifest.
func (p *places) inImage(b bpk.Block) bool {
	_, ok := p.head.InImage(b.PackOff)
	return ok && b.Len > 0
}

// early returns a block if the preload has brought it, whole; else nil. It does not wait, since a miss early in the
// boot would wait for the whole boot zone.
func (p *places) early(b bpk.Block) []byte {
	file, off, own := p.find(b)
	if own || file.pre == nil || !file.pre.has(off, b.Len) {
		return nil
	}
	raw, err := file.pre.read(off, b.Len)
	if err != nil || bpk.CheckBlock("", b, raw) != nil {
		return nil
	}
	return raw
}

// where names the place of a block for people.
func (p *places) where(b bpk.Block) string {
	file, off, _ := p.find(b)
	return fmt.Sprintf("%s[%d+%d)", file.fetch.src.shown, off, b.Len)
}

// explain makes the error that a block stays damaged tell of the file that it lies in.
func (p *places) explain(b bpk.Block, err error) error {
	file, off, own := p.find(b)
	var damaged *bpk.CorruptError
	switch {
	case !errors.As(err, &damaged) || file.fetch == p.pack.fetch:
		return err
	case own:
		return fmt.Errorf("%s: %w", file.fetch.src.shown, err)
	}
	return &ImageError{URL: file.fetch.src.shown, Why: fmt.Sprintf("%s, bytes [%d +%d), has another digest", damaged.What, off, b.Len), Err: err}
}

// preloadBoot makes the preload bring the boot zone, and behind it the root of the body index: the first miss then
// needs one round trip less.
func (p *places) preloadBoot(index *bpk.BootIndex, start func(opening []span) (*preload, error)) (err error) {
	end := p.head.Boot.PackOff + p.head.Boot.Len
	if root := p.head.BodyRoot; root.PackOff == end {
		end += root.Len
	}
	p.pack.pre.need(span{0, end})
	if !index.Plain || len(index.Chunks) == 0 {
		return nil
	}
	var pieces []span
	for i := range index.Chunks {
		off, _ := p.head.InImage(index.Chunks[i].PackOff)
		pieces = append(pieces, span{off, off + index.Chunks[i].Len})
	}
	runs := planRuns(pieces)
	if p.image.pre == nil {
		var opening []span
		opening, runs = cutOpening(runs)
		if p.image.pre, err = start(opening); err != nil {
			return err
		}
	}
	p.image.pre.need(runs...)
	return nil
}
