package relayout_test

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/squashfs/relayout"
	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// makeImage packs dir with mksquashfs.
func makeImage(t testing.TB, dir string, args ...string) string {
	t.Helper()
	image := filepath.Join(testrig.MemoryDir(t), "image.squashfs")
	testrig.Run(t, "mksquashfs", append([]string{dir, image, "-noappend", "-no-progress", "-quiet", "-processors", "2"}, args...)...)
	return image
}

func open(t testing.TB, image string) *squashfs.Reader {
	t.Helper()
	f, size := testrig.OpenFile(t, image)
	r, err := squashfs.Open(f, size)
	testrig.Must(t, err)
	return r
}

// makeTree makes a directory with one of everything and with some real files.
func makeTree(t testing.TB, f treetest.Features) string {
	t.Helper()
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, f)
	for _, name := range []string{"text-1048576", "random-2097169"} { // compressors take long over them
		testrig.Must(t, os.Remove(dir+"/"+name))
	}
	testrig.Must(t, os.CopyFS(dir+"/src", os.DirFS("..")))
	b := testrig.ReadFile(t, "/proc/self/exe")
	for name, b := range map[string][]byte{"program": b[:700_000], "program-again": b[:700_000]} {
		testrig.WriteFile(t, dir+"/"+name, b)
	}
	return dir
}

// create makes the file of a new image.
func create(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(testrig.MemoryDir(t), "new.squashfs"))
	testrig.Must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// randomOrder picks pieces of files, inodes and listings of an image in random order.
func randomOrder(seed int64, segs []imagemap.Segment) []relayout.Touch {
	rnd := rand.New(rand.NewSource(seed))
	var out []relayout.Touch
	for _, i := range rnd.Perm(len(segs))[:len(segs)/6] {
		if s := segs[i]; s.Kind != imagemap.Meta {
			out = append(out, relayout.Touch{Path: s.Path, Kind: s.Kind, FileOff: s.FileOff, Len: s.FileLen})
		}
	}
	return append(out, relayout.Touch{Path: "no/such file"}, relayout.Touch{Path: "program", FileOff: 300_000, Len: 1})
}

// checkHot checks that what is touched comes first, and that nothing else does but what shares a block with it.
func checkHot(t *testing.T, l *relayout.Layout, order []relayout.Touch) {
	t.Helper()
	m := imagemap.New(append([]imagemap.Segment{}, l.Segments...))
	largeEnd := l.HotEnd + l.LargeBytes
	hotFiles, hotBlocks := map[string]bool{}, map[int64]bool{}
	for _, o := range order {
		if o.Kind != imagemap.Data {
			continue
		}
		for _, s := range m.Find(o.Path, o.Kind, o.FileOff, o.Len) {
			if s.ImageOff+s.ImageLen > largeEnd {
				t.Errorf("%q at %d is touched and lies at %d, behind the hot region of %d", o.Path, o.FileOff, s.ImageOff, largeEnd)
			}
			hotFiles[o.Path] = true
			hotBlocks[s.ImageOff] = true
		}
	}
	runs := map[int64]bool{} // first blocks of touched files: their duplicates share them
	for _, s := range l.Segments {
		if s.Kind == imagemap.Data && hotFiles[s.Path] {
			runs[s.ImageOff] = true
		}
	}
	for _, s := range l.Segments {
		if s.Kind == imagemap.Data && s.ImageOff < largeEnd && !hotBlocks[s.ImageOff] && !runs[s.ImageOff] {
			t.Errorf("%q at %d is not touched and lies at %d in the hot region of %d", s.Path, s.FileOff, s.ImageOff, largeEnd)
		}
	}
}

// sameStat compares what the kernel tells of all files of two mounts, inode numbers included. Blocks of directories
// are no part of an image.
func sameStat(t *testing.T, a, b string) {
	t.Helper()
	err := filepath.WalkDir(a, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var sa, sb unix.Stat_t
		if err := unix.Lstat(p, &sa); err != nil {
			return err
		}
		if err := unix.Lstat(b+strings.TrimPrefix(p, a), &sb); err != nil {
			return err
		}
		sa.Dev, sb.Dev = 0, 0
		if d.IsDir() { // sizes of listings, which depend on where inodes are
			sa.Size, sb.Size, sa.Blocks, sb.Blocks = 0, 0, 0, 0
		}
		if sa != sb {
			t.Errorf("%q: %+v and %+v", p, sa, sb)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

var dirSize = regexp.MustCompile(`(?m)^(d\S+ \S+) +\d+ `)

// listing is what unsquashfs shows of an image, without the sizes of directories.
func listing(t testing.TB, image string) string {
	t.Helper()
	lines := strings.Split(dirSize.ReplaceAllString(testrig.Run(t, "unsquashfs", "-llnumeric", image), "$1 "), "\n")
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// compare compares what the kernel shows at dir with a tree, whole seconds only.
func compare(t *testing.T, dir string, want *tree.Inode) {
	t.Helper()
	for _, d := range treetest.Diff(dir, want, treetest.Options{WholeSeconds: true}) {
		t.Error(d)
	}
}

func fromDir(t testing.TB, dir string) *tree.Inode {
	t.Helper()
	root, err := tree.FromDir(context.Background(), dir, tree.DirOptions{})
	testrig.Must(t, err)
	return root
}

// extract compares what unsquashfs extracts of two images.
func extract(t *testing.T, a, b string) {
	t.Helper()
	dirs := [2]string{}
	for i, image := range []string{a, b} {
		dirs[i] = fmt.Sprintf("%s/%d", testrig.MemoryDir(t), i)
		testrig.Run(t, "unsquashfs", "-no-progress", "-quiet", "-d", dirs[i], image)
	}
	compare(t, dirs[1], fromDir(t, dirs[0]))
}
