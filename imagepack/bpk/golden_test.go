package bpk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

// The golden packs, manifests and split packs in testdata/packs are of every released format, and stay readable. The digests
// of a pack and of the image in it stand in the file beside it. They are never written anew: -update writes those that are
// missing.
func TestGoldens(t *testing.T) {
	if *update {
		writeGoldens(t, testrig.Testdata(t, fmt.Sprintf("packs/v%d.%d", bpk.Major, bpk.Minor)))
	}
	for _, form := range []struct {
		glob     string
		features uint32
	}{
		{"packs/v*/root.bpk", 0},
		{"packs/v*/manifest/*.bpm", bpk.FeatureBeside},
		{"packs/v*/split/*.bpi", bpk.FeatureSplit},
	} {
		packs, err := filepath.Glob(testrig.Testdata(t, form.glob))
		if err != nil || len(packs) == 0 {
			t.Fatalf("no golden packs %s: %v", form.glob, err)
		}
		for _, path := range packs {
			t.Run(strings.TrimPrefix(path, testrig.Testdata(t, "packs")+"/"), func(t *testing.T) {
				want := testrig.ReadFile(t, path+".sums")
				pack := testrig.ReadFile(t, path)
				p, closer, err := bpk.OpenFile(path)
				testrig.Must(t, err)
				defer closer.Close()
				image := make([]byte, p.Header.ImageSize)
				if err := p.Decode(context.Background(), func(part bpk.Part) error {
					copy(image[part.ImageOff:part.ImageOff+part.Len], part.Data)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if got := sums(pack, image); got != string(want) {
					t.Errorf("got\n%swant\n%s", got, want)
				}
				if p.Header.Features != form.features || p.Header.BootPages == 0 || p.Header.Info.Len == 0 {
					t.Errorf("features %#x, %d boot pages, info of %d bytes", p.Header.Features, p.Header.BootPages, p.Header.Info.Len)
				}
				if name, ok := bpk.ImageName(path); ok { // any program reads the image of a manifest
					if file, err := os.ReadFile(name); err != nil || !bytes.Equal(file, image) {
						t.Errorf("%s holds %d bytes and not the image: %v", name, len(file), err)
					}
				}
			})
		}
	}
}

func sums(pack, image []byte) string {
	return fmt.Sprintf("pack %x\nimage %x\n", sha256.Sum256(pack), sha256.Sum256(image))
}

// writeGoldens writes a pack in dir, and a manifest and a split pack in folders of it.
func writeGoldens(t *testing.T, dir string) {
	t.Helper()
	missing := func(path string) bool { _, err := os.Stat(path); return err != nil }
	write := func(path string, b []byte) {
		testrig.Must(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)))
	}
	writeSums := func(path string, image []byte) {
		pack := testrig.ReadFile(t, path)
		write(path+".sums", []byte(sums(pack, image)))
	}
	const info = `{"tool":"golden"}`
	image, boot := testImage(5000, 4300)
	if name := filepath.Join(dir, "root.bpk"); missing(name) {
		write(name, makePack(t, image, boot, "erofs", info))
		writeSums(name, image)
	}

	// The other forms keep what does not compress in files of its own, so their image is small.
	image, boot = testImage(40, 12)
	clear(image[20*page : 30*page])
	if name := filepath.Join(dir, "manifest", "root.img"); missing(name) {
		write(name, image)
		opts := imagepack.WriteOptions{Boot: boot, Info: func(int64) []byte { return []byte(info) }}
		if _, err := imagepack.WriteManifest(t.Context(), name+bpk.ManifestSuffix, memImage{bytes.NewReader(image), "erofs"}, opts); err != nil {
			t.Fatal(err)
		}
		writeSums(name+bpk.ManifestSuffix, image)
	}
	if name := filepath.Join(dir, "split", "root.bpi"); missing(name) {
		p, err := openBytes(makePack(t, image, boot, "erofs", info))
		testrig.Must(t, err)
		testrig.Must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		if _, err := imagepack.Split(t.Context(), p, name, nil); err != nil {
			t.Fatal(err)
		}
		writeSums(name, image)
	}
}
