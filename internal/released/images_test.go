package released

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/internal/testrig"
)

const listing = "images/tree.list" // of the tree that is in each image

// images has a row for every file in testdata/images but the listing.
var images = []struct {
	name string // of the file; behind a colon, what of it is taken
	fs   string // the kernel mounts it as this; "": it does not
}{
	{"squashfs-gzip.sqfs", "squashfs"},
	{"squashfs-lzo.sqfs", "squashfs"},
	{"squashfs-lz4.sqfs", "squashfs"},
	{"squashfs-xz.sqfs", "squashfs"},
	{"squashfs-zstd.sqfs", "squashfs"},
	{"squashfs-none.sqfs.zst:unpacked", "squashfs"},
	{"erofs-plain.erofs.zst:unpacked", "erofs"},
	{"erofs-lz4hc.erofs.zst:unpacked", "erofs"},
	{"ext4.img.zst:unpacked", "ext4"},
	{"ext4-journal.img.zst:unpacked", "ext4"},
	{"live.iso.zst:unpacked", ""},
	{"live-nested.iso.zst:unpacked", ""},
	{"live.cloop.zst:unpacked", ""},
	{"disk-gpt.img.zst:unpacked", ""},
	{"disk-mbr.img.zst:unpacked", ""},
	{"tree.tar.gz", ""},
	{"tree.tar.bz2", ""},
	{"tree.tar.xz", ""},
	{"tree.tar.zst", ""},
	{"tree.tar.zst:unpacked", ""},
}

// Every image is packed, and the pack shows the tree that the image was made of. One that the kernel mounts by
// itself shows it from a loop device, which the listing is true of, and from the web without a pack.
func TestImages(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedMounts(t)
	want := testrig.Testdata(t, listing)
	dir := t.TempDir()
	web := serve(t, dir)
	for _, c := range images {
		t.Run(c.name, func(t *testing.T) {
			file, how, _ := strings.Cut(c.name, ":")
			image := testrig.Testdata(t, "images/"+file)
			if how == "unpacked" {
				image = unpack(t, image)
			}
			if c.fs != "" {
				sameTree(t, want, testrig.Mount(t, c.fs, image))
				testrig.Must(t, os.Symlink(image, dir+"/"+c.name+".img"))
				sameTree(t, want, mounted(t, web.url+c.name+".img"))
			}
			bootprof(t, "pack", image, "-o", dir+"/"+c.name+".bpk", "--level", "fastest")
			sameTree(t, want, mounted(t, web.url+c.name+".bpk"))
		})
	}
}

// unpack writes what a file holds under zstd into a new file.
func unpack(t *testing.T, path string) string {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(testrig.ReadFile(t, path)))
	testrig.Must(t, err)
	defer d.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(path), ".zst")))
	testrig.Must(t, err)
	defer out.Close()
	_, err = d.WriteTo(out)
	testrig.Must(t, err)
	return out.Name()
}

// The generator makes all images, of the same tree. Their bytes depend on the versions of
// the programs; what is in them is TestImages's.
func TestImagesAreMade(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	testrig.NeedProgram(t, "mksquashfs", "mkfs.erofs", "mke2fs", "debugfs", "xorriso", "sfdisk", "bzip2")
	tmp := testrig.MemoryDir(t) // mke2fs and debugfs wait for the disk
	made := tmp + "/images"
	testrig.Run(t, "env", "TMPDIR="+tmp, testrig.Testdata(t, "generate.sh"), made)
	got := files(t, made)
	if !slices.Contains(got, "live.cloop.zst") { // cloop-utils is not installed
		got = append(got, "live.cloop.zst")
		slices.Sort(got)
	}
	if want := files(t, testrig.Testdata(t, "images")); !slices.Equal(got, want) {
		t.Errorf("it makes %q, testdata/images has %q", got, want)
	}
	if a, b := testrig.ReadFile(t, made+"/tree.list"), testrig.ReadFile(t, testrig.Testdata(t, listing)); !bytes.Equal(a, b) {
		t.Errorf("it lists another tree:\n%s", a)
	}
}

// TestImages has a row for each image.
func TestImagesAreKnown(t *testing.T) {
	rows := map[string]bool{"tree.list": true}
	for _, c := range images {
		file, _, _ := strings.Cut(c.name, ":")
		rows[file] = true
	}
	for _, file := range files(t, testrig.Testdata(t, "images")) {
		if !rows[file] {
			t.Errorf("images/%s: no row", file)
		}
		delete(rows, file)
	}
	for file := range rows {
		t.Errorf("images/%s: no file", file)
	}
}
