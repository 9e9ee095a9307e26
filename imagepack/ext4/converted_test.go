package ext4_test

import (
	"os/exec"
	"slices"
	"testing"

	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// TestConverted reads images that were made larger or smaller or got other features after they were filled, whose
// tables so lie where mke2fs would not put them.
func TestConverted(t *testing.T) {
	testrig.NeedRoot(t)
	small := makeSmallTree(t)
	for i, c := range []struct {
		name string
		args []string
		do   [][]string
	}{
		{"grown", []string{"-b", "1024"}, [][]string{{"resize2fs", "IMAGE", "300M"}}},
		{"grown without flex_bg", []string{"-b", "1024", "-O", "^flex_bg,^64bit"}, [][]string{{"resize2fs", "IMAGE", "300M"}}},
		{"grown far", []string{"-b", "1024", "-O", "^resize_inode"}, [][]string{{"resize2fs", "IMAGE", "2G"}}},
		{"grown with meta_bg", []string{"-b", "1024", "-O", "meta_bg,^resize_inode"}, [][]string{{"resize2fs", "IMAGE", "1G"}}},
		{"shrunk", []string{"-b", "1024"}, [][]string{{"resize2fs", "-M", "IMAGE"}}},
		{"moved to 64bit", []string{"-O", "^64bit"}, [][]string{{"resize2fs", "-b", "IMAGE"}}},
		{"moved from 64bit", []string{"-O", "64bit"}, [][]string{{"resize2fs", "-s", "IMAGE"}}},
		{"checksums", []string{"-O", "^metadata_csum"}, [][]string{{"tune2fs", "-O", "metadata_csum", "IMAGE"}}},
		{"no checksums", []string{"-O", "metadata_csum"}, [][]string{{"tune2fs", "-O", "^metadata_csum", "IMAGE"}}},
		{"new UUID", []string{"-O", "metadata_csum"}, [][]string{{"tune2fs", "-O", "metadata_csum_seed", "IMAGE"}, {"tune2fs", "-U", "random", "IMAGE"}}},
		{"larger inodes", []string{"-t", "ext3", "-I", "128"}, [][]string{{"tune2fs", "-I", "256", "IMAGE"}}},
		{"ext3 to ext4", []string{"-t", "ext3"}, [][]string{{"tune2fs", "-O", "extents,uninit_bg,dir_index", "IMAGE"}}},
		{"no journal", nil, [][]string{{"tune2fs", "-O", "^has_journal", "IMAGE"}}},
		{"packed directories", []string{"-b", "1024"}, [][]string{{"e2fsck", "-fyD", "IMAGE"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if i > 0 {
				testrig.Slow(t)
			}
			args := []string{"-t", "ext4"}
			if slices.Contains(c.args, "-t") {
				args = nil
			}
			image := mkfs(t, imageSize, append(args, c.args...)...)
			fill(t, image, func(dir string) {
				testrig.Run(t, "cp", "-a", "--sparse=always", small+"/.", dir)
			})
			for _, do := range c.do {
				fsck(t, image)
				args := append([]string{}, do[1:]...)
				for k := range args {
					if args[k] == "IMAGE" {
						args[k] = image
					}
				}
				if do[0] == "e2fsck" {
					fsck(t, image, args[:len(args)-1]...)
					continue
				}
				testrig.Run(t, do[0], args...)
			}
			fsck(t, image)
			r, root := openTree(t, image)
			dir := testrig.MountWith(t, "ext4", image, "ro,noload")
			treetest.CompareDir(t, dir, root)
			checkMap(t, image, dir, r, root)
		})
	}
}

// fsck has e2fsck correct what it finds, which is no error here.
func fsck(t *testing.T, image string, args ...string) {
	t.Helper()
	out, err := exec.Command("e2fsck", append(append([]string{"-fy"}, args...), image)...).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() > 1) {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}
