package imagemap

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomSegments makes segments of a few paths that overlap in the image as fragments and shared metadata do.
func randomSegments(r *rand.Rand, n int) []Segment {
	out := make([]Segment, n)
	for i := range out {
		length := 1 + r.Int64N(5000)
		out[i] = Segment{ImageOff: r.Int64N(50000), ImageLen: length, Path: fmt.Sprintf("dir/%d", r.IntN(8)),
			FileOff: r.Int64N(20000), FileLen: length, Kind: Kind(r.IntN(4))}
		if r.IntN(3) == 0 {
			out[i].FileLen = 1 + r.Int64N(9000) // compressed
		}
	}
	return out
}

func TestAtAndFind(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		segs := randomSegments(r, r.IntN(60))
		m := New(slices.Clone(segs))
		for range 50 {
			off, length := r.Int64N(56000)-1000, 1+r.Int64N(8000)
			var want []Segment
			for _, s := range m.Segments() {
				if s.ImageOff < off+length && off < s.ImageOff+s.ImageLen {
					want = append(want, s)
				}
			}
			if got := m.At(off, length); !slices.Equal(got, want) {
				t.Fatalf("At(%d, %d): %v, want %v", off, length, got, want)
			}
			path, k := fmt.Sprintf("dir/%d", r.IntN(9)), Kind(r.IntN(4))
			want = nil
			for _, s := range m.Segments() {
				whole := k == Inode || k == Meta
				if s.Path == path && s.Kind == k && (whole || s.FileOff < off+length && off < s.FileOff+s.FileLen) {
					want = append(want, s)
				}
			}
			if got := m.Find(path, k, off, length); !slices.Equal(got, want) {
				t.Fatalf("Find(%s, %d, %d, %d): %v, want %v", path, k, off, length, got, want)
			}
		}
	}
}

// The order of a map does not depend on the order of what it is made of.
func TestNewSorts(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	segs := randomSegments(r, 100)
	want := New(slices.Clone(segs)).Segments()
	for range 10 {
		r.Shuffle(len(segs), func(i, j int) { segs[i], segs[j] = segs[j], segs[i] })
		if got := New(slices.Clone(segs)).Segments(); !slices.Equal(got, want) {
			t.Fatal("another order of the segments gives another map")
		}
	}
	if !slices.IsSortedFunc(want, func(a, b Segment) int { return int(a.ImageOff - b.ImageOff) }) {
		t.Fatal("not in image order")
	}
	if got := New(nil).At(0, 1<<40); len(got) != 0 {
		t.Fatalf("an empty map has %v", got)
	}
}
