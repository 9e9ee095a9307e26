package relayout

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"bootprof/imagepack/squashfs"
)

// A tail is a part of an unpacked fragment block of the source that files have their ends in. Files with equal ends
// share one.
type tail struct {
	frag     int   // index in the source's fragment table
	off, len int64 // in the unpacked block
	first    int   // touch
	build    *build
	buildOff int64
}

// A sourceFragment is a fragment block of the source that files have tails in.
type sourceFragment struct {
	squashfs.RawFragment
	index     int
	tails     []*tail
	hot, cold int // tails
}

// moved tells that the block can be taken as it is.
func (f *sourceFragment) moved() bool { return f.hot == 0 || f.cold == 0 }

// first is the first touch of any of its tails.
func (f *sourceFragment) first() int {
	first := never
	for _, t := range f.tails {
		first = min(first, t.first)
	}
	return first
}

// A build is a new fragment block, made of tails of others.
type build struct {
	tails   []*tail
	len     int64
	data    *[]byte // while it is under way
	newOff  int64
	newWord uint32
}

// corrupt makes the error of a source that contradicts itself.
func corrupt(format string, args ...any) error {
	return &squashfs.CorruptError{What: fmt.Sprintf(format, args...)}
}

// findTails returns the fragment blocks in use, by position, and the tail of each file that has one. It makes
// entries of the table that say the same into one.
func findTails(raw *squashfs.Raw) ([]*sourceFragment, map[*squashfs.RawInode]*tail, error) {
	var files []*squashfs.RawInode
	canonical := map[squashfs.RawFragment]uint32{}
	for _, n := range raw.Inodes {
		if n.Type != squashfs.RawFile || n.Fragment == squashfs.NoFragment {
			continue
		}
		if n.Size%raw.BlockSize == 0 {
			n.Fragment, n.FragOff = squashfs.NoFragment, 0
			continue
		}
		f := raw.Fragments[n.Fragment]
		if i, ok := canonical[f]; ok {
			n.Fragment = i
		} else {
			canonical[f] = n.Fragment
		}
		files = append(files, n)
	}
	sort.SliceStable(files, func(i, j int) bool {
		a, b := files[i], files[j]
		if a.Fragment != b.Fragment {
			return raw.Fragments[a.Fragment].ImageOff < raw.Fragments[b.Fragment].ImageOff
		}
		return a.FragOff < b.FragOff
	})
	var frags []*sourceFragment
	of := make(map[*squashfs.RawInode]*tail, len(files))
	for _, n := range files {
		var f *sourceFragment
		if last := len(frags) - 1; last >= 0 && frags[last].index == int(n.Fragment) {
			f = frags[last]
		} else {
			f = &sourceFragment{RawFragment: raw.Fragments[n.Fragment], index: int(n.Fragment)}
			if last >= 0 && frags[last].ImageOff+squashfs.StoredLen(frags[last].Size) > f.ImageOff {
				return nil, nil, corrupt("fragment blocks overlap at %d", f.ImageOff)
			}
			frags = append(frags, f)
		}
		off, length := int64(n.FragOff), n.Size%raw.BlockSize
		var t *tail
		if last := len(f.tails) - 1; last >= 0 && f.tails[last].off+f.tails[last].len > off {
			t = f.tails[last]
			t.len = max(t.len, off+length-t.off)
		} else {
			t = &tail{frag: len(frags) - 1, off: off, len: length, first: never}
			f.tails = append(f.tails, t)
		}
		of[n] = t
	}
	return frags, of, nil
}

// planBuilds packs the tails of the blocks that have both touched and other ones: the touched ones in order of
// touch, the others as they lie in the source.
func planBuilds(frags []*sourceFragment, blockSize int64) (hot, cold []*build) {
	var hotTails, coldTails []*tail
	for _, f := range frags {
		if f.moved() {
			continue
		}
		for _, t := range f.tails {
			if t.first < never {
				hotTails = append(hotTails, t)
			} else {
				coldTails = append(coldTails, t)
			}
		}
	}
	sort.SliceStable(hotTails, func(i, j int) bool { return hotTails[i].first < hotTails[j].first })
	return packTails(hotTails, blockSize), packTails(coldTails, blockSize)
}

func packTails(tails []*tail, blockSize int64) []*build {
	var out []*build
	for _, t := range tails {
		if last := len(out) - 1; last < 0 || out[last].len+t.len > blockSize {
			out = append(out, &build{})
		}
		b := out[len(out)-1]
		t.build, t.buildOff = b, b.len
		b.tails = append(b.tails, t)
		b.len += t.len
	}
	return out
}

// loadBuilds fills the data of builds. Each source block is unpacked once, on one of the workers.
func loadBuilds(ctx context.Context, src *squashfs.Reader, frags []*sourceFragment, builds []*build, blockSize int64, workers int) error {
	wanted := map[int][]*tail{}
	for _, b := range builds {
		for _, t := range b.tails {
			wanted[t.frag] = append(wanted[t.frag], t)
		}
	}
	order := make([]int, 0, len(wanted))
	for i := range wanted {
		order = append(order, i)
	}
	sort.Ints(order)
	next := make(chan int)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for range min(workers, len(order)) {
		group.Go(func() {
			scratch := make([]byte, blockSize)
			for i := range next {
				n, err := src.UnpackFragment(scratch, frags[i].RawFragment)
				if err != nil {
					cancel(err)
					continue
				}
				for _, t := range wanted[i] {
					if t.off+t.len > int64(n) {
						cancel(corrupt("a tail [%d +%d) in a fragment block of %d bytes", t.off, t.len, n))
						break
					}
					copy((*t.build.data)[t.buildOff:], scratch[t.off:t.off+t.len])
				}
			}
		})
	}
	for _, i := range order {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	group.Wait()
	return context.Cause(ctx)
}
