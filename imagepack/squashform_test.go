package imagepack

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// A squashfs in boot order, of a directory and of another squashfs: the kernel shows the same files, the manifest fits, and
// its boot pages hold all that a reader of the touched files needs, in few ranges.
func TestWriteSquashfs(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	src := testrig.MemoryDir(t)
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 300 {
		b := make([]byte, r.IntN(1<<r.IntN(20)))
		for k := range b {
			b[k] = byte(r.IntN(20))
		}
		dir := filepath.Join(src, []string{"bin", "lib", "share/doc"}[i%3])
		testrig.Must(t, os.MkdirAll(dir, 0o755))
		testrig.WriteFile(t, filepath.Join(dir, string(rune('a'+i%26))+strings.Repeat("x", i/26)), b)
	}
	testrig.Run(t, "find", src, "-exec", "touch", "-h", "-d", "@1600000000", "{}", "+")
	want, err := tree.FromDir(context.Background(), src, tree.DirOptions{})
	testrig.Must(t, err)
	sqfs := filepath.Join(testrig.MemoryDir(t), "source.sqfs")
	testrig.Run(t, "mksquashfs", src, sqfs, "-comp", "gzip", "-quiet", "-no-progress")
	for name, input := range map[string]string{"directory": src, "squashfs": sqfs} {
		t.Run(name, func(t *testing.T) {
			in, err := OpenInput(context.Background(), input, "")
			testrig.Must(t, err)
			defer in.Close()
			ref, err := in.Image(context.Background(), FSErofs)
			testrig.Must(t, err)
			defer ref.Close()
			var boot []profiles.Range
			touched := make(map[string]bool)
			for _, s := range ref.Segments() {
				if s.Kind == imagemap.Data && strings.HasPrefix(s.Path, "lib/c") {
					boot = append(boot, profiles.Range{ImageOff: s.ImageOff, Len: s.ImageLen})
					touched[s.Path] = true
				}
			}
			out := filepath.Join(testrig.MemoryDir(t), "out.sqfs")
			st, err := WriteSquashfs(context.Background(), in, out, SquashfsOptions{Boot: boot, Reference: ref})
			testrig.Must(t, err)
			if st.Layout.UnknownTouches != 0 {
				t.Errorf("%d touches of unknown files", st.Layout.UnknownTouches)
			}
			treetest.CompareDir(t, testrig.Mount(t, "squashfs", out), want)

			image := testrig.ReadFile(t, out)
			if got, err := decoded(t, out+bpk.ManifestSuffix); err != nil || string(got) != string(image) {
				t.Errorf("the manifest makes %d bytes of %d, %v", len(got), len(image), err)
			}
			p, closer, err := bpk.OpenFile(out + bpk.ManifestSuffix)
			testrig.Must(t, err)
			defer closer.Close()
			f, err := os.Open(out)
			testrig.Must(t, err)
			defer f.Close()
			s, err := squashfs.Open(f, int64(len(image)))
			testrig.Must(t, err)
			for _, seg := range s.Map().Segments() {
				if touched[seg.Path] || seg.Path == "" || seg.Path == "lib" {
					first, end := seg.ImageOff/bpk.PageSize, (seg.ImageOff+seg.ImageLen-1)/bpk.PageSize
					if cold := p.Boot.ColdRanges(first, end-first+1); len(cold) > 0 {
						t.Errorf("%+v lies in part in pages that are not preloaded: %v", seg, cold)
					}
				}
			}
			if n := len(p.Boot.Ranges); n > 8 || p.Boot.Pages()*3 > len(image)/bpk.PageSize {
				t.Errorf("%d pages of %d to preload in %d ranges", p.Boot.Pages(), len(image)/bpk.PageSize, n)
			}
		})
	}
}
