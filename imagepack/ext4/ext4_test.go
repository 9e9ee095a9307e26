package ext4_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// TestTreeIsWhatTheKernelShows fills images of all kinds through the kernel and compares every file with the
// kernel's read-only mount.
func TestTreeIsWhatTheKernelShows(t *testing.T) {
	testrig.NeedRoot(t)
	all := treetest.Features{Nanoseconds: true, NegativeTime: true, LateTime: true, ACL: true}
	old := treetest.Features{NegativeTime: true, ACL: true} // inodes of 128 bytes
	small := makeSmallTree(t)
	for i, c := range []struct {
		name, version string
		args          []string
		features      treetest.Features
		wide          int  // entries of a large directory
		small         bool // blocks have no room for some of it
	}{
		{name: "ext4", version: "ext4", args: []string{"-t", "ext4", "-N", "10000"}, features: all, wide: 4000},
		{name: "ext4 1K", version: "ext4", args: []string{"-t", "ext4", "-b", "1024", "-N", "12000"}, features: all, wide: 9000, small: true},
		{name: "ext4 2K no checksums", version: "ext4", args: []string{"-t", "ext4", "-b", "2048", "-O", "^metadata_csum,^64bit,uninit_bg"}, features: all, small: true},
		{name: "ext4 no extents", version: "ext4", args: []string{"-t", "ext4", "-O", "^extents,^64bit"}, features: all, wide: 800},
		{name: "ext4 inline", version: "ext4", args: []string{"-t", "ext4", "-O", "inline_data"}, features: all, wide: 500},
		{name: "ext4 inline 1K", version: "ext4", args: []string{"-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data"}, features: all, wide: 300, small: true},
		{name: "ext4 bigalloc", version: "ext4", args: []string{"-t", "ext4", "-O", "bigalloc", "-C", "16384"}, features: all},
		{name: "ext4 bigalloc 1K", version: "ext4", args: []string{"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"}, features: all, small: true},
		{name: "ext4 ea_inode", version: "ext4", args: []string{"-t", "ext4", "-O", "ea_inode,metadata_csum_seed", "-b", "1024"}, features: all, small: true},
		{name: "ext4 meta_bg", version: "ext4", args: []string{"-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "1024"}, features: all, small: true},
		{name: "ext4 sparse_super2", version: "ext4", args: []string{"-t", "ext4", "-O", "sparse_super2,^flex_bg", "-b", "1024"}, features: all, small: true},
		{name: "ext4 many groups", version: "ext4", args: []string{"-t", "ext4", "-O", "^sparse_super,^resize_inode", "-b", "1024", "-g", "2048", "-G", "4"}, features: all, small: true},
		{name: "ext4 mmp", version: "ext4", args: []string{"-t", "ext4", "-O", "large_dir,mmp,orphan_file,verity"}, features: all},
		{name: "ext3 1K", version: "ext3", args: []string{"-t", "ext3", "-b", "1024"}, features: all, small: true},
		{name: "ext3 old inodes", version: "ext3", args: []string{"-t", "ext3", "-I", "128"}, features: old},
		{name: "ext2", version: "ext2", args: []string{"-t", "ext2"}, features: all},
		{name: "ext2 1K", version: "ext2", args: []string{"-t", "ext2", "-b", "1024", "-I", "128"}, features: old, wide: 800, small: true},
		{name: "ext2 revision 0", version: "ext2", args: []string{"-t", "ext2", "-r", "0"}, features: old},
	} {
		t.Run(c.name, func(t *testing.T) {
			if i > 0 {
				testrig.Slow(t)
			}
			image := mkfs(t, imageSize, append([]string{"-b", "4096"}, c.args...)...)
			fill(t, image, func(dir string) {
				if c.small {
					testrig.Run(t, "cp", "-a", "--sparse=always", small+"/.", dir)
				} else {
					treetest.MakeDir(t, dir, c.features)
				}
				fillMore(t, dir, c.wide, strings.Contains(c.name, "ea_inode"))
			})
			r, root := openTree(t, image)
			dir := testrig.MountWith(t, "ext4", image, "ro,noload")
			treetest.CompareDir(t, dir, root)
			checkMap(t, image, dir, r, root)
			testrig.Unmount(t, dir)
			if i := r.Info(); i.Version != c.version || !i.Clean || i.NeedsRecovery {
				t.Errorf("%+v, want a clean %s", i, c.version)
			}
		})
	}
}

// makeSmallTree makes one of everything that goes into a file system with blocks of 1 KiB.
func makeSmallTree(t *testing.T) string {
	t.Helper()
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, treetest.Features{Nanoseconds: true, NegativeTime: true, LateTime: true, ACL: true})
	testrig.Must(t, os.Remove(dir+"/attrs/many"))
	testrig.Must(t, os.Remove(dir+"/special/long"))
	return dir
}

// fillMore adds what is special to this file system.
func fillMore(t *testing.T, dir string, wide int, largeAttributes bool) {
	t.Helper()
	dir += "/more"
	testrig.Must(t, os.Mkdir(dir, 0o755))
	testrig.Must(t, os.Mkdir(dir+"/wide", 0o755))
	for i := range wide {
		testrig.Must(t, unix.Mknod(fmt.Sprintf("%s/wide/entry-%06d", dir, i), unix.S_IFREG|0o644, 0))
	}
	for i := range 40 { // contents that stay behind in free blocks
		testrig.WriteFile(t, fmt.Sprintf("%s/deleted-%d", dir, i), testrig.Noise(uint32(i), 30_000))
	}
	for i := range 300 { // sizes around what fits in an inode
		testrig.WriteFile(t, fmt.Sprintf("%s/size-%03d", dir, i), testrig.Noise(uint32(i), i))
	}
	for n := 1; n < 300; n += 13 {
		testrig.Must(t, os.Symlink(strings.Repeat("t", n), fmt.Sprintf("%s/link-%03d", dir, n)))
	}
	syncfs(t, dir)
	for i := range 40 {
		testrig.Must(t, os.Remove(fmt.Sprintf("%s/deleted-%d", dir, i)))
	}
	for i := 0; i < 300; i += 2 {
		testrig.Must(t, os.Remove(fmt.Sprintf("%s/size-%03d", dir, i)))
	}
	testrig.Must(t, os.Truncate(dir+"/size-101", 50_000)) // inline data longer than it is
	testrig.Must(t, os.Truncate(dir+"/size-099", 40))
	testrig.Must(t, os.Truncate(dir+"/size-001", 0))

	f, err := os.Create(dir + "/unwritten")
	testrig.Must(t, err)
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 300_000); err != unix.EOPNOTSUPP { // ext2 and ext3 have no unwritten extents
		testrig.Must(t, err)
		_, err = f.WriteAt(testrig.Noise(1, 5000), 100_000)
		testrig.Must(t, err)
		testrig.Must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 300_000, 200_000))
	}
	testrig.Must(t, f.Close())

	f, err = os.Create(dir + "/fragments") // more than the inode has room for, two levels of 1 KiB blocks
	testrig.Must(t, err)
	for i := range 700 {
		_, err := f.WriteAt(testrig.Noise(uint32(i), 1000), int64(i)*8192+int64(i%3))
		testrig.Must(t, err)
	}
	testrig.Must(t, f.Close())

	f, err = os.Create(dir + "/far") // behind what two levels of indirect blocks reach
	testrig.Must(t, err)
	_, err = f.WriteAt(testrig.Noise(5, 9000), 70<<20)
	testrig.Must(t, err)
	testrig.Must(t, f.Close())

	testrig.Must(t, os.Mkdir(dir+"/shrunk", 0o755))
	for i := range 500 {
		testrig.WriteFile(t, fmt.Sprintf("%s/shrunk/%d-%s", dir, i, strings.Repeat("s", i%200)), "")
	}
	for i := range 490 {
		testrig.Must(t, os.Remove(fmt.Sprintf("%s/shrunk/%d-%s", dir, i, strings.Repeat("s", i%200))))
	}
	if largeAttributes {
		for i := range 3 {
			p := fmt.Sprintf("%s/attr-%d", dir, i)
			testrig.WriteFile(t, p, "")
			testrig.Must(t, unix.Setxattr(p, "user.large", testrig.Noise(7, 60_000), 0))
			testrig.Must(t, unix.Setxattr(p, "user.own", testrig.Noise(uint32(i), 5000), 0))
		}
		p := dir + "/attr-dir"
		testrig.Must(t, os.Mkdir(p, 0o755))
		testrig.Must(t, unix.Setxattr(p, "trusted.large", testrig.Noise(8, 65_536), 0))
	}
}
