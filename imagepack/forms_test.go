package imagepack

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

// decoded returns the image that the pack at path makes, with what lies beside it.
func decoded(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	p, closer, err := bpk.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	out, err := os.Create(filepath.Join(testrig.MemoryDir(t), "image"))
	testrig.Must(t, err)
	defer out.Close()
	testrig.Must(t, out.Truncate(p.Header.ImageSize))
	if err := p.Extract(context.Background(), out, out); err != nil {
		return nil, err
	}
	return testrig.ReadFile(t, out.Name()), nil
}

// formSizes are pages of images and of their boot order.
var formSizes = []struct {
	name        string
	pages, boot int
}{{"no boot", 100, 0}, {"few", 300, 7}, {"half", 700, 350}, {"all", 64, 64}, {"one page", 1, 1}, {"two nodes", 5000, 300}}

func TestManifest(t *testing.T) {
	for _, c := range formSizes {
		t.Run(c.name, func(t *testing.T) {
			image := mixedPages(3, c.pages)
			path := filepath.Join(testrig.MemoryDir(t), "x.img")
			testrig.WriteFile(t, path, image)
			opts := WriteOptions{Boot: randomBoot(2, c.pages, c.boot), BodyLevel: zstd.SpeedFastest, BootLevel: BootFast}
			st, err := WriteManifest(context.Background(), path+bpk.ManifestSuffix, newMemImage(image), opts)
			testrig.Must(t, err)
			if st.PackSize > int64(2000+100*2*c.boot+c.pages*16) { // a range has two borders in the body index
				t.Errorf("%d bytes for an image of %d pages", st.PackSize, c.pages)
			}
			got, err := decoded(t, path+bpk.ManifestSuffix)
			if err != nil || !bytes.Equal(got, image) {
				t.Fatalf("the image comes back as %d bytes, %v", len(got), err)
			}
			if allZero(image) {
				return
			}
			at := len(image) / 2
			for image[at] == 0 { // digests of zeros are not kept: what is zero is not read
				at = (at + 1) % len(image)
			}
			image[at]++
			testrig.WriteFile(t, path, image)
			var corrupt *bpk.CorruptError
			if _, err := decoded(t, path+bpk.ManifestSuffix); !errors.As(err, &corrupt) {
				t.Errorf("changed image: %v", err)
			}
			testrig.Must(t, os.Truncate(path, int64(at)))
			if _, err := decoded(t, path+bpk.ManifestSuffix); !errors.As(err, &corrupt) || strings.Contains(err.Error(), "\n") {
				t.Errorf("cut image: %v", err)
			}
			testrig.Must(t, os.Rename(path+bpk.ManifestSuffix, path+".other"))
			if _, err := decoded(t, path+".other"); err == nil || !strings.Contains(err.Error(), bpk.ManifestSuffix) {
				t.Errorf("manifest under another name: %v", err)
			}
		})
	}
}

// The boot ranges of a manifest hold what a boot touches, each page once, and are few.
func TestManifestBridges(t *testing.T) {
	const pages = 100_003
	boot := randomBoot(5, pages, 2000)
	want := pageRanges(pages*bpk.PageSize, boot)
	got := bridged(want)
	x := bpk.NewBootIndex(got)
	seen := make(map[int64]bool)
	for _, r := range got {
		if r.Page+r.Pages > pages {
			t.Errorf("range %v is outside the image", r)
		}
		for p := r.Page; p < r.Page+r.Pages; p++ {
			if seen[p] {
				t.Fatalf("page %d twice", p)
			}
			seen[p] = true
		}
	}
	for _, r := range want {
		for p := r.Page; p < r.Page+r.Pages; p++ {
			if !x.Contains(p) {
				t.Fatalf("page %d is missing", p)
			}
		}
	}
	if len(seen) > bridgePages*2000 || len(got) > len(want) {
		t.Errorf("%d pages in %d ranges for 2000 pages in %d", len(seen), len(got), len(want))
	}
}

func TestSplit(t *testing.T) {
	for _, c := range formSizes {
		t.Run(c.name, func(t *testing.T) {
			image := mixedPages(4, c.pages)
			dir := testrig.MemoryDir(t)
			pack := filepath.Join(dir, "x.bpk")
			opts := WriteOptions{Boot: randomBoot(2, c.pages, c.boot), BodyLevel: zstd.SpeedFastest, BootLevel: BootFast, frame: 64}
			_, err := Write(context.Background(), pack, newMemImage(image), opts)
			testrig.Must(t, err)
			p, closer, err := bpk.OpenFile(pack)
			testrig.Must(t, err)
			defer closer.Close()
			index := filepath.Join(dir, "x.bpi")
			st, err := Split(context.Background(), p, index, nil)
			testrig.Must(t, err)
			got, err := decoded(t, index)
			if err != nil || !bytes.Equal(got, image) {
				t.Fatalf("the image comes back as %d bytes, %v", len(got), err)
			}
			again, err := Split(context.Background(), p, index, nil)
			if err != nil || again.New != 0 || again.Chunks != st.Chunks || again.Digest != st.Digest {
				t.Errorf("the second time: %+v, %v; the first time %+v", again, err, st)
			}
			if st.Chunks == 0 {
				return
			}
			var some string
			err = p.Chunks(func(e bpk.Entry) error {
				if e.Codec != bpk.CodecZero {
					some = filepath.Join(dir, bpk.ChunkName(e.SHA256))
				}
				return nil
			})
			testrig.Must(t, err)
			var corrupt *bpk.CorruptError
			for what, damage := range map[string]func() error{
				"missing": func() error { return os.Remove(some) },
				"longer":  func() error { return os.WriteFile(some, make([]byte, 1<<20), 0o600) },
				"empty":   func() error { return os.WriteFile(some, nil, 0o600) },
			} {
				testrig.Must(t, damage())
				if _, err := decoded(t, index); !errors.As(err, &corrupt) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %v", what, err)
				}
				if mended, err := Split(context.Background(), p, index, nil); err != nil || mended.New != 1 {
					t.Errorf("splitting again over a chunk that is %s: %+v, %v", what, mended, err)
				}
			}
		})
	}
}
