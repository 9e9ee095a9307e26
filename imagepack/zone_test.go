package imagepack

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/zopt"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

func TestChunkSizes(t *testing.T) {
	for _, c := range []struct {
		n, zone int
		first   bool
		want    []int
	}{
		{0, 0, true, nil},
		{1, 1, true, []int{1}},
		{100, 100, true, []int{4, 8, 16, 32, 32, 8}},
		{100, 100, false, []int{32, 32, 32, 4}},
		{300, 9000, true, []int{4, 8, 16, 32, 64, 64, 64, 48}},
		{128, 9000, false, []int{64, 64}},
	} {
		if got := chunkSizes(c.n, c.zone, c.first); !slices.Equal(got, c.want) {
			t.Errorf("chunkSizes(%d, %d, %t) = %v, want %v", c.n, c.zone, c.first, got, c.want)
		}
	}
}

func TestSplitFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		var in []bpk.Range
		for next := int64(0); len(in) < 40; {
			n := 1 + r.Int64N(1+r.Int64N(3*framePages))
			in = append(in, bpk.Range{Page: next, Pages: n})
			next += n + 1 + r.Int64N(5)
		}
		frames := splitFrames(in, framePages)
		var joined []bpk.Range
		for i, f := range frames {
			pages := int64(0)
			for _, x := range f {
				pages += x.Pages
				if n := len(joined); n > 0 && joined[n-1].Page+joined[n-1].Pages == x.Page {
					joined[n-1].Pages += x.Pages
				} else {
					joined = append(joined, x)
				}
			}
			if pages > framePages || pages < framePages && i < len(frames)-1 {
				t.Fatalf("frame %d of %d has %d pages", i, len(frames), pages)
			}
		}
		if !slices.Equal(joined, in) {
			t.Fatalf("frames hold %v, want %v", joined, in)
		}
	}
}

// The sizes that analyze prices are those of the boot zone that pack writes.
func TestCompressedSizesAreThoseOfThePack(t *testing.T) {
	testrig.Slow(t)
	image := sparsePages(1, 1000, 150)
	boot := randomBoot(1, 1000, 500)
	path := filepath.Join(testrig.MemoryDir(t), "x.bpk")
	st, err := Write(t.Context(), path, newMemImage(image), WriteOptions{Boot: boot, BodyLevel: zstd.SpeedFastest})
	testrig.Must(t, err)
	sizes, err := CompressedSizes(bytes.NewReader(image), boot)
	testrig.Must(t, err)
	if len(sizes) != len(boot) || sizes[len(sizes)-1] != st.BootZone {
		t.Errorf("%d sizes, the last is %d; the boot zone has %d bytes", len(sizes), sizes[len(sizes)-1], st.BootZone)
	}
	if !slices.IsSorted(sizes) || sizes[0] <= 0 {
		t.Error("the sizes do not grow")
	}
}

func TestCompressedSizesEdges(t *testing.T) {
	image := mixedPages(2, 10)[:9*page+100] // the last page is cut short
	for _, c := range []struct {
		name   string
		ranges []profiles.Range
		ok     bool
	}{
		{"none", nil, true},
		{"an empty range", []profiles.Range{{ImageOff: 50}}, true},
		{"the short page", []profiles.Range{{ImageOff: 9 * page, Len: 100}}, true},
		{"the short page as a whole", []profiles.Range{{ImageOff: 9 * page, Len: page}}, true},
		{"an odd range", []profiles.Range{{ImageOff: 2*page - 1, Len: 2}}, true},
		{"overlapping ranges", []profiles.Range{{ImageOff: 0, Len: 5 * page}, {ImageOff: page, Len: page}}, true},
		{"behind the end", []profiles.Range{{ImageOff: 10 * page, Len: page}}, false},
		{"over the end", []profiles.Range{{ImageOff: 8 * page, Len: 4 * page}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			sizes, err := CompressedSizes(bytes.NewReader(image), c.ranges)
			if (err == nil) != c.ok || c.ok && len(sizes) != len(c.ranges) {
				t.Errorf("CompressedSizes = %v, %v", sizes, err)
			}
		})
	}
}

// BenchmarkFrame compares compressing a frame of 16 MiB with checking it.
func BenchmarkFrame(b *testing.B) {
	image := mixedPages(1, framePages)
	ranges := []bpk.Range{{Page: 0, Pages: framePages}}
	f, err := encodeFrame(newMemImage(image), ranges, chunkSizes(framePages, framePages, true), zopt.Best)
	testrig.Must(b, err)
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(image)))
		for b.Loop() {
			if _, err := encodeFrame(newMemImage(image), ranges, chunkSizes(framePages, framePages, true), zopt.Best); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		b.SetBytes(int64(len(image)))
		sums := chunkSums(image, chunkSizes(framePages, framePages, true))
		for b.Loop() {
			testrig.Must(b, checkFrame(f, ranges, sums))
		}
	})
}

// encodeFrame compresses one frame with a new encoder.
func encodeFrame(img io.ReaderAt, ranges []bpk.Range, sizes []int, effort zopt.Effort) (zoneFrame, error) {
	e, err := newFrameEncoder(effort)
	if err != nil {
		return zoneFrame{}, err
	}
	return e.encode(context.Background(), img, ranges, sizes, func(int64) {})
}

// A frame is the same whatever the encoder compressed before.
func TestFrameEncoderForgets(t *testing.T) {
	image := mixedPages(1, 120)
	e, err := newFrameEncoder(zopt.Good)
	testrig.Must(t, err)
	for i, r := range []bpk.Range{{Page: 0, Pages: 60}, {Page: 30, Pages: 3}, {Page: 7, Pages: 90}, {Page: 0, Pages: 60}} {
		sizes := chunkSizes(int(r.Pages), 200, i == 0)
		got, err := e.encode(context.Background(), newMemImage(image), []bpk.Range{r}, sizes, func(int64) {})
		testrig.Must(t, err)
		want, err := encodeFrame(newMemImage(image), []bpk.Range{r}, sizes, zopt.Good)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("frame %d is another one than that of a new encoder, %v", i, err)
		}
	}
}

// Each chunk holds the pages that it would hold in boot order, in image order and in as few ranges as that allows.
func TestSortInChunks(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	const frame = 96
	for round := range 200 {
		var in []bpk.Range
		next := int64(0)
		for range 1 + r.IntN(80) {
			next += r.Int64N(3)
			n := 1 + r.Int64N(1+r.Int64N(2*frame))
			in = append(in, bpk.Range{Page: next, Pages: n})
			next += n
		}
		r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		got := sortInChunks(slices.Clone(in), frame)
		want, have := eachOf(in), eachOf(got)
		if len(want) != len(have) {
			t.Fatalf("round %d: %d pages, want %d", round, len(have), len(want))
		}
		at := 0
		for i, f := range splitFrames(in, frame) {
			for _, size := range chunkSizes(len(eachOf(f)), len(want), i == 0) {
				slices.Sort(want[at : at+size])
				at += size
			}
		}
		if !slices.Equal(have, want) {
			t.Fatalf("round %d: pages %v, want %v", round, have, want)
		}
		for i := 1; i < len(got); i++ {
			if got[i-1].Page+got[i-1].Pages == got[i].Page {
				t.Fatalf("round %d: ranges %v and %v are one", round, got[i-1], got[i])
			}
		}
	}
	if got := sortInChunks(nil, frame); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// eachOf returns the pages of ranges, one by one.
func eachOf(ranges []bpk.Range) []int64 {
	var out []int64
	for _, r := range ranges {
		for i := range r.Pages {
			out = append(out, r.Page+i)
		}
	}
	return out
}

// At every level, and so with the default one whatever the length of the zone, the chunks together are not longer than
// 1.05 times one zstd -19 stream of the same pages: here those of a program.
func TestZoneIsAsSmallAsOneStream(t *testing.T) {
	testrig.Slow(t)
	image := programPages(t, 700)
	order := rand.New(rand.NewPCG(8, 8)).Perm(len(image) / page / 7)
	var boot []bpk.Range
	for _, i := range order { // runs of pages, as boots touch them
		boot = append(boot, bpk.Range{Page: int64(7 * i), Pages: 5})
	}
	var touched []byte
	for _, r := range boot {
		touched = append(touched, image[r.Page*page:(r.Page+r.Pages)*page]...)
	}
	z := testrig.RunInput(t, string(touched), "zstd", "-19", "-c")
	for name, level := range map[string]BootLevel{"best": BootBest, "good": BootGood, "fast": BootFast} {
		frames, err := encodeZone(t.Context(), bytes.NewReader(image), sortInChunks(boot, framePages), framePages, level, 2, func(int64) {})
		testrig.Must(t, err)
		_, got := indexZone(boot, frames, 0)
		ratio := float64(got) / float64(len(z))
		t.Logf("%s: %d bytes of pages, %d as one stream, %d in chunks: %.3f", name, len(touched), len(z), got, ratio)
		if ratio > 1.05 {
			t.Errorf("%s: %.3f times the stream, want 1.05 at most", name, ratio)
		}
	}
}

// programPages returns pages from all over a program that every machine has: this one.
func programPages(t *testing.T, pages int) []byte {
	t.Helper()
	self := testrig.ReadFile(t, "/proc/self/exe")
	const run = 70 // pages
	var image []byte
	step := len(self) / (pages/run + 1) / page * page
	for at := 0; len(image) < pages*page; at += step {
		image = append(image, self[at:at+run*page]...)
	}
	return image[:pages*page]
}
