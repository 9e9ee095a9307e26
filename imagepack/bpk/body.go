package bpk

import (
	"errors"
	"fmt"
	"sync"
)

// A Body finds the body chunk of a page. Nodes are fetched when first needed, checked, and kept. Safe for
// concurrent use; concurrent finds may fetch the same node.
type Body struct {
	h *Header

	mu    sync.Mutex
	nodes map[nodeKey][]Entry
}

// A nodeKey is all that a node was checked against: a damaged index could name one block as two nodes.
type nodeKey struct {
	Block
	level int
	want  Range
}

// maxNodes bounds the nodes kept: 5 MiB of memory.
const maxNodes = 512

// NewBody makes the body index of the pack with header h.
func NewBody(h *Header) *Body { return &Body{h: h, nodes: make(map[nodeKey][]Entry)} }

// Find returns the chunk that covers an image page. fetch returns the stored bytes of a block of the pack;
// its error ends the search and is returned. A page outside the image is a caller's mistake.
func (x *Body) Find(page int64, fetch func(what string, b Block) ([]byte, error)) (Entry, error) {
	b, want := x.h.BodyRoot, Range{0, x.h.ImageSize / PageSize}
	if page < 0 || page >= want.Pages {
		return Entry{}, fmt.Errorf("BUG: page %d of an image of %d pages", page, want.Pages)
	}
	for level := x.h.BodyDepth - 1; ; level-- {
		entries, err := x.node(b, level, want, fetch)
		if err != nil {
			return Entry{}, err
		}
		e := FindEntry(entries, page)
		if level == 0 {
			return *e, nil
		}
		b, want = e.Block, Range{e.Page, e.Pages}
	}
}

func (x *Body) node(b Block, level int, want Range, fetch func(string, Block) ([]byte, error)) ([]Entry, error) {
	key := nodeKey{b, level, want}
	x.mu.Lock()
	entries, ok := x.nodes[key]
	x.mu.Unlock()
	if ok {
		return entries, nil
	}
	raw, err := fetch("body index node", b)
	if err != nil {
		return nil, err
	}
	if err := CheckBlock("body index node", b, raw); err != nil {
		return nil, err
	}
	if entries, err = DecodeNode(x.h, raw, level, want); err != nil {
		var damaged *CorruptError
		if errors.As(err, &damaged) {
			damaged.PackOff = b.PackOff
		}
		return nil, err
	}
	x.mu.Lock()
	if len(x.nodes) >= maxNodes {
		clear(x.nodes)
	}
	x.nodes[key] = entries
	x.mu.Unlock()
	return entries, nil
}
