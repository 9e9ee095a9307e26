package erofs

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// bigTree is a tree of 40 x 10 directories with 20 files each, 8,000 files and 60 MB in all.
func bigTree() *tree.Inode {
	root := newDir()
	seed := 0
	for a := range 40 {
		da := newDir()
		for b := range 10 {
			db := newDir()
			for c := range 20 {
				seed++
				n := newFile((seed*7919)%1500+(seed%4)*5000, 0)
				// No two pages of the tree shall be the same by chance.
				for i := 0; i+8 < len(n.Content.(bytesContent)); i += 512 {
					le.PutUint64(n.Content.(bytesContent)[i:], uint64(seed)<<32|uint64(i))
				}
				db.Entries = append(db.Entries, tree.Entry{Name: fmt.Sprintf("file%02d", c), Inode: n})
			}
			da.Entries = append(da.Entries, tree.Entry{Name: fmt.Sprintf("dir%02d", b), Inode: db})
		}
		root.Entries = append(root.Entries, tree.Entry{Name: fmt.Sprintf("dir%02d", a), Inode: da})
	}
	return root
}

// TestSmallChangesStaySmall changes a file of a tree and counts the pages of the new image whose bytes are
// nowhere in the old one.
func TestSmallChangesStaySmall(t *testing.T) {
	testrig.Slow(t)
	pages := func(root *tree.Inode) (map[[32]byte]bool, int) {
		b := readAll(t, mustPlan(t, root))
		set := make(map[[32]byte]bool)
		for ; len(b) > 0; b = b[4096:] {
			set[sha256.Sum256(b[:4096])] = true
		}
		return set, len(set)
	}
	old, total := pages(bigTree())
	for _, c := range []struct {
		name   string
		change func(d *tree.Inode)
		most   int // pages
	}{
		{"same size", func(d *tree.Inode) {
			d.Entries[1].Inode.Content.(bytesContent)[0] ^= 1
		}, 1},
		{"one byte more", func(d *tree.Inode) {
			n := d.Entries[1].Inode
			n.Size++
			n.Content = append(n.Content.(bytesContent), 1)
		}, 20},
		{"blocks more", func(d *tree.Inode) {
			n := d.Entries[3].Inode
			n.Size += 20_000
			n.Content = append(n.Content.(bytesContent), make([]byte, 20_000)...)
		}, 60},
		{"new small file", func(d *tree.Inode) {
			d.Entries = append(d.Entries, tree.Entry{Name: "new", Inode: newFile(700, 9)})
		}, 60},
		{"file gone", func(d *tree.Inode) { d.Entries = d.Entries[1:] }, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := bigTree()
			c.change(root.Entries[17].Inode.Entries[4].Inode)
			set, _ := pages(root)
			changed := 0
			for h := range set {
				if !old[h] {
					changed++
				}
			}
			t.Logf("%d of %d pages are new", changed, total)
			if changed > c.most {
				t.Errorf("%d of %d pages are new, at most %d expected", changed, total, c.most)
			}
		})
	}
}
