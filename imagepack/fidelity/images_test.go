package fidelity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// Images of other file systems: the pack equals the image as the kernel mounts it.
func TestImages(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	src := scratch(t) + "/src"
	everything(t, src, belowPathMax)
	shallow := src + "2" // mkfs.erofs takes no paths near PATH_MAX and no names of 255 bytes
	testrig.Must(t, os.Mkdir(shallow, 0o755))
	treetest.MakeDir(t, shallow, all)
	s := newSource(t, shallow)
	s.inodes(true)
	s.attrs(true)
	s.links()
	s.sparse()
	s.remove(strings.Repeat("n", 255))
	for _, c := range []struct {
		name, fs string
		make     func(t *testing.T, image string)
	}{
		{"ext4", "ext4", func(t *testing.T, image string) { makeExt4(t, src, image, "-b", "4096", "-I", "256", "-O", "ea_inode") }},
		{"ext4 small blocks", "ext4", func(t *testing.T, image string) {
			makeExt4(t, src, image, "-b", "1024", "-I", "256", "-O", "ea_inode,inline_data")
		}},
		{"erofs", "erofs", func(t *testing.T, image string) { testrig.Run(t, "mkfs.erofs", "-d0", "-x3", image, shallow) }},
		{"erofs lz4hc", "erofs", func(t *testing.T, image string) {
			testrig.Run(t, "mkfs.erofs", "-d0", "-x3", "-zlz4hc,3", image, shallow)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			image := filepath.Join(testrig.MemoryDir(t), "image")
			c.make(t, image)
			packed := pack(t, image, "--fs", "erofs")
			sameDirs(t, testrig.Mount(t, c.fs, image), loopMount(t, packed), loose{})
		})
	}
}

// makeExt4 makes an ext4 image of what such a file system holds of a directory.
func makeExt4(t testing.TB, src, image string, options ...string) {
	t.Helper()
	testrig.Must(t, os.WriteFile(image, nil, 0o600))
	testrig.Must(t, os.Truncate(image, 128<<20))
	testrig.Run(t, "mkfs.ext4", append(append([]string{"-q"}, options...), image)...)
	dir := testrig.MemoryDir(t)
	testrig.Run(t, "mount", "-o", "loop", image, dir)
	defer testrig.Unmount(t, dir)
	// Symlinks of a block and attributes of 64 KiB do not fit everywhere.
	testrig.Run(t, "sh", "-c", `cd "$0" && tar --xattrs --xattrs-include='*' --acls --sparse --numeric-owner --exclude=./names/target-* --exclude=./special/long --exclude=./xattrs/64k --exclude=./xattrs/many -cf - . 2>/dev/null | tar --xattrs --xattrs-include='*' --acls --numeric-owner -pxf - -C "$1"`, src, dir)
	testrig.Must(t, unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0))
}

// The other form of the image inside: a squashfs.
func TestAsSquashfs(t *testing.T) {
	testrig.NeedRoot(t)
	src := scratch(t) + "/src"
	everything(t, src, belowPathMax)
	newSource(t, src).remove("inodes", "text-1", "text-4096") // a squashfs has 32 bits of time, without sign
	sameDirs(t, src, loopMount(t, pack(t, src, "--fs", "squashfs")), loose{wholeSeconds: true, noACL: true})
}
