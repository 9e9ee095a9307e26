package zopt

import (
	"encoding/binary"
	"math/bits"
)

// Tuning of the match finder.
const (
	maxHash4Log  = 22      // entries of the 4-byte hash table at most
	maxHash3Log  = 18      // entries of the 3-byte hash table at most
	max3Dist     = 1 << 18 // a 3-byte match from farther away does not pay
	treeLen      = 1024    // bytes by which the trees are ordered
	minLookahead = 16      // a position enters its tree once this many bytes after it are known
	maxMatches   = 32      // matches kept per position
)

// rebaseAt is the position at which the history is forgotten, so that positions fit in 32 bits.
const rebaseAt = 3 << 30

// A match says that the bytes at a position equal those off bytes before it.
type match struct{ len, off uint32 }

// A matchFinder holds the history and finds matches in it.
//
// Positions are numbered from 1, so that 0 in the tables means none; buf[0] is position base. Each hash
// of 4 bytes heads a binary search tree of the positions with that hash, newest at the root, ordered by
// the treeLen bytes that follow. Searching for a position and inserting it as the new root is one walk.
type matchFinder struct {
	buf     []byte // history and the current block; its capacity never changes
	base    uint32
	window  uint32 // largest offset allowed, in bytes
	depth   int    // nodes visited per search at most
	long    uint32 // a match this long ends the search for matches inside it
	hash4   []uint32
	hash3   []uint32
	shift4  uint
	shift3  uint
	tree    [][2]uint32 // for position p, at p&mask: root of the lesser positions, root of the greater ones
	mask    uint32
	pending uint32 // first position that is not in a tree yet

	matches []match  // of the current block
	first   []uint32 // first[i] is the index of the first match of the block's byte i; one more at the end
}

func newMatchFinder(window, maxBlock, depth int, long uint32) *matchFinder {
	treeLog := bits.Len(uint(window - 1))
	hash4Log := min(max(treeLog-1, 10), maxHash4Log)
	hash3Log := min(hash4Log, maxHash3Log)
	return &matchFinder{
		buf:     make([]byte, 0, window+max(min(window, 8<<20), 2*maxBlock)),
		base:    1,
		window:  uint32(window),
		depth:   depth,
		long:    long,
		hash4:   make([]uint32, 1<<hash4Log),
		hash3:   make([]uint32, 1<<hash3Log),
		shift4:  uint(32 - hash4Log),
		shift3:  uint(32 - hash3Log),
		tree:    make([][2]uint32, 1<<treeLog),
		mask:    1<<treeLog - 1,
		pending: 1,
	}
}

// reset forgets the history. The trees need no clearing: they are entered through the hash tables.
func (f *matchFinder) reset() {
	clear(f.hash4)
	clear(f.hash3)
	f.buf = f.buf[:0]
	f.base, f.pending = 1, 1
}

// append adds a block to the history and returns the index in buf where it starts. Older history makes
// room if need be.
func (f *matchFinder) append(block []byte) int {
	if uint64(f.base)+uint64(len(f.buf))+uint64(len(block)) > rebaseAt {
		f.reset()
	}
	if len(f.buf)+len(block) > cap(f.buf) {
		drop := len(f.buf) - int(f.window)
		copy(f.buf, f.buf[drop:])
		f.buf = f.buf[:f.window]
		f.base += uint32(drop)
	}
	start := len(f.buf)
	f.buf = append(f.buf, block...)
	return start
}

// find fills matches and first for the block that starts at buf[start] and reaches to its end. Each
// position's matches get longer and, mostly, farther away.
func (f *matchFinder) find(start int) {
	n := len(f.buf) - start
	f.matches = f.matches[:0]
	f.first = append(f.first[:0], make([]uint32, n+1)...)
	cur := f.base + uint32(start)
	for f.pending < cur && f.pending+minLookahead <= cur+uint32(n) {
		f.walk(f.pending, treeLen, true)
		f.pending++
	}
	skipTo := 0
	for i := range n {
		mark := len(f.matches)
		f.first[i] = uint32(mark)
		pos := cur + uint32(i)
		insert := i+minLookahead <= n
		if i < skipTo {
			if insert {
				f.walk(pos, treeLen, true)
			}
		} else if i+4 <= n {
			best := f.search3(pos)
			f.walk(pos, best, insert)
			if k := len(f.matches); k > mark {
				m := &f.matches[k-1]
				if m.len >= treeLen {
					at := start + i + int(m.len)
					m.len += uint32(matchLen(f.buf, at, at-int(m.off)))
				}
				if m.len >= f.long {
					skipTo = i + int(m.len)
				}
			}
		}
		if insert {
			f.pending = pos + 1
		}
	}
	f.first[n] = uint32(len(f.matches))
}

// low returns the first position that pos may refer to.
func (f *matchFinder) low(pos uint32) uint32 {
	if pos-f.base > f.window {
		return pos - f.window
	}
	return f.base
}

// search3 appends the nearest match of at least 3 bytes if its hash finds one, and returns its length.
func (f *matchFinder) search3(pos uint32) int {
	at := int(pos - f.base)
	v := binary.LittleEndian.Uint32(f.buf[at:]) << 8
	head := &f.hash3[v*506832829>>f.shift3]
	cand := *head
	*head = pos
	if cand < f.low(pos) || pos-cand > max3Dist {
		return 0
	}
	c := int(cand - f.base)
	if binary.LittleEndian.Uint32(f.buf[c:])<<8 != v {
		return 0
	}
	n := min(minMatch+matchLen(f.buf, at+minMatch, c+minMatch), treeLen)
	f.matches = append(f.matches, match{uint32(n), pos - cand})
	return n
}

// walk goes down the tree of pos and appends each match that is longer than best and all before it. With
// insert it makes pos the new root on the way, which needs minLookahead bytes.
func (f *matchFinder) walk(pos uint32, best int, insert bool) {
	buf, tree, mask := f.buf, f.tree, f.mask
	at := int(pos - f.base)
	head := &f.hash4[binary.LittleEndian.Uint32(buf[at:])*2654435761>>f.shift4]
	cand := *head
	lesser, greater := &tree[pos&mask][0], &tree[pos&mask][1] // links still to be set
	if insert {
		*head = pos
	}
	low := f.low(pos)
	// A node's links are overwritten when the position that is the tree's size later goes in.
	if pos > mask {
		low = max(low, pos-mask)
	}
	limit := min(len(buf)-at, treeLen)
	mine := buf[at : at+limit]
	limitMatches := len(f.matches) + maxMatches
	lenLesser, lenGreater := 0, 0 // bytes known to be shared with all lesser and greater nodes still to come
	for n := f.depth; n > 0 && cand >= low; n-- {
		node := &tree[cand&mask]
		toLesser, toGreater := node[0], node[1]
		theirs := buf[int(cand-f.base):]
		theirs = theirs[:len(mine)]
		ml := min(lenLesser, lenGreater)
		for ml+8 <= len(mine) {
			if x := binary.LittleEndian.Uint64(mine[ml:]) ^ binary.LittleEndian.Uint64(theirs[ml:]); x != 0 {
				ml += bits.TrailingZeros64(x) >> 3
				goto compared
			}
			ml += 8
		}
		for ml < len(mine) && mine[ml] == theirs[ml] {
			ml++
		}
	compared:
		if ml > best {
			best = ml
			if len(f.matches) == limitMatches {
				f.matches = f.matches[:limitMatches-1]
			}
			f.matches = append(f.matches, match{uint32(ml), pos - cand})
		}
		if ml == len(mine) {
			if !insert {
				return
			}
			if limit == treeLen {
				// Equal as far as the order goes: pos takes the node's place.
				*lesser, *greater = toLesser, toGreater
				return
			}
			break // the order is not known yet; the rest of the tree is given up
		}
		if theirs[ml] < mine[ml] {
			if insert {
				*lesser = cand
				lesser = &node[1]
			}
			lenLesser = ml
			cand = toGreater
		} else {
			if insert {
				*greater = cand
				greater = &node[0]
			}
			lenGreater = ml
			cand = toLesser
		}
	}
	if insert {
		*lesser, *greater = 0, 0
	}
}

// matchLen returns how many bytes from index a on equal those from index b on, b < a.
func matchLen(buf []byte, a, b int) int {
	x := buf[a:]
	y := buf[b:][:len(x)]
	n := 0
	for n+8 <= len(x) {
		if d := binary.LittleEndian.Uint64(x[n:]) ^ binary.LittleEndian.Uint64(y[n:]); d != 0 {
			return n + bits.TrailingZeros64(d)>>3
		}
		n += 8
	}
	for n < len(x) && x[n] == y[n] {
		n++
	}
	return n
}
