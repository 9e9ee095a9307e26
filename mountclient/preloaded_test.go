package mountclient

import (
	"slices"
	"testing"
)

// A damaged chunk that came from two mirrors is the fault of the one whose bytes were others.
func TestLiars(t *testing.T) {
	zone, err := memfd("test")
	if err != nil {
		t.Fatal(err)
	}
	defer zone.Close()
	honest, liar, late := &httpSource{shown: "honest"}, &httpSource{shown: "liar"}, &httpSource{shown: "late"}
	p := &preload{zone: zone, fetch: &fetcher{src: &httpSource{pin: &pin{}}}}
	for _, s := range []*segment{{span: span{0, 100}, src: honest}, {span: span{100, 100}, src: late}, {span: span{100, 200}, src: liar}, {span: span{200, 300}}} {
		s.filled = s.end - s.off
		p.segs, p.sorted = append(p.segs, s), append(p.sorted, s)
	}
	if _, err := zone.WriteAt(make([]byte, 300), 0); err != nil {
		t.Fatal(err)
	}
	right := make([]byte, 80)
	right[55] = 1 // of byte 105
	for _, c := range []struct {
		off, n        int64
		sources, lied []*httpSource
	}{
		{50, 80, []*httpSource{honest, liar}, []*httpSource{liar}},
		{0, 40, []*httpSource{honest}, nil},
		{120, 80, []*httpSource{liar}, []*httpSource{liar}},
	} {
		if got := p.sources(c.off, c.n); !slices.Equal(got, c.sources) {
			t.Errorf("[%d +%d): %d sources, want %d", c.off, c.n, len(got), len(c.sources))
		}
		if got := p.liars(c.off, right[:c.n]); !slices.Equal(got, c.lied) {
			t.Errorf("[%d +%d): %d liars, want %d", c.off, c.n, len(got), len(c.lied))
		}
	}
}
