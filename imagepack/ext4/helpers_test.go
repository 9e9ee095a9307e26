package ext4_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/ext4"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

const imageSize = 64 << 20

// mkfs makes an image of size bytes, a file with holes.
func mkfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	image := filepath.Join(testrig.MemoryDir(t), "image.ext4")
	testrig.WriteFile(t, image, "")
	testrig.Must(t, os.Truncate(image, size))
	testrig.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"}, args...), image)...)
	return image
}

// fill mounts the image, lets f write and unmounts it. It is made read-only first, which leaves it clean also if
// another test's mount namespace has a copy of the mount for a while.
func fill(t testing.TB, image string, f func(dir string)) {
	t.Helper()
	dir := testrig.MountWith(t, "ext4", image, "rw,user_xattr,acl,nodiscard")
	f(dir)
	testrig.Run(t, "mount", "-o", "remount,ro", dir)
	testrig.Unmount(t, dir)
}

func openImage(t testing.TB, image string) *ext4.Reader {
	t.Helper()
	f, size := testrig.OpenFile(t, image)
	if !ext4.Probe(f) {
		t.Fatal("Probe does not know the image")
	}
	r, err := ext4.Open(f, size)
	testrig.Must(t, err)
	return r
}

func openTree(t testing.TB, image string) (*ext4.Reader, *tree.Inode) {
	t.Helper()
	r := openImage(t, image)
	root, err := r.Tree()
	testrig.Must(t, err)
	return r, root
}

func openMap(t testing.TB, r *ext4.Reader) *imagemap.Map {
	t.Helper()
	m, err := r.Map()
	testrig.Must(t, err)
	return m
}

// syncfs writes out what the file system at dir has in memory.
func syncfs(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	testrig.Must(t, err)
	defer f.Close()
	testrig.Must(t, unix.Syncfs(int(f.Fd())))
}

// freeOf returns the free blocks that dumpe2fs lists, as ranges of the image in order.
func freeOf(t testing.TB, image string, blockSize int64) []ext4.Range {
	t.Helper()
	var out []ext4.Range
	cluster := int64(1) // blocks; ranges of clusters are printed by the first block of each
	for _, line := range strings.Split(testrig.Run(t, "dumpe2fs", image), "\n") {
		if size, ok := strings.CutPrefix(line, "Cluster size: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
			testrig.Must(t, err)
			cluster = n / blockSize
		}
		list, ok := strings.CutPrefix(line, "  Free blocks: ")
		if !ok {
			continue
		}
		for _, item := range strings.Split(strings.TrimSpace(list), ", ") {
			if item == "" {
				continue
			}
			a, b, two := strings.Cut(item, "-")
			if !two {
				b = a
			}
			first, err := strconv.ParseInt(a, 10, 64)
			testrig.Must(t, err)
			last, err := strconv.ParseInt(b, 10, 64)
			testrig.Must(t, err)
			off, length := first*blockSize, (last-first+cluster)*blockSize
			if k := len(out) - 1; k >= 0 && out[k].ImageOff+out[k].Len == off {
				out[k].Len += length
			} else {
				out = append(out, ext4.Range{ImageOff: off, Len: length})
			}
		}
	}
	return out
}
