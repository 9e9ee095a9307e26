package relayout

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sort"

	"bootprof/imagepack/squashfs"
)

// A contentWriter writes the content of the files of a tree. One goroutine reads; a blockWriter does the rest.
type contentWriter struct {
	ctx    context.Context
	opts   *Options
	bs     int64
	enc    encoder
	pack   bool // blocks are aligned, and all tails are in fragment blocks; else only files shorter than a block are
	layout *Layout
	heat   *heat

	w         *blockWriter
	fragments []*squashfs.RawFragment // set by the blockWriter
	open      [2]openFragment         // of touched tails, of others

	sizes map[int64]int                     // files of a size
	begun map[contentKey]bool               // first blocks of files whose size is not unique
	whole map[contentKey]*squashfs.RawInode // files that are stored, of those
	same  []duplicate

	done, total int64 // bytes for Progress; done is used by the blockWriter's goroutine
}

// A contentKey is the size of a file and the digest of its blocks that are not zero, or of the first block.
type contentKey struct {
	size int64
	sum  [sha256.Size]byte
}

type duplicate struct{ of, raw *squashfs.RawInode }

// An openFragment is a fragment block with room for more tails.
type openFragment struct {
	data  *[]byte
	len   int64
	index int
}

// A touchedFile is a file with what a boot touches of it.
type touchedFile struct {
	*file
	class, first int
	blocks       map[int64]bool // touched
}

func (c *contentWriter) write(out *seqWriter, files []*file) (err error) {
	c.sizes, c.begun, c.whole = map[int64]int{}, map[contentKey]bool{}, map[contentKey]*squashfs.RawInode{}
	for _, f := range files {
		c.sizes[f.node.Size]++
		c.total += f.node.Size
	}
	c.w = newBlockWriter(c.ctx, out, c.opts.workers())
	if c.pack {
		c.w.align = pad
	}
	defer func() {
		if werr := c.w.close(); err == nil {
			err = werr
		}
		for _, d := range c.same {
			r := d.raw
			r.Start, r.Blocks, r.Sparse, r.Fragment, r.FragOff = d.of.Start, d.of.Blocks, d.of.Sparse, d.of.Fragment, d.of.FragOff
		}
		c.layout.Duplicates = len(c.same)
	}()
	start := out.off
	ends := [coldItem]*int64{new(int64), new(int64)}
	class := hotItem
	next := func(to int) error {
		for ; class < to; class++ {
			if err := c.flushFragment(&c.open[0]); err != nil {
				return err
			}
			end := ends[class]
			if err := c.w.call(func(off int64) { *end = off }); err != nil {
				return err
			}
		}
		return nil
	}
	for _, f := range c.order(files) {
		if err := next(f.class); err != nil {
			return err
		}
		if err := c.file(f); err != nil {
			if cause := context.Cause(c.w.ctx); cause != nil {
				return cause // not the file's fault
			}
			return fmt.Errorf("%q: %w", f.path, err)
		}
	}
	if err := next(coldItem); err != nil {
		return err
	}
	for i := range c.open {
		if err := c.flushFragment(&c.open[i]); err != nil {
			return err
		}
	}
	return c.w.call(func(int64) {
		c.layout.HotEnd = *ends[hotItem]
		c.layout.HotBytes = *ends[hotItem] - start
		c.layout.LargeBytes = *ends[largeItem] - *ends[hotItem]
	})
}

// order returns the files in the order of the new image.
func (c *contentWriter) order(files []*file) []*touchedFile {
	of := make(map[*squashfs.RawInode]*touchedFile, len(files))
	out := make([]*touchedFile, 0, len(files))
	for _, f := range files {
		t := &touchedFile{file: f, class: coldItem, first: never}
		of[f.raw] = t
		out = append(out, t)
	}
	for i, t := range c.opts.Order {
		n := c.heat.touch(t.Path, i)
		if n == nil {
			c.layout.UnknownTouches++
			continue
		}
		f := of[n]
		if f == nil {
			continue
		}
		for b, end := touchedBlocks(&t, n.Size, c.bs); b < end; b++ {
			if f.blocks == nil {
				f.blocks, f.first, f.class = map[int64]bool{}, i, hotItem
			}
			f.blocks[b] = true
		}
	}
	for _, f := range out {
		if f.class == hotItem && f.node.Size > largeRun && int64(len(f.blocks))*c.bs < f.node.Size/largeTouched {
			f.class = largeItem
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		if out[i].class != out[j].class {
			return out[i].class < out[j].class
		}
		return out[i].first < out[j].first
	})
	return out
}

// file writes the content of one file, or finds the file it is equal to.
func (c *contentWriter) file(f *touchedFile) error {
	r := &blockReader{n: f.node, bs: c.bs}
	defer r.close()
	count := (f.node.Size + c.bs - 1) / c.bs
	hash := c.sizes[f.node.Size] > 1
	if hash && count > 1 {
		// Only a file that begins like another of its length is read twice.
		first := contentKey{f.node.Size, sha256.Sum256(nil)}
		b := c.w.buffer(int(c.bs))
		data, err := r.read(0, b)
		if err != nil {
			return err
		}
		if data {
			first.sum = sha256.Sum256(*b)
		}
		c.w.pool.Put(b)
		if c.begun[first] {
			sum, err := c.digest(r, count)
			if err != nil {
				return err
			}
			if of := c.whole[contentKey{f.node.Size, sum}]; of != nil {
				return c.share(f, of)
			}
		}
		c.begun[first] = true
	}

	raw, sum := f.raw, newContentHash()
	blocks := make([]uint32, count) // set by the blockWriter
	raw.Blocks = blocks
	stored, holes := false, int64(0)
	for i := range count {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		length := min(c.bs, f.node.Size-i*c.bs)
		b := c.w.buffer(int(length))
		data, err := r.read(i, b)
		if err != nil {
			return err
		}
		if !data {
			c.w.pool.Put(b)
			holes += length
			continue
		}
		if hash {
			sum.add(i, *b)
			if key := (contentKey{f.node.Size, sum.sum()}); count == 1 && c.whole[key] != nil {
				c.w.pool.Put(b)
				raw.Blocks = nil
				return c.share(f, c.whole[key])
			}
		}
		if length < c.bs && (c.pack || count == 1) {
			raw.Blocks = blocks[:i]
			hot := f.class != coldItem && f.blocks[i]
			if err := c.tail(raw, *b, hot); err != nil {
				return err
			}
			c.w.pool.Put(b)
			continue
		}
		first := !stored
		stored = true
		err = c.w.add(b, c.enc, func(off int64, word uint32) {
			if first {
				raw.Start = off
			}
			blocks[i] = word
			c.progress(length)
		})
		if err != nil {
			return err
		}
	}
	if hash {
		c.whole[contentKey{f.node.Size, sum.sum()}] = raw
	}
	if holes == 0 {
		return nil
	}
	// A file without any block in use is taken for one with its content inline by some tools.
	raw.Sparse = min(holes, f.node.Size-1)
	return c.w.call(func(int64) { c.progress(holes) })
}

// share notes that f has the content of another file.
func (c *contentWriter) share(f *touchedFile, of *squashfs.RawInode) error {
	c.same = append(c.same, duplicate{of: of, raw: f.raw})
	return c.w.call(func(int64) { c.progress(f.node.Size) })
}

func (c *contentWriter) progress(n int64) {
	c.done += n
	if c.opts.Progress != nil {
		c.opts.Progress(c.done, c.total)
	}
}

// tail puts the end of a file into a fragment block.
func (c *contentWriter) tail(raw *squashfs.RawInode, data []byte, hot bool) error {
	o := &c.open[1]
	if hot {
		o = &c.open[0]
	}
	if o.data != nil && o.len+int64(len(data)) > c.bs {
		if err := c.flushFragment(o); err != nil {
			return err
		}
	}
	if o.data == nil {
		o.data, o.len, o.index = c.w.buffer(int(c.bs)), 0, len(c.fragments)
		c.fragments = append(c.fragments, &squashfs.RawFragment{})
	}
	raw.Fragment, raw.FragOff = uint32(o.index), uint32(o.len)
	copy((*o.data)[o.len:], data)
	o.len += int64(len(data))
	return nil
}

func (c *contentWriter) flushFragment(o *openFragment) error {
	if o.data == nil {
		return nil
	}
	data, n := o.data, o.len
	o.data = nil
	length := n
	if c.pack { // whole pages
		length = (n + pad - 1) &^ (pad - 1)
		clear((*data)[n:length])
	}
	*data = (*data)[:length]
	f := c.fragments[o.index]
	return c.w.add(data, c.enc, func(off int64, word uint32) {
		*f = squashfs.RawFragment{ImageOff: off, Size: word}
		c.progress(n)
	})
}

// digest reads a file for its contentKey.
func (c *contentWriter) digest(r *blockReader, count int64) (out [sha256.Size]byte, err error) {
	h := newContentHash()
	b := c.w.buffer(int(c.bs))
	defer c.w.pool.Put(b)
	for i := range count {
		if err := c.ctx.Err(); err != nil {
			return out, context.Cause(c.ctx)
		}
		part := (*b)[:min(c.bs, r.n.Size-i*c.bs)]
		data, err := r.read(i, &part)
		if err != nil {
			return out, err
		}
		if data {
			h.add(i, part)
		}
	}
	return h.sum(), nil
}
