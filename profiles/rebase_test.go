package profiles

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// fakeImage answers find from a list.
type fakeImage []struct {
	path     string
	kind     Kind
	off, len int64 // of the file
	imageOff int64
}

func (im fakeImage) find(path string, k Kind, off, length int64) []Range {
	var out []Range
	for _, s := range im {
		if s.path != path || s.kind != k {
			continue
		}
		if k == KindInode || k == KindMeta {
			out = append(out, Range{s.imageOff, s.len})
			continue
		}
		if lo, hi := max(off, s.off), min(off+length, s.off+s.len); lo < hi {
			out = append(out, Range{s.imageOff + lo - s.off, hi - lo})
		}
	}
	return out
}

func TestRebase(t *testing.T) {
	const p = PageSize
	image := fakeImage{
		{"", KindMeta, 0, 128, 0},
		{"", KindInode, 0, 64, 10 * p},
		{"", KindDir, 0, 100, 11 * p},
		{"usr", KindInode, 0, 64, 12 * p},
		{"usr", KindDir, 0, 2 * p, 13 * p},
		{"usr/bin", KindInode, 0, 64, 10*p + 64}, // the root's page
		{"usr/bin", KindDir, 0, 100, 15 * p},
		{"usr/bin/a", KindInode, 0, 64, 16 * p},
		{"usr/bin/a", KindData, 0, 5 * p, 20 * p},
		{"usr/bin/small", KindInode, 0, 500, 17 * p}, // its content is in the inode
		{"lone", KindInode, 0, 64, 18 * p},
		{"tail", KindInode, 0, 64, 10*p + 128},
		{"tail", KindData, 0, 1000, 30*p + 500}, // crosses no page
		{"tail", KindData, 1000, 4000, 31*p + 3000},
	}
	meta := []Touch{{0, 10 * p, p}, {0, 11 * p, p}, {0, 12 * p, p}, {0, 13 * p, 2 * p}, {0, 15 * p, p}}
	for _, c := range []struct {
		name string
		in   []FileTouch
		want []Touch
		lost int
	}{
		{"nothing", nil, nil, 0},
		{"a file implies what leads to it", []FileTouch{{7, "usr/bin/a", KindData, p, 2 * p}},
			append(at(7, meta), Touch{7, 16 * p, p}, Touch{7, 21 * p, 2 * p}), 0},
		{"first touch only", []FileTouch{
			{7, "usr/bin/a", KindData, 0, p}, {8, "usr/bin/a", KindData, 0, 2 * p}, {9, "usr/bin/a", KindData, 0, 2 * p}},
			append(at(7, meta), Touch{7, 16 * p, p}, Touch{7, 20 * p, p}, Touch{8, 21 * p, p}), 0},
		{"content in the inode", []FileTouch{{7, "usr/bin/small", KindData, 0, 400}},
			append(at(7, meta), Touch{7, 17 * p, p}), 0},
		{"an inode implies inodes only", []FileTouch{{1, "usr/bin/small", KindInode, 0, 0}},
			[]Touch{{1, 10 * p, p}, {1, 12 * p, p}, {1, 17 * p, p}}, 0},
		{"the root", []FileTouch{{1, "", KindDir, 0, 50}}, []Touch{{1, 10 * p, p}, {1, 11 * p, p}}, 0},
		{"metadata without a path", []FileTouch{{1, "", KindMeta, 0, 0}}, []Touch{{1, 0, p}}, 0},
		{"aligned outwards", []FileTouch{{1, "tail", KindData, 0, 9000}},
			[]Touch{{1, 10 * p, p}, {1, 11 * p, p}, {1, 30 * p, p}, {1, 31 * p, 2 * p}}, 0},
		{"lost", []FileTouch{{1, "usr/gone", KindData, 0, p}, {2, "gone/too", KindDir, 0, 1}, {3, "lone", KindInode, 0, 0}},
			[]Touch{{3, 10 * p, p}, {3, 18 * p, p}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, lost := Rebase(&Run{FileTouches: c.in}, image.find)
			if !reflect.DeepEqual(got, c.want) || lost != c.lost {
				t.Errorf("got  %v, lost %d\nwant %v, lost %d", got, lost, c.want, c.lost)
			}
		})
	}
}

func at(d time.Duration, ts []Touch) []Touch {
	out := make([]Touch, len(ts))
	for i, t := range ts {
		t.At = d
		out[i] = t
	}
	return out
}

func TestOf(t *testing.T) {
	run := exampleRun()
	if !run.Of(run.Header.ImageSHA256) || run.Of([32]byte{}) {
		t.Error("Of does not compare the image")
	}
}

// TestRebaseValid rebases made runs: what comes out follows the rules of touches.
func TestRebaseValid(t *testing.T) {
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 2))
		where := make(map[string]int64)
		find := func(path string, k Kind, off, length int64) []Range {
			if _, ok := where[path]; !ok {
				where[path] = rng.Int64N(1 << 29)
			}
			return []Range{{where[path] + min(off, 1<<20), min(length+1, 3*PageSize)}, {where[path], 77}}
		}
		run := madeRun(seed, 500)
		touches, lost := Rebase(run, find)
		out := Run{Header: Header{ImageSize: 1 << 30}, Touches: touches}
		if err := out.Validate(); err != nil || lost != 0 || len(touches) == 0 {
			t.Errorf("seed %d: %d touches, %d lost, %v", seed, len(touches), lost, err)
		}
	}
}

// TestPageSet compares Add with a map of pages.
func TestPageSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	var s PageSet
	model := make(map[int64]bool)
	for range 2000 {
		off, length := rng.Int64N(600*PageSize)-10*PageSize, rng.Int64N(9*PageSize)-PageSize
		var want []int64
		if off >= 0 && length > 0 {
			for p := off / PageSize; p*PageSize < off+length; p++ {
				if !model[p] {
					model[p] = true
					want = append(want, p)
				}
			}
		}
		var got []int64
		for i, r := range s.Add(off, length) {
			for p := r.ImageOff; p < r.ImageOff+r.Len; p += PageSize {
				got = append(got, p/PageSize)
			}
			if i > 0 && r.ImageOff == got[0] {
				t.Fatal("ranges are not merged")
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("Add(%d, %d) = pages %v, want %v", off, length, got, want)
		}
	}
	if s.Pages() != int64(len(model)) {
		t.Errorf("Pages = %d, want %d", s.Pages(), len(model))
	}
}
