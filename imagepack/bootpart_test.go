package imagepack

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// What a client needs before the first boot byte, header, boot index and root node, stays below 64 KiB for an image of
// 10 GB whose boot touches 270 MB all over it. (There is no compression here: its lengths are made up.)
func TestBootPartOfLargeImage(t *testing.T) {
	const (
		imagePages = 10_000_000_000 / page
		bootPages  = 66_000
	)
	r := rand.New(rand.NewPCG(10, 10))
	var segs []imagemap.Segment
	var files []bpk.Range
	for at, i := int64(0), 0; at < imagePages; i++ {
		n := min(1+r.Int64N(1+r.Int64N(120)), imagePages-at) // pages of a file, 30 on average
		segs = append(segs, imagemap.Segment{ImageOff: at * page, ImageLen: n * page, FileLen: n * page, Path: fmt.Sprintf("usr/lib/dir%d/file%d", i/100, i)})
		files = append(files, bpk.Range{Page: at, Pages: n})
		at += n
	}
	// Programs read the head of a file and then pieces of it, in no order; files of one package come one after the other.
	var touched []profiles.Range
	for total := int64(0); total < bootPages; {
		first := r.IntN(len(files) - 10)
		for _, f := range files[first : first+1+r.IntN(10)] {
			var pieces []profiles.Range
			for p := f.Page; p < f.Page+f.Pages; {
				n := min(1+r.Int64N(8), f.Page+f.Pages-p)
				if r.IntN(3) > 0 {
					pieces = append(pieces, profiles.Range{ImageOff: p * page, Len: n * page})
					total += n
				}
				p += n
			}
			r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
			touched = append(touched, pieces...)
		}
	}
	boot := pageRanges(imagePages*page, touched)
	ranges := sortInChunks(boot, framePages)
	total := len(eachOf(ranges))
	x := bpk.NewBootIndex(ranges)
	for i, f := range splitFrames(ranges, framePages) {
		for k, size := range chunkSizes(len(eachOf(f)), total, i == 0) {
			b := bpk.Block{Len: int64(size*page/5) + r.Int64N(int64(size*page/5))}
			for j := range b.SHA256 {
				b.SHA256[j] = byte(r.Uint32())
			}
			x.AddChunk(b, size, k == 0, bpk.FilterX86)
		}
	}
	index, err := x.Encode()
	testrig.Must(t, err)
	chunks := len(planBody(imagePages*page, segs, x))
	bytes := bpk.HeaderSize + int64(len(index)) + bpk.RootLen(chunks)
	t.Logf("%d files, %d boot pages in %d ranges (%d in order of touch), %d boot chunks, %d body chunks: %d bytes", len(files), total,
		len(ranges), len(boot), len(x.Chunks), chunks, bytes)
	if bytes > 64<<10 {
		t.Errorf("%d bytes before the boot zone, want 65536 at most", bytes)
	}
}
