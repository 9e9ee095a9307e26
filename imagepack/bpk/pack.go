package bpk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// A Pack is an open pack on local storage. Safe for concurrent use.
type Pack struct {
	Header *Header
	Boot   *BootIndex
	Digest [32]byte // of the header: stands for the whole pack
	r      io.ReaderAt
	body   *Body

	outside outside // reads chunks that lie in other files; nil: see OpenFile
}

// Open reads and checks the header and the boot index of the pack r of size bytes. Of a manifest or a split pack only the
// indexes can be read then: OpenFile opens those with their chunks.
func Open(r io.ReaderAt, size int64) (*Pack, error) {
	b := make([]byte, min(HeaderSize, size))
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	h, err := DecodeHeader(b)
	if err != nil {
		return nil, err
	}
	if h.PackSize != size {
		return nil, corrupt("pack", 0, "%d bytes long instead of %d: cut off while copying?", size, h.PackSize)
	}
	p := &Pack{Header: h, Digest: Digest(b), r: r, body: NewBody(h)}
	raw, err := p.block("boot index", h.BootIndex)
	if err != nil {
		return nil, err
	}
	if err := CheckBlock("boot index", h.BootIndex, raw); err != nil {
		return nil, err
	}
	if p.Boot, err = DecodeBootIndex(h, raw); err != nil {
		return nil, err
	}
	return p, nil
}

// block reads the stored bytes of a block, unchecked.
func (p *Pack) block(what string, b Block) ([]byte, error) {
	out := make([]byte, b.Len)
	if _, err := p.r.ReadAt(out, b.PackOff); err != nil {
		return nil, fmt.Errorf("reading %s at byte %d of the pack: %w", what, b.PackOff, err)
	}
	return out, nil
}

// Stored returns the stored bytes of a chunk, unchecked.
func (p *Pack) Stored(what string, b Block) ([]byte, error) {
	if !p.Header.IsOutside(b) {
		return p.block(what, b)
	}
	if p.outside == nil {
		return nil, fmt.Errorf("BUG: the chunks of this pack lie in other files, and it was opened without them")
	}
	return p.outside.read(what, b)
}

// locate makes the error that a chunk is damaged tell of the file that the chunk lies in.
func (p *Pack) locate(b Block, err error) error {
	var damaged *CorruptError
	if p.Header.IsOutside(b) && p.outside != nil && errors.As(err, &damaged) {
		damaged.File, damaged.FileOff = p.outside.place(b)
	}
	return err
}

// Info returns the JSON that tells how the pack was made, or nil.
func (p *Pack) Info() ([]byte, error) {
	if p.Header.Info.Len == 0 {
		return nil, nil
	}
	b, err := p.block("pack info", p.Header.Info)
	if err != nil {
		return nil, err
	}
	return b, CheckBlock("pack info", p.Header.Info, b)
}

// Chunks calls f for every body chunk in image order, and stops at its first error.
func (p *Pack) Chunks(f func(e Entry) error) error {
	for page := int64(0); p.Header.BodyDepth > 0 && page < p.Header.ImageSize/PageSize; {
		e, err := p.body.Find(page, p.block)
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
		page = e.Page + e.Pages
	}
	return nil
}

// A Part is a run of decoded image bytes.
type Part struct {
	ImageOff int64
	Data     []byte // valid until the callback returns; nil means Len zeros
	Len      int64
}

// Decode decodes the whole pack and calls f for every part of the image: the boot zone in boot order,
// then the body in image order. Each image byte comes once. Every digest of the pack is checked, so a nil
// error means that the pack is whole, save for the digest of the assembled image.
func (p *Pack) Decode(ctx context.Context, f func(Part) error) error {
	if _, err := p.Info(); err != nil {
		return err
	}
	if err := p.decodeBoot(ctx, f); err != nil {
		return err
	}
	dec, err := NewBodyDecoder(1)
	if err != nil {
		return err
	}
	defer dec.Close()
	return p.Chunks(func(e Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		cold := p.Boot.ColdRanges(e.Page, e.Pages)
		data := []byte(nil)
		if e.Codec != CodecZero {
			stored, err := p.Stored("body chunk", e.Block)
			if err != nil {
				return err
			}
			if data, err = dec.Decode(&e, stored, countPages(cold)); err != nil {
				return p.locate(e.Block, err)
			}
		}
		return emit(cold, data, f)
	})
}

func (p *Pack) decodeBoot(ctx context.Context, f func(Part) error) error {
	dec, err := NewBootDecoder()
	if err != nil {
		return err
	}
	defer dec.Close()
	var buf []byte
	for i := range p.Boot.Chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := &p.Boot.Chunks[i]
		stored, err := p.Stored("boot chunk", c.Block)
		if err != nil {
			return err
		}
		if buf, err = dec.Decode(buf[:0], p.Boot, c, stored); err != nil {
			return p.locate(c.Block, err)
		}
		if err := emit(p.Boot.RangesOf(c), buf, f); err != nil {
			return err
		}
	}
	return nil
}

func countPages(rs []Range) (n int64) {
	for _, r := range rs {
		n += r.Pages
	}
	return n
}

// emit hands data, the concatenated pages of rs, to f; nil data stands for zeros.
func emit(rs []Range, data []byte, f func(Part) error) error {
	for _, r := range rs {
		part := Part{ImageOff: r.Page * PageSize, Len: r.Pages * PageSize}
		if data != nil {
			part.Data, data = data[:part.Len], data[part.Len:]
		}
		if err := f(part); err != nil {
			return err
		}
	}
	return nil
}

// Extract writes the image to w, which must read as zeros where nothing is written (a new file of the
// image's size: zeros at its end are not written either), and compares its SHA-256 by reading it back from r,
// which must show what was written to w.
func (p *Pack) Extract(ctx context.Context, w io.WriterAt, r io.ReaderAt) error {
	err := p.Decode(ctx, func(part Part) error {
		if part.Data == nil {
			return nil
		}
		_, err := w.WriteAt(part.Data, part.ImageOff)
		return err
	})
	if err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, &ctxReader{ctx, io.NewSectionReader(r, 0, p.Header.ImageSize)}); err != nil {
		return fmt.Errorf("reading the extracted image: %w", err)
	}
	if [32]byte(sum.Sum(nil)) != p.Header.ImageSHA256 {
		return corrupt("image", 0, "the chunks are whole, but the image they make has another SHA-256")
	}
	return nil
}

// A ctxReader ends when its context does: an image may be 8 TiB of zeros.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
