package ext4_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/ext4"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
)

const imageSize = 64 << 20

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MKE2FS_SKIP_CHECK_MSG=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices and mounts by loop")
	}
}

// memoryDir returns a new directory in memory, where there is one: what waits for a disk else is most of these
// tests' time.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ext4-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// mkfs makes an image of size bytes, a file with holes.
func mkfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	image := filepath.Join(memoryDir(t), "image.ext4")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(t, "mke2fs", append(append([]string{"-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"}, args...), image)...)
	return image
}

// mountImage has the kernel mount the image; umount ends that.
func mountImage(t testing.TB, image, options string) (dir string, umount func()) {
	t.Helper()
	dir = t.TempDir()
	run(t, "mount", "-t", "ext4", "-o", "loop,"+options, image, dir)
	done := false
	umount = func() {
		if !done {
			done = true
			run(t, "umount", dir)
		}
	}
	t.Cleanup(umount)
	return dir, umount
}

// fill mounts the image, lets f write and unmounts it. It is made read-only first, which leaves it clean also if
// another test's mount namespace has a copy of the mount for a while.
func fill(t testing.TB, image string, f func(dir string)) {
	t.Helper()
	dir, umount := mountImage(t, image, "rw,user_xattr,acl,nodiscard")
	f(dir)
	run(t, "mount", "-o", "remount,ro", dir)
	umount()
}

func openImage(t testing.TB, image string) *ext4.Reader {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !ext4.Probe(f) {
		t.Fatal("Probe does not know the image")
	}
	r, err := ext4.Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func openTree(t testing.TB, image string) (*ext4.Reader, *tree.Inode) {
	t.Helper()
	r := openImage(t, image)
	root, err := r.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return r, root
}

func openMap(t testing.TB, r *ext4.Reader) *imagemap.Map {
	t.Helper()
	m, err := r.Map()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	must(t, os.WriteFile(path, b, 0o644))
}

// syncfs writes out what the file system at dir has in memory.
func syncfs(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	must(t, unix.Syncfs(int(f.Fd())))
}

// noise returns n bytes without zeros that differ by seed.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x>>24) | 1
	}
	return b
}

// freeOf returns the free blocks that dumpe2fs lists, as ranges of the image in order.
func freeOf(t testing.TB, image string, blockSize int64) []ext4.Range {
	t.Helper()
	var out []ext4.Range
	cluster := int64(1) // blocks; ranges of clusters are printed by the first block of each
	for _, line := range strings.Split(run(t, "dumpe2fs", image), "\n") {
		if size, ok := strings.CutPrefix(line, "Cluster size: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
			must(t, err)
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
			must(t, err)
			last, err := strconv.ParseInt(b, 10, 64)
			must(t, err)
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
