package fidelity

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sort"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/erofs"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// Archives in which entries replace each other, link to each other and go through symlinks, at random: what GNU tar
// extracts without complaint, an image holds. All the archives' trees lie in one image, to mount it once.
func TestTarOrder(t *testing.T) {
	testrig.NeedRoot(t)
	base := scratch(t)
	root := &tree.Inode{Mode: tree.ModeDir | 0o755}
	for seed := range uint64(300) {
		path, dir := fmt.Sprintf("%s/%d.tar", base, seed), fmt.Sprintf("%s/%d", base, seed)
		testrig.Must(t, os.WriteFile(path, randomTar(t, seed), 0o644))
		testrig.Must(t, os.Mkdir(dir, 0o755))
		out, err := exec.Command("tar", "--numeric-owner", "-p", "-C", dir, "-xf", path).CombinedOutput()
		if err != nil || len(out) > 0 {
			continue // an entry below a file, a link to nothing
		}
		n, closer, err := tree.FromTarFile(context.Background(), path, tree.TarOptions{})
		if err != nil {
			list, _ := exec.Command("tar", "-tvf", path).Output()
			t.Errorf("seed %d: %v\n%s", seed, err, list)
			continue
		}
		defer closer.Close()
		root.Entries = append(root.Entries, tree.Entry{Name: fmt.Sprint(seed), Inode: n})
	}
	t.Logf("%d archives", len(root.Entries))
	if len(root.Entries) < 80 {
		t.Errorf("only %d archives could be compared", len(root.Entries))
	}
	sort.Slice(root.Entries, func(i, j int) bool { return root.Entries[i].Name < root.Entries[j].Name })
	img, err := erofs.Plan(root, erofs.Options{})
	testrig.Must(t, err)
	defer img.Close()
	image, err := os.Create(base + "/image")
	testrig.Must(t, err)
	defer image.Close()
	_, err = io.Copy(image, io.NewSectionReader(img, 0, img.Size()))
	testrig.Must(t, err)
	at, seed := testrig.Mount(t, "erofs", image.Name()), maphash.MakeSeed()
	for _, e := range root.Entries {
		want, got := walk(t, base+"/"+e.Name, loose{}, seed), walk(t, at+"/"+e.Name, loose{}, seed)
		for path, r := range got {
			// tar leaves the time of now where no entry names a directory, and where it takes a directory for
			// finished too early: one that is spelled in several ways or reached through a symlink.
			if w := want[path]; w != nil && w.mode&unix.S_IFMT == unix.S_IFDIR && w.sec > 1_100_000_000 {
				w.sec, w.nsec = r.sec, r.nsec
			}
		}
		if diffs := diffRecords(want, got); len(diffs) > 0 {
			list, _ := exec.Command("tar", "-tvf", base+"/"+e.Name+".tar").Output()
			t.Errorf("seed %s: %q\n%s", e.Name, diffs, list)
		}
	}
}

// randomTar makes an archive of few names and many collisions.
func randomTar(t testing.TB, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 8))
	names := []string{"a", "b", "c", "a/a", "a/b", "b/a", "a/a/a", "./b/b", "c/a", "a//c"}
	targets := []string{"a", "b", "c", "a/a", "./b"}
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content string) {
		h.Size, h.ModTime = int64(len(content)), time.Unix(1_000_000_000+int64(b.Len()), 0)
		testrig.Must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		testrig.Must(t, err)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}, "")
	for i := range 2 + r.IntN(8) {
		h := tar.Header{Name: pick(names), Mode: []int64{0o644, 0o755, 0o700, 0o4755, 0o1777}[r.IntN(5)], Uid: i}
		switch r.IntN(10) {
		case 0, 1, 2:
			h.Typeflag = tar.TypeReg
			add(h, fmt.Sprintf("content %d", i))
		case 3, 4, 5:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
			h.Mode |= 0o700
			add(h, "")
		case 6, 7:
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, pick(targets), 0o777
			add(h, "")
		case 8:
			if h.Typeflag, h.Linkname = tar.TypeLink, pick(names); h.Linkname != h.Name { // tar passes over a link to itself
				add(h, "")
			}
		case 9:
			h.Typeflag = tar.TypeFifo
			add(h, "")
		}
	}
	testrig.Must(t, w.Close())
	return b.Bytes()
}
