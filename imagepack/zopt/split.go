package zopt

import "slices"

// Estimated sizes, in 1/256 bit.
const (
	blockFixedCost = 8 * 8 * bitCost       // of a block's headers
	jumpTableCost  = (6 + 2) * 8 * bitCost // of literals in four streams
)

// A part of more than fineCells cells starts and ends at multiples of coarseStep cells or at the block's
// ends: this halves the time and costs less than 0.1 % in size.
const (
	fineCells  = 32
	coarseStep = 4
)

// A splitter decides where a block is split, so that each part gets the entropy tables that suit it, or
// repeats the earlier ones, whichever is estimated to be shorter.
type splitter struct {
	cells []cell
	nodes []splitNode
	parts []part
}

// A cell is the smallest stretch the splitter looks at: some sequences with their literals, and in the
// block's last cell the literals after them.
type cell struct {
	stats   stats
	extra   int64 // extra bits of the codes, in 1/256 bit
	nLits   int
	nSeqs   int
	nBytes  int
	seqEnd  int // index of the first sequence after the cell
	byteEnd int // offset in the block of the first byte after the cell
}

func (c *cell) add(o *cell) {
	c.stats.add(&o.stats)
	c.extra += o.extra
	c.nLits += o.nLits
	c.nSeqs += o.nSeqs
	c.nBytes += o.nBytes
	c.seqEnd, c.byteEnd = o.seqEnd, o.byteEnd
}

// A part is what becomes one block of the frame. stats are those of its sequences.
type part struct {
	seqEnd, byteEnd int
	stats           *stats
}

// A splitNode is the cheapest way to split what lies before a cell's start.
type splitNode struct {
	cost   int64
	from   int // the cell at which the last part starts
	tables symbolCosts
}

// cut fills the cells, each of about grid bytes.
func (s *splitter) cut(src []byte, seqs []sequence, rep reps, grid int) {
	s.cells = s.cells[:0]
	c := new(cell)
	at, border := 0, grid
	lits := func(n int) {
		for _, b := range src[at : at+n] {
			c.stats.lit[b]++
		}
		c.nLits += n
		c.nBytes += n
		at += n
	}
	for i, q := range seqs {
		lits(int(q.ll))
		at += int(q.ml)
		c.nBytes += int(q.ml)
		v := rep.value(q.off, q.ll > 0)
		rep.push(q.off, v, q.ll > 0)
		ll, ml, of := llCode(q.ll), mlCode(q.ml), ofCode(v)
		c.stats.ll[ll]++
		c.stats.ml[ml]++
		c.stats.of[of]++
		c.nSeqs++
		c.extra += int64(llBits[ll]+mlBits[ml]+of) * bitCost
		if at >= border && at < len(src) {
			c.seqEnd, c.byteEnd = i+1, at
			s.cells = append(s.cells, *c)
			*c = cell{}
			border = (at/grid + 1) * grid
		}
	}
	lits(len(src) - at)
	c.seqEnd, c.byteEnd = len(seqs), len(src)
	s.cells = append(s.cells, *c)
}

// split returns the parts into which the cells are best gathered, given what a decoder holds before the
// block. It tries every run of cells as a part, after the cheapest way to split what lies before it.
func (s *splitter) split(state *entropyState) []part {
	n := len(s.cells)
	if cap(s.nodes) <= n {
		s.nodes = make([]splitNode, n+1)
	}
	s.nodes = s.nodes[:n+1]
	s.nodes[0].cost = 0
	s.nodes[0].tables.load(state)
	for j := 1; j <= n; j++ {
		s.nodes[j].cost = -1
	}
	for i := range n {
		from := &s.nodes[i]
		var seg cell
		for j := i + 1; j <= n; j++ {
			seg.add(&s.cells[j-1])
			if j-i > fineCells && j < n && i > 0 && (i|j)%coarseStep != 0 {
				continue
			}
			to := &s.nodes[j]
			cost, fresh := from.tables.price(&seg)
			if cost += from.cost; to.cost < 0 || cost < to.cost {
				to.cost, to.from = cost, i
				to.tables = from.tables
				to.tables.update(&seg.stats, fresh)
			}
		}
	}
	s.parts = s.parts[:0]
	for j := n; j > 0; j = s.nodes[j].from {
		st := new(stats)
		for _, c := range s.cells[s.nodes[j].from:j] {
			st.add(&c.stats)
		}
		s.parts = append(s.parts, part{s.cells[j-1].seqEnd, s.cells[j-1].byteEnd, st})
	}
	slices.Reverse(s.parts)
	return s.parts
}
