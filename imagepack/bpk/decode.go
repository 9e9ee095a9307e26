package bpk

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// A BootDecoder turns the stored bytes of boot chunks into pages. Chunks of one frame must be handed to it
// in order, without a gap; a chunk that starts a frame may come at any time. It keeps up to MaxWindow bytes
// of history. Not safe for concurrent use; Close frees it.
type BootDecoder struct {
	dec  *zstd.Decoder
	feed chunkFeed
	next int // position in boot order of the page that the open frame continues with; -1: none
}

// NewBootDecoder returns a decoder that no chunk was handed to yet.
func NewBootDecoder() (*BootDecoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderMaxMemory(MaxFramePages*PageSize))
	if err != nil {
		return nil, err
	}
	return &BootDecoder{dec: dec, next: -1}, nil
}

// Close frees the decoder.
func (d *BootDecoder) Close() { d.dec.Close() }

// Decode appends the pages of chunk c, in boot order, to dst. stored are its bytes in the pack; they are
// checked against the chunk's digest first. After an error the frame must be started anew, unless only the
// digest was wrong: then the chunk may be handed over again.
func (d *BootDecoder) Decode(dst []byte, x *BootIndex, c *BootChunk, stored []byte) ([]byte, error) {
	what := fmt.Sprintf("boot chunk of pages %d to %d", c.First, c.First+c.Pages-1)
	if err := CheckBlock(what, c.Block, stored); err != nil {
		return dst, err
	}
	if x.Plain {
		return append(dst, stored...), nil
	}
	d.feed.b = stored
	if c.frame1st {
		if err := d.dec.Reset(&d.feed); err != nil {
			return dst, err
		}
	} else if d.next != c.First {
		return dst, fmt.Errorf("BUG: %s decoded after page %d", what, d.next)
	}
	d.next = -1
	base := len(dst)
	dst = append(dst, make([]byte, c.Pages*PageSize)...)
	if _, err := io.ReadFull(d.dec, dst[base:]); err != nil {
		return dst[:base], corrupt(what, c.PackOff, "%v", err)
	}
	if c.Filter == FilterX86 {
		p := dst[base:]
		for _, r := range x.RangesOf(c) {
			for i := range r.Pages {
				DecodeX86(p[:PageSize], (r.Page+i)*PageSize)
				p = p[PageSize:]
			}
		}
	} else if c.Filter != FilterNone {
		return dst[:base], corrupt(what, c.PackOff, "unknown filter %d", c.Filter)
	}
	d.next = c.First + c.Pages
	return dst, nil
}

// chunkFeed hands the current chunk's bytes to the zstd reader. It has no end of its own: a frame that asks
// for more than its chunk holds is damaged.
type chunkFeed struct{ b []byte }

var errChunkEnd = errors.New("compressed data ends early")

func (f *chunkFeed) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, errChunkEnd
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

// A BodyDecoder turns the stored bytes of body chunks into pages. Safe for concurrent use.
type BodyDecoder struct{ dec *zstd.Decoder }

// NewBodyDecoder returns a decoder that runs at most n decodes at a time.
func NewBodyDecoder(n int) (*BodyDecoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(n), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxChunkPages*PageSize), zstd.WithDecoderMaxWindow(MaxChunkPages*PageSize))
	if err != nil {
		return nil, err
	}
	return &BodyDecoder{dec}, nil
}

// Close frees the decoder.
func (d *BodyDecoder) Close() { d.dec.Close() }

// Decode returns the bytes of a body chunk: its cold pages (BootIndex.ColdRanges) in image order. stored
// are its bytes in the pack, checked against its digest first. The result may be stored itself. A chunk of
// CodecZero stands for zeros and has nothing to decode: it must not be handed over.
func (d *BodyDecoder) Decode(e *Entry, stored []byte, coldPages int64) ([]byte, error) {
	what := fmt.Sprintf("body chunk of pages %d to %d", e.Page, e.Page+e.Pages-1)
	if err := CheckBlock(what, e.Block, stored); err != nil {
		return nil, err
	}
	out := stored
	if e.Codec == CodecZstd {
		var err error
		if out, err = d.dec.DecodeAll(stored, make([]byte, 0, coldPages*PageSize)); err != nil {
			return nil, corrupt(what, e.PackOff, "%v", err)
		}
	}
	if int64(len(out)) != coldPages*PageSize {
		return nil, corrupt(what, e.PackOff, "%d bytes for %d pages", len(out), coldPages)
	}
	return out, nil
}
