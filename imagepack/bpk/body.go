package bpk

import "sync"

// A Body finds the body chunk of a page. Nodes are fetched when first needed, checked, and kept. Safe for
// concurrent use; concurrent finds may fetch the same node.
type Body struct {
	h *Header

	mu    sync.Mutex
	nodes map[int64][]Entry // by packOff
}

// maxNodes bounds the nodes kept: 4 MiB of index.
const maxNodes = 512

// NewBody makes the body index of the pack with header h.
func NewBody(h *Header) *Body { return &Body{h: h, nodes: make(map[int64][]Entry)} }

// Find returns the chunk that covers an image page. fetch returns the stored bytes of a block of the pack;
// its error ends the search and is returned. A page outside the image, or in a pack without a body, is a
// caller's mistake.
func (x *Body) Find(page int64, fetch func(what string, b Block) ([]byte, error)) (Entry, error) {
	b, want := x.h.BodyRoot, Range{0, x.h.ImageSize / PageSize}
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
	x.mu.Lock()
	entries, ok := x.nodes[b.PackOff]
	x.mu.Unlock()
	// A damaged index could name one block as two different nodes.
	if ok && entries[0].Page == want.Page && entries[len(entries)-1].Page+entries[len(entries)-1].Pages == want.Page+want.Pages {
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
		return nil, err
	}
	x.mu.Lock()
	if len(x.nodes) >= maxNodes {
		clear(x.nodes)
	}
	x.nodes[b.PackOff] = entries
	x.mu.Unlock()
	return entries, nil
}
