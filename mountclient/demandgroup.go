package mountclient

// demandJoinBytes is up to how many stored bytes chunks that lie side by side are fetched in one request. Each lands when
// its own bytes are there: 1 MiB of others behind it would take 0.4 s at 20 Mbit/s.
const demandJoinBytes = 1 << 20

// adjacent returns the longest head of fs whose stored bytes lie side by side in one file. Chunks that are files of
// their own all have packOff 0, and so never do.
func adjacent(fs []*flight) []*flight {
	n := 1
	total := fs[0].entry.Len
	for n < len(fs) && fs[0].entry.Len > 0 {
		prev, e := fs[n-1].entry, fs[n].entry
		if e.PackOff != prev.PackOff+prev.Len || total+e.Len > demandJoinBytes {
			break
		}
		total += e.Len
		n++
	}
	return fs[:n]
}

// load fetches the chunks of a group in one request and wakes their readers, those of each as soon as its own bytes are
// there. Chunks are decoded one after the other, beside the request.
func (d *demand) load(group []*flight, why cause) {
	if len(group) == 1 {
		d.loadOne(group[0], why)
		return
	}
	came := make(chan delivery, len(group)) // the request never waits for a decoder
	d.running.Go(func() { d.deliver(group, why, came) })
	for _, f := range group {
		got := <-came
		d.settle(f, got.stored, got.src, got.err)
	}
}

// loadOne is load for a chunk that is fetched alone. It may be a file of its own.
func (d *demand) loadOne(f *flight, why cause) {
	b := f.entry.Block
	var raw []byte
	var src *httpSource
	var err error
	if d.at.inImage(b) {
		raw = d.at.early(b) // from the image's opening, or a gap between boot pages
	}
	if raw == nil && b.Len > 0 {
		err = errPanicked
		d.net.persist(d.ctx, "fetching a chunk", func() { raw, src, err = d.at.fetch(because(d.ctx, why), b, nil) })
	}
	d.settle(f, raw, src, err)
}

// A delivery is what a request has brought of one chunk.
type delivery struct {
	stored []byte
	src    *httpSource // who was asked
	err    error       // it will not come
}

// deliver sends the stored bytes of each chunk of a group, in order, as they become complete, unchecked. The chunks that
// do not come are sent with the error.
func (d *demand) deliver(group []*flight, why cause, came chan<- delivery) {
	last := group[len(group)-1].entry
	err := errPanicked
	d.net.persist(d.ctx, "fetching chunks", func() {
		if len(group) == 0 { // it panicked behind the last one
			return
		}
		b := group[0].entry.Block
		b.Len = last.PackOff + last.Len - b.PackOff
		src := d.at.pick(b)
		raw := make([]byte, 0, b.Len)
		err = d.at.stream(because(d.ctx, why), b, src, func(more []byte) {
			raw = append(raw, more...)
			for len(group) > 0 && int64(len(raw)) >= group[0].entry.Len {
				n := group[0].entry.Len
				came <- delivery{stored: raw[:n:n], src: src}
				raw, group = raw[n:], group[1:]
			}
		})
	})
	for range group {
		came <- delivery{err: err}
	}
}

// settle decodes what came of a chunk and wakes its readers. A damaged one is mended first, which its neighbours do not
// wait for.
func (d *demand) settle(f *flight, stored []byte, src *httpSource, err error) {
	if err != nil {
		d.land(f, err)
		return
	}
	damaged := errPanicked
	d.net.persist(d.ctx, "decoding a chunk", func() { damaged = d.keep(&f.entry, stored, f.quiet) })
	if !isCorrupt(damaged) {
		d.land(f, damaged)
		return
	}
	d.running.Go(func() {
		err := errPanicked
		d.net.persist(d.ctx, "mending a chunk", func() { err = d.mend(&f.entry, stored, src, damaged, f.quiet) })
		d.land(f, err)
	})
}

// land wakes the readers of a chunk.
func (d *demand) land(f *flight, err error) {
	f.err = err
	d.mu.Lock()
	delete(d.flights, f.entry.Page)
	d.mu.Unlock()
	close(f.done)
}
