package zopt

// block appends the blocks of src, which is at most as long as a block may be.
func (e *Encoder) block(dst, src []byte, last bool) []byte {
	f := e.finder
	start := f.append(src)
	f.find(start)
	if e.stats == nil {
		e.stats = initialStats(src)
	}
	rep := e.blocks.state.reps

	// Parse with the prices that the blocks before suggest, then with those that the parse before had.
	p := new(prices)
	p.set(e.stats)
	regions := []region{{len(src), p}}
	var parts []part
	var seqs []sequence
	for range e.tuning.passes {
		seqs = e.parser.parse(f, start, rep, regions)
		e.split.cut(src, seqs, rep, e.tuning.grid)
		parts = e.split.split(&e.blocks.state)
		regions = regions[:0]
		for _, q := range parts {
			p := new(prices)
			p.set(q.stats)
			regions = append(regions, region{q.byteEnd, p})
		}
	}

	e.stats.decay(2)
	seq, at := 0, 0
	for i, q := range parts {
		dst = e.blocks.append(dst, src[at:q.byteEnd], seqs[seq:q.seqEnd], last && i == len(parts)-1)
		e.stats.add(q.stats)
		seq, at = q.seqEnd, q.byteEnd
	}
	return dst
}
