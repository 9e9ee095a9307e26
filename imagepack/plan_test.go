package imagepack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// checkPlan wants ranges that cover the image in order, without a gap, none too long for a chunk.
func checkPlan(t *testing.T, plan []bpk.Range, pages int64) {
	t.Helper()
	next := int64(0)
	for i, r := range plan {
		if r.Page != next || r.Pages < 1 || r.Pages > bpk.MaxChunkPages {
			t.Fatalf("chunk %d covers pages [%d +%d), the one before ends at %d", i, r.Page, r.Pages, next)
		}
		next += r.Pages
	}
	if next != pages {
		t.Fatalf("the plan ends at page %d of %d", next, pages)
	}
}

func TestPlanBodyCoversTheImage(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for i := range 300 {
		pages := r.Int64N(3000)
		size := pages * page
		var segs []imagemap.Segment
		for range r.IntN(200) { // overlapping, odd, and some outside the image, as a damaged one may have them
			segs = append(segs, imagemap.Segment{ImageOff: r.Int64N(size+3*page) - page, ImageLen: 1 + r.Int64N(1<<r.IntN(24)),
				Path: fmt.Sprint(r.IntN(50)), Kind: imagemap.Kind(r.IntN(4))})
		}
		var boot []profiles.Range
		for range r.IntN(100) {
			boot = append(boot, profiles.Range{ImageOff: r.Int64N(size + page), Len: r.Int64N(1 << r.IntN(22))})
		}
		plan := planBody(size, imagemap.New(segs).Segments(), bpk.NewBootIndex(pageRanges(size, boot)))
		t.Run(fmt.Sprint(i), func(t *testing.T) { checkPlan(t, plan, pages) })
	}
}

// Chunks begin where larger files begin, and no chunk holds parts of two of them.
func TestPlanBodyFollowsFiles(t *testing.T) {
	var segs []imagemap.Segment
	off := int64(0)
	sizes := []int64{1, 65536, 100_000, 10, 4096, 131072, 131073, 1 << 20, 5, 65535, 200_000}
	for i, n := range sizes {
		segs = append(segs, imagemap.Segment{ImageOff: off, ImageLen: n, Path: fmt.Sprint(i)})
		off += (n + page - 1) &^ (page - 1)
	}
	plan := planBody(off, segs, bpk.NewBootIndex(nil))
	checkPlan(t, plan, off/page)
	for i, n := range sizes {
		if n < ownFilePages*page {
			continue
		}
		first := segs[i].ImageOff / page
		at := slices.IndexFunc(plan, func(r bpk.Range) bool { return r.Page == first })
		if at < 0 {
			t.Errorf("no chunk begins with the file of %d bytes", n)
			continue
		}
		for end := first + (n+page-1)/page; first < end; at++ {
			if want := min(chunkPages, end-first); plan[at].Page != first || plan[at].Pages != want {
				t.Errorf("file of %d bytes: chunk [%d +%d), want [%d +%d)", n, plan[at].Page, plan[at].Pages, first, want)
			}
			first += chunkPages
		}
	}
}

// A file that grows leaves the chunks of most others as they are.
func TestPlanBodyIsStable(t *testing.T) {
	digests := func(grown int) map[[32]byte]bool {
		dir := testrig.MemoryDir(t)
		r := rand.New(rand.NewPCG(9, 9))
		for i := range 400 {
			b := make([]byte, r.IntN(40_000))
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			if i == 200 {
				b = append(b, make([]byte, grown)...)
			}
			sub := filepath.Join(dir, fmt.Sprint(i/20))
			testrig.Must(t, os.MkdirAll(sub, 0o755))
			testrig.WriteFile(t, filepath.Join(sub, fmt.Sprint(i)), b)
		}
		path, _ := mustPack(t, mustOpen(t, context.Background(), dir, ""), WriteOptions{})
		out := map[[32]byte]bool{}
		testrig.Must(t, openPack(t, path).Chunks(func(e bpk.Entry) error { out[e.SHA256] = true; return nil }))
		return out
	}
	before, after := digests(0), digests(8000)
	same := 0
	for d := range after {
		if before[d] {
			same++
		}
	}
	if same < len(after)*8/10 {
		t.Errorf("after one of 400 files grew, %d of %d chunks are the same", same, len(after))
	}
	t.Logf("%d of %d chunks are the same", same, len(after))
}

func TestPageRanges(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []profiles.Range
		want []bpk.Range
	}{
		{"none", nil, nil},
		{"empty ranges", []profiles.Range{{}, {ImageOff: 5000}}, nil},
		{"joined", []profiles.Range{{ImageOff: 0, Len: page}, {ImageOff: page, Len: page}}, []bpk.Range{{Page: 0, Pages: 2}}},
		{"order kept", []profiles.Range{{ImageOff: page, Len: page}, {ImageOff: 0, Len: page}}, []bpk.Range{{Page: 1, Pages: 1}, {Page: 0, Pages: 1}}},
		{"a page twice", []profiles.Range{{ImageOff: page, Len: page}, {ImageOff: 0, Len: 3 * page}}, []bpk.Range{{Page: 1, Pages: 1}, {Page: 0, Pages: 1}, {Page: 2, Pages: 1}}},
		{"odd", []profiles.Range{{ImageOff: page - 1, Len: 2}}, []bpk.Range{{Page: 0, Pages: 2}}},
		{"over both ends", []profiles.Range{{ImageOff: -page, Len: 100 * page}}, []bpk.Range{{Page: 0, Pages: 8}}},
		{"outside", []profiles.Range{{ImageOff: 8 * page, Len: page}, {ImageOff: -5 * page, Len: page}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := pageRanges(8*page, c.in); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestOpenEmptyDirectory(t *testing.T) {
	testrig.NeedRoot(t)
	img := mustOpen(t, context.Background(), testrig.MemoryDir(t), "")
	pack, _ := mustPack(t, img, WriteOptions{Boot: []profiles.Range{{ImageOff: 0, Len: page}}})
	if names := dirNames(t, testrig.Mount(t, "erofs", extract(t, pack))); len(names) != 0 {
		t.Errorf("the image of an empty directory shows %q", names)
	}
}

// Files of holes only take no room, neither in the image nor in the pack.
func TestOpenHoles(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	for i, n := range []int64{1, 4096, 1 << 20, 1 << 30} {
		testrig.WriteFile(t, filepath.Join(dir, fmt.Sprint(i)), "")
		testrig.Must(t, os.Truncate(filepath.Join(dir, fmt.Sprint(i)), n))
	}
	pack, st := mustPack(t, mustOpen(t, context.Background(), dir, ""), WriteOptions{})
	if st.PackSize > 64<<10 {
		t.Errorf("the pack has %d bytes", st.PackSize)
	}
	at := testrig.Mount(t, "erofs", extract(t, pack))
	for i, n := range []int64{1, 4096, 1 << 20, 1 << 30} {
		fi, err := os.Stat(filepath.Join(at, fmt.Sprint(i)))
		if err != nil || fi.Size() != n {
			t.Errorf("file of %d bytes: %v, %v", n, fi, err)
		}
	}
	if !allZero(testrig.ReadFile(t, filepath.Join(at, "2"))) {
		t.Error("a hole is not zero")
	}
}
