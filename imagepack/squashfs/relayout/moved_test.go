package relayout_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/squashfs/relayout"
	"bootprof/internal/testrig"
)

// checkMoved proves what Relayout did with each stored block: the blocks of files are those of the source, byte for byte,
// and so are all fragment blocks but those that hold touched and other tails together. Of these none is left, and no block
// of the result mixes such tails.
func checkMoved(t *testing.T, src, res *squashfs.Reader, l *relayout.Layout, order []relayout.Touch) {
	t.Helper()
	was, is := raw(t, src), raw(t, res)
	now := map[uint32]*squashfs.RawInode{} // by inode number, which is kept
	for _, n := range is.Inodes {
		now[n.Number] = n
	}
	hot := touchedTails(was, order)
	files := 0
	byFragment := map[uint32][]*squashfs.RawInode{}
	for _, n := range was.Inodes {
		if n.Type != squashfs.RawFile {
			continue
		}
		m := now[n.Number]
		if m == nil || !slices.Equal(n.Blocks, m.Blocks) || n.Size != m.Size {
			t.Errorf("inode %d: %+v became %+v", n.Number, n, m)
			continue
		}
		if length := lenOf(n.Blocks); length > 0 {
			files++
			if !bytes.Equal(stored(t, src, n.Start, length), stored(t, res, m.Start, length)) {
				t.Errorf("inode %d: the blocks [%d +%d) are others at %d", n.Number, n.Start, length, m.Start)
			}
		}
		if n.Fragment != squashfs.NoFragment {
			byFragment[n.Fragment] = append(byFragment[n.Fragment], n)
		}
	}

	moved, mixed := map[uint32]bool{}, 0 // fragment blocks of the result that were one of the source; of the source
	for _, i := range slices.Sorted(maps.Keys(byFragment)) {
		users, f := byFragment[i], was.Fragments[i]
		hots := 0
		for _, n := range users {
			if hot[n] {
				hots++
			}
		}
		if hots > 0 && hots < len(users) {
			mixed++
			continue
		}
		k := now[users[0].Number].Fragment
		g := is.Fragments[k]
		moved[k] = true
		length := squashfs.StoredLen(f.Size)
		if f.Size != g.Size || !bytes.Equal(stored(t, src, f.ImageOff, length), stored(t, res, g.ImageOff, length)) {
			t.Errorf("fragment block %d, %d of %d tails touched, was not moved: %+v became %+v", i, hots, len(users), f, g)
		}
		for _, n := range users {
			if m := now[n.Number]; m.Fragment != k || m.FragOff != n.FragOff {
				t.Errorf("inode %d: the tail at %d in fragment block %d went to %d in %d", n.Number, n.FragOff, i, m.FragOff, m.Fragment)
			}
		}
	}
	if l.MovedFragments != len(moved) || l.RebuiltFragments != len(is.Fragments)-len(moved) || (l.RebuiltFragments > 0) != (mixed > 0) {
		t.Errorf("%d fragment blocks moved, %d rebuilt; of %d in the result, %d were in the source, where %d are mixed",
			l.MovedFragments, l.RebuiltFragments, len(is.Fragments), len(moved), mixed)
	}

	kind := map[uint32]bool{} // of a fragment block of the result: touched
	oldBlocks, newBlocks := unpacker(t, src, was), unpacker(t, res, is)
	for n, touched := range hot {
		m := now[n.Number]
		if other, known := kind[m.Fragment]; known && other != touched {
			t.Errorf("fragment block %d of the result mixes touched and other tails", m.Fragment)
		}
		kind[m.Fragment] = touched
		if moved[m.Fragment] {
			continue
		}
		length := n.Size % was.BlockSize
		if !bytes.Equal(oldBlocks(n.Fragment)[n.FragOff:][:length], newBlocks(m.Fragment)[m.FragOff:][:length]) {
			t.Errorf("inode %d: another tail", n.Number)
		}
	}
	t.Logf("%d files with blocks; %d fragment blocks moved, %d mixed ones became %d", files, len(moved), mixed, l.RebuiltFragments)
}

// touchedTails tells of each file with a tail in a fragment block whether a boot touches that, by the file's own name or by
// another file that shares a byte of it.
func touchedTails(r *squashfs.Raw, order []relayout.Touch) map[*squashfs.RawInode]bool {
	hot := map[*squashfs.RawInode]bool{}
	names := map[string]*squashfs.RawInode{}
	var walk func(path string, n *squashfs.RawInode)
	walk = func(path string, n *squashfs.RawInode) {
		names[path] = n
		if n.Type == squashfs.RawFile && n.Fragment != squashfs.NoFragment {
			hot[n] = false
		}
		for _, e := range n.Entries {
			below := e.Name
			if path != "" {
				below = path + "/" + e.Name
			}
			walk(below, e.Inode)
		}
	}
	walk("", r.Root)
	for _, o := range order {
		n := names[o.Path]
		if n == nil || o.Kind != imagemap.Data || o.Len <= 0 || o.FileOff >= n.Size {
			continue
		}
		if _, has := hot[n]; has && o.FileOff+o.Len > n.Size-n.Size%r.BlockSize {
			hot[n] = true
		}
	}
	for again := true; again; {
		again = false
		for a := range hot {
			for b := range hot {
				if a.Fragment != b.Fragment || !hot[a] || hot[b] {
					continue
				}
				aEnd, bEnd := int64(a.FragOff)+a.Size%r.BlockSize, int64(b.FragOff)+b.Size%r.BlockSize
				if int64(a.FragOff) < bEnd && int64(b.FragOff) < aEnd {
					hot[b], again = true, true
				}
			}
		}
	}
	return hot
}

func raw(t *testing.T, r *squashfs.Reader) *squashfs.Raw {
	t.Helper()
	out, err := r.Raw()
	testrig.Must(t, err)
	return out
}

func lenOf(blocks []uint32) (sum int64) {
	for _, w := range blocks {
		sum += squashfs.StoredLen(w)
	}
	return sum
}

func stored(t *testing.T, r *squashfs.Reader, off, length int64) []byte {
	t.Helper()
	b := make([]byte, length)
	testrig.Must(t, r.ReadStored(b, off))
	return b
}

// unpacker returns a function that unpacks a fragment block, each once.
func unpacker(t *testing.T, r *squashfs.Reader, of *squashfs.Raw) func(fragment uint32) []byte {
	known := map[uint32][]byte{}
	return func(fragment uint32) []byte {
		if known[fragment] == nil {
			b := make([]byte, of.BlockSize)
			n, err := r.UnpackFragment(b, of.Fragments[fragment])
			testrig.Must(t, err)
			known[fragment] = b[:n]
		}
		return known[fragment]
	}
}
