package erofs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

func TestMountEqualsTree(t *testing.T) {
	wide := newDir()
	for i := range 10_000 {
		wide.Entries = append(wide.Entries, tree.Entry{Name: fmt.Sprintf("entry-%07d", i), Inode: newLink("x")})
	}
	deep := newDir(tree.Entry{Name: "end", Inode: newFile(5, 5)})
	for i := range 60 {
		deep = newDir(tree.Entry{Name: fmt.Sprint("d", i), Inode: deep}, tree.Entry{Name: "f", Inode: newFile(i*100, 1)})
	}
	for _, c := range []struct {
		name string
		root *tree.Inode
	}{
		{"everything", everything()},
		{"empty root", newDir()},
		{"one file", newDir(tree.Entry{Name: "f", Inode: newFile(1, 1)})},
		{"wide", newDir(tree.Entry{Name: "wide", Inode: wide})},
		{"deep", deep},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := mustPlan(t, c.root)
			if im.Size()%4096 != 0 || im.Size() == 0 {
				t.Errorf("size %d", im.Size())
			}
			path := writeImage(t, im)
			testrig.Run(t, "fsck.erofs", path)
			checkMount(t, testrig.Mount(t, "erofs", path), c.root)
			checkOwnMap(t, im)
		})
	}
}

// TestOver4GiB writes a flat file with more than 4 GiB and looks at its ends and the 4 GiB border.
func TestOver4GiB(t *testing.T) {
	const size = 1<<32 + 5000
	ends := []tree.Extent{{Off: 0, Len: 10_000}, {Off: 1<<32 - 10_000, Len: 15_000}}
	n := &tree.Inode{Mode: tree.ModeRegular | 0o644, Size: size, Content: &sparseContent{size, ends}}
	root := newDir(tree.Entry{Name: "big", Inode: n}, tree.Entry{Name: "next", Inode: newFile(9000, 1)})
	im := mustPlan(t, root)
	if im.Size() < size {
		t.Fatalf("image of %d bytes for a file of %d", im.Size(), int64(size))
	}
	path := writeImage(t, im)
	dir := testrig.Mount(t, "erofs", path)
	checkMount(t, dir, root)
	for _, e := range ends {
		checkContents(t, dir+"/big", n, e.Off, e.Off+e.Len)
	}
	checkOwnMap(t, im)
}

func checkOwnMap(t *testing.T, im *Image) {
	t.Helper()
	m, err := ReadMap(im, im.Size())
	testrig.Must(t, err)
	got, want := m.Segments(), im.Segments()
	for i := 0; i < len(got) || i < len(want); i++ {
		if i >= len(got) || i >= len(want) {
			t.Fatalf("ReadMap has %d segments, the image %d", len(got), len(want))
		}
		if got[i] != want[i] {
			t.Fatalf("segment %d:\nReadMap %+v\nimage   %+v", i, got[i], want[i])
		}
		if i > 0 && got[i].ImageOff < got[i-1].ImageOff+got[i-1].ImageLen {
			t.Fatalf("segments overlap: %+v %+v", got[i-1], got[i])
		}
	}
}

func TestSegmentsHoldContents(t *testing.T) {
	root := everything()
	im := mustPlan(t, root)
	all := readAll(t, im)
	content := make(map[string]tree.Content)
	size := make(map[string]int64)
	tree.Walk(root, func(path string, n *tree.Inode) error {
		content[path] = n.Content
		size[path] = n.Size
		return nil
	})
	for _, s := range im.Segments() {
		if s.Kind != imagemap.Data || content[s.Path] == nil {
			continue
		}
		c, _ := content[s.Path].Open()
		want := make([]byte, s.FileLen)
		if n, err := c.ReadAt(want, s.FileOff); int64(n) < s.FileLen {
			t.Fatalf("%q: %v", s.Path, err)
		}
		if !bytes.Equal(all[s.ImageOff:s.ImageOff+s.ImageLen], want) {
			t.Errorf("%q [%d +%d): the image has other bytes", s.Path, s.FileOff, s.FileLen)
		}
	}
}

func TestReadAtPieces(t *testing.T) {
	im := mustPlan(t, everything())
	all := readAll(t, im)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for range 3000 {
				off := r.Int64N(im.Size())
				p := make([]byte, r.IntN(20_000))
				n, err := im.ReadAt(p, off)
				if n < len(p) && (err == nil || off+int64(n) != im.Size()) {
					t.Errorf("[%d +%d): %d bytes, %v", off, len(p), n, err)
				}
				if !bytes.Equal(p[:n], all[off:off+int64(n)]) {
					t.Errorf("[%d +%d) differs from the whole", off, len(p))
				}
			}
		})
	}
	wg.Wait()
}

func TestDeterministic(t *testing.T) {
	a, b := mustPlan(t, everything()), mustPlan(t, everything())
	if !bytes.Equal(readAll(t, a), readAll(t, b)) {
		t.Error("the same tree gave two images")
	}
	if !reflect.DeepEqual(a.Segments(), b.Segments()) {
		t.Error("the same tree gave two maps")
	}
}
