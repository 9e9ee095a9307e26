package imagepack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// packages makes a tree of packages of files of all sizes; version changes, adds and removes files of package 7.
func packages(t *testing.T, dir string, version int) {
	t.Helper()
	r := rand.New(rand.NewPCG(9, 9))
	for pkg := range 40 {
		for i := range 30 {
			b := make([]byte, int(1<<r.IntN(17))+r.IntN(100))
			for k := range b {
				b[k] = "abcdefgh\n"[r.IntN(9)]
			}
			if pkg == 7 && version > 1 {
				switch {
				case i%5 == 0:
					continue
				case i%5 == 1:
					b = append(b, fmt.Sprintf("version %d %s", version, strings.Repeat("more ", 3000))...)
				default:
					b[len(b)/2] = 'X'
				}
			}
			place := []string{"usr/bin", "usr/lib/x86_64-linux-gnu", fmt.Sprintf("usr/share/pkg%02d", pkg)}[i%3]
			path := filepath.Join(dir, place, fmt.Sprintf("pkg%02d-file%d", pkg, i))
			testrig.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			testrig.WriteFile(t, path, b)
			if pkg == 7 && version > 1 && i == 2 {
				testrig.WriteFile(t, path+".new", b)
			}
		}
	}
	testrig.Run(t, "find", dir, "-exec", "touch", "-h", "-d", "@1600000000", "{}", "+")
}

// A build with one package upgraded shares every chunk that held nothing but content of untouched files, unless one of them
// now lies in a page with a file of the package, or the chunk lies beside one; also where both builds have boot zones from the same run.
func TestUpgradeSharesUntouchedChunks(t *testing.T) {
	testrig.Slow(t)
	dir := testrig.MemoryDir(t)
	var packs [2]*bpk.Pack
	var images [2]Image
	for i := range packs {
		src := filepath.Join(dir, fmt.Sprintf("v%d", i+1))
		packages(t, src, i+1)
		images[i] = mustOpen(t, context.Background(), src, "")
		opts := WriteOptions{Boot: bootOf(images[i]), BodyLevel: zstd.SpeedFastest, BootLevel: BootFast}
		path, _ := mustPack(t, images[i], opts)
		p, closer, err := bpk.OpenFile(path)
		testrig.Must(t, err)
		defer closer.Close()
		packs[i] = p
	}
	in := [2]map[[32]byte]bool{{}, {}}
	for i, p := range packs {
		if err := p.Chunks(func(e bpk.Entry) error {
			in[i][e.SHA256] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	m := imagemap.New(images[0].Segments())
	untouched := 0
	err := packs[0].Chunks(func(e bpk.Entry) error {
		var files []string
		for _, r := range packs[0].Boot.ColdRanges(e.Page, e.Pages) {
			for _, s := range m.At(r.Page*bpk.PageSize, r.Pages*bpk.PageSize) {
				if s.Kind != imagemap.Data || strings.Contains(s.Path, "pkg07") {
					return nil // holds something of the package, or positions
				}
				files = append(files, s.Path)
			}
		}
		untouched++
		if !in[1][e.SHA256] && !sharesPage(images[1], files, "pkg07") && !neighbour(m, e, "pkg07") {
			t.Errorf("the chunk of pages [%d +%d) of the old build is not in the new one, and holds only %q", e.Page, e.Pages, files)
		}
		return nil
	})
	testrig.Must(t, err)
	shared, new, all := 0, int64(0), int64(0)
	if err := packs[1].Chunks(func(e bpk.Entry) error {
		all += e.Len
		if e.Codec == bpk.CodecZero || in[0][e.SHA256] {
			shared++
		} else {
			new += e.Len
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	st, err := CompareBase(packs[1], packs[0])
	testrig.Must(t, err)
	if got := st.NewBytes - st.NewBoot; got > new || got == 0 {
		t.Errorf("CompareBase says %d new bytes of the body, the indexes %d", got, new)
	}
	if new*4 > all {
		t.Errorf("%d of %d bytes of the body are new, for one package of 40", new, all)
	}
	t.Logf("%d chunks shared, %d of untouched files; %d of %d bytes new", shared, untouched, new, all)

	same, err := CompareBase(packs[1], packs[1])
	if err != nil || same.NewBytes != 0 || same.New != 0 || same.SamePages != same.AllPages {
		t.Errorf("a pack compared with itself: %+v, %v", same, err)
	}
}

// neighbour tells whether a file of the given name lies directly before or behind a chunk: when it goes, the chunk may be
// cut elsewhere.
func neighbour(m *imagemap.Map, e bpk.Entry, name string) bool {
	for _, page := range []int64{e.Page - 1, e.Page + e.Pages} {
		for _, s := range m.At(page*bpk.PageSize, bpk.PageSize) {
			if strings.Contains(s.Path, name) {
				return true
			}
		}
	}
	return false
}

// sharesPage tells whether img has a part of one of these files in a page with another file of the given name.
func sharesPage(img Image, files []string, other string) bool {
	m := imagemap.New(img.Segments())
	for _, path := range files {
		for _, s := range m.Find(path, imagemap.Data, 0, 1<<62) {
			first, end := s.ImageOff/bpk.PageSize*bpk.PageSize, (s.ImageOff+s.ImageLen+bpk.PageSize-1)/bpk.PageSize*bpk.PageSize
			for _, near := range m.At(first, end-first) {
				if strings.Contains(near.Path, other) {
					return true
				}
			}
		}
	}
	return false
}

// bootOf is a boot that touches the first page of one file in three.
func bootOf(img Image) []profiles.Range {
	var out []profiles.Range
	for _, s := range img.Segments() {
		if len(s.Path)%3 == 0 && s.Kind == imagemap.Data && s.FileOff == 0 {
			out = append(out, profiles.Range{ImageOff: s.ImageOff, Len: min(s.ImageLen, bpk.PageSize)})
		}
	}
	return out
}
