package relayout

import (
	"context"
	"sort"

	"bootprof/imagepack/squashfs"
)

// Relayout writes the image src anew, in the order of opts. dst must be empty; after an error it holds nothing of
// use. What src contradicts itself in is a *squashfs.CorruptError.
func Relayout(ctx context.Context, src *squashfs.Reader, dst File, opts Options) (*Layout, error) {
	raw, err := src.Raw()
	if err != nil {
		return nil, err
	}
	r := &relayouter{ctx: ctx, src: src, raw: raw, opts: &opts, heat: newHeat(raw.Root), layout: &Layout{Inodes: len(raw.Inodes)}}
	if r.frags, r.tailOf, err = findTails(raw); err != nil {
		return nil, err
	}
	r.touchTails()
	r.findRuns()
	r.touchRuns()
	r.plan()

	m := &image{
		root: raw.Root, count: raw.InodeCount, owners: raw.IDs, compressor: raw.Compressor, blockSize: raw.BlockSize,
		flags: raw.Flags, mkfsTime: raw.MkfsTime, options: raw.CompOptions, exportable: raw.Exportable,
	}
	if raw.XattrCount > 0 {
		m.xattrs = r.moveXattrs
	}
	// Who boots waits for the touched tails, which are few; the other ones have to be done with.
	enc, err := newEncoder(raw.Compressor, raw.CompOptions, int(raw.BlockSize), min(opts.workers(), 2), false)
	if err != nil {
		return nil, err
	}
	fast, err := newEncoder(raw.Compressor, raw.CompOptions, int(raw.BlockSize), opts.workers(), true)
	if err != nil {
		return nil, err
	}
	out := newSeqWriter(dst, m.contentOff())
	if err := r.writeContent(out, enc, fast); err != nil {
		return nil, err
	}
	m.fragments = r.place()
	m.inodes = r.heat.inodeOrder(raw.Inodes)
	used, size, err := m.writeTables(dst, out, enc)
	if err != nil {
		return nil, err
	}
	r.layout.Size = size
	return r.layout, r.layout.finish(ctx, dst, used)
}

type relayouter struct {
	ctx    context.Context
	src    *squashfs.Reader
	raw    *squashfs.Raw
	opts   *Options
	heat   *heat
	layout *Layout

	touched []*squashfs.RawInode // inode of each touch, or nil
	frags   []*sourceFragment    // by position
	tailOf  map[*squashfs.RawInode]*tail
	runs    []*run // by position, disjoint
	items   []item
}

// An item is a run or a new fragment block, in the order of the new image.
type item struct {
	class int // hotItem to coldItem
	first int
	off   int64 // in the source
	run   *run
	build *build
}

const (
	hotItem   = iota
	largeItem // a large run of which little is touched
	coldItem
)

// touchTails resolves the touches' paths and notes which tails are touched.
func (r *relayouter) touchTails() {
	r.touched = make([]*squashfs.RawInode, len(r.opts.Order))
	for i, t := range r.opts.Order {
		n := r.heat.touch(t.Path, i)
		if n == nil {
			r.layout.UnknownTouches++
			continue
		}
		r.touched[i] = n
		if tl := r.tailOf[n]; tl != nil {
			if _, end := touchedBlocks(&t, n.Size, r.raw.BlockSize); end > n.Size/r.raw.BlockSize {
				tl.first = min(tl.first, i)
			}
		}
	}
	for _, f := range r.frags {
		for _, t := range f.tails {
			if t.first < never {
				f.hot++
			} else {
				f.cold++
			}
		}
	}
}

// plan puts all that is written in order.
func (r *relayouter) plan() {
	for _, u := range r.runs {
		class := hotItem
		switch {
		case u.first == never:
			class = coldItem
		case u.len > largeRun && u.touched < u.len/largeTouched:
			class = largeItem
		}
		r.items = append(r.items, item{class: class, first: u.first, off: u.off, run: u})
	}
	hot, cold := planBuilds(r.frags, r.raw.BlockSize)
	for _, b := range hot {
		r.items = append(r.items, item{class: hotItem, first: b.tails[0].first, off: r.frags[b.tails[0].frag].ImageOff, build: b})
	}
	for _, b := range cold {
		r.items = append(r.items, item{class: coldItem, first: never, off: r.frags[b.tails[0].frag].ImageOff, build: b})
	}
	r.layout.RebuiltFragments = len(hot) + len(cold)
	sort.SliceStable(r.items, func(i, j int) bool {
		a, b := &r.items[i], &r.items[j]
		if a.class != b.class {
			return a.class < b.class
		}
		if a.first != b.first {
			return a.first < b.first
		}
		return a.off < b.off
	})
}

// writeContent writes the items. New fragment blocks are compressed with enc in the hot region, else with fast.
func (r *relayouter) writeContent(out *seqWriter, enc, fast encoder) (err error) {
	if r.raw.Flags&flagPlainFragments != 0 {
		enc, fast = plainEncoder{}, plainEncoder{}
	}
	var builds []*build
	var done, total int64
	for _, it := range r.items {
		if it.build != nil {
			builds = append(builds, it.build)
			total += it.build.len
		} else {
			total += it.run.len
		}
	}
	progress := func(n int64) {
		done += n
		if r.opts.Progress != nil {
			r.opts.Progress(done, total)
		}
	}
	w := newBlockWriter(r.ctx, out, r.opts.workers())
	w.read = r.src.ReadStored
	defer func() {
		if werr := w.close(); err == nil {
			err = werr
		}
	}()
	start := out.off
	ends := [coldItem]*int64{new(int64), new(int64)} // of the hot region and of the large runs
	class := hotItem
	for _, it := range append(r.items, item{class: coldItem}) {
		if it.class == coldItem {
			enc = fast
		}
		for ; class < it.class; class++ {
			end := ends[class]
			if err := w.call(func(off int64) { *end = off }); err != nil {
				return err
			}
		}
		switch b := it.build; {
		case it.run != nil:
			err = w.move(it.run.off, it.run.len, func(off int64, _ uint32) { it.run.newOff = off; progress(it.run.len) })
		case b != nil:
			if b.data == nil {
				n, sum := 0, int64(0)
				for ; n < len(builds) && (n == 0 || sum+builds[n].len <= windowBytes); n++ {
					builds[n].data = w.buffer(int(builds[n].len))
					sum += builds[n].len
				}
				if err := loadBuilds(r.ctx, r.src, r.frags, builds[:n], r.raw.BlockSize, r.opts.workers()); err != nil {
					return err
				}
				builds = builds[n:]
			}
			err = w.add(b.data, enc, func(off int64, word uint32) { b.newOff, b.newWord = off, word; progress(b.len) })
			b.data = nil
		}
		if err != nil {
			return err
		}
	}
	return w.call(func(int64) {
		r.layout.HotEnd = *ends[hotItem]
		r.layout.HotBytes = *ends[hotItem] - start
		r.layout.LargeBytes = *ends[largeItem] - *ends[hotItem]
	})
}

// place sets the files' new positions and returns the new fragment table, in the order of the new image.
func (r *relayouter) place() []squashfs.RawFragment {
	type entry struct {
		squashfs.RawFragment
		frag  *sourceFragment
		build *build
	}
	var table []entry
	for _, f := range r.frags {
		if f.moved() {
			u := r.runAt(f.ImageOff)
			table = append(table, entry{squashfs.RawFragment{ImageOff: u.newOff + f.ImageOff - u.off, Size: f.Size}, f, nil})
			r.layout.MovedFragments++
		}
	}
	for _, it := range r.items {
		if b := it.build; b != nil {
			table = append(table, entry{squashfs.RawFragment{ImageOff: b.newOff, Size: b.newWord}, nil, b})
		}
	}
	sort.Slice(table, func(i, j int) bool { return table[i].ImageOff < table[j].ImageOff })
	moved, built := map[*sourceFragment]uint32{}, map[*build]uint32{}
	out := make([]squashfs.RawFragment, len(table))
	for i, e := range table {
		out[i] = e.RawFragment
		if e.frag != nil {
			moved[e.frag] = uint32(i)
		} else {
			built[e.build] = uint32(i)
		}
	}
	shared := map[[2]int64]bool{}
	for _, n := range r.raw.Inodes {
		if n.Type != squashfs.RawFile {
			continue
		}
		if storedLen(n) > 0 {
			u := r.runAt(n.Start)
			n.Start = u.newOff + n.Start - u.off
		} else {
			n.Start = 0
		}
		if t := r.tailOf[n]; t != nil {
			if t.build != nil {
				n.Fragment, n.FragOff = built[t.build], uint32(t.buildOff+int64(n.FragOff)-t.off)
			} else {
				n.Fragment = moved[r.frags[t.frag]]
			}
		}
		if n.Start > 0 || n.Fragment != squashfs.NoFragment {
			key := [2]int64{n.Start, int64(n.Fragment)<<32 | int64(n.FragOff)}
			if shared[key] {
				r.layout.Duplicates++
			}
			shared[key] = true
		}
	}
	return out
}
