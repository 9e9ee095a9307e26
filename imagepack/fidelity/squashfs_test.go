package fidelity

import (
	"path/filepath"
	"testing"

	"bootprof/internal/testrig"
)

// Everything, in squashfs images of every kind that mksquashfs makes: the pack equals the mounted squashfs. (mksquashfs
// makes two of a symlink with two names, and keeps neither ACLs nor times of 64 bits.)
func TestSquashfs(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	base := scratch(t)
	src := base + "/src"
	everything(t, src, belowPathMax)
	testrig.Run(t, "cp", "/bin/ls", src+"/code") // for the filter of xz
	for name, args := range map[string][]string{
		"gzip 4k":        {"-comp", "gzip", "-Xcompression-level", "1", "-b", "4096"},
		"lz4":            {"-comp", "lz4", "-b", "65536"},
		"lzo 1m":         {"-comp", "lzo", "-Xalgorithm", "lzo1x_1", "-b", "1048576"},
		"xz":             {"-comp", "xz", "-Xdict-size", "65536", "-b", "262144"},
		"xz bcj":         {"-comp", "xz", "-Xbcj", "x86", "-Xdict-size", "8192", "-b", "65536"},
		"zstd 1m":        {"-comp", "zstd", "-Xcompression-level", "3", "-b", "1048576"},
		"all fragments":  {"-comp", "zstd", "-Xcompression-level", "1", "-always-use-fragments", "-no-duplicates", "-no-exports"},
		"not compressed": {"-noI", "-noD", "-noF", "-noX", "-noId", "-b", "4096", "-no-sparse"},
		"one owner":      {"-comp", "gzip", "-Xcompression-level", "1", "-all-root", "-no-xattrs"},
	} {
		t.Run(name, func(t *testing.T) {
			web := name == "zstd 1m"
			if !web { // one client at a time
				t.Parallel()
			}
			image := filepath.Join(testrig.MemoryDir(t), "x.sqfs")
			args := append([]string{src, image, "-no-progress", "-processors", "1"}, args...)
			testrig.Run(t, "mksquashfs", args...)
			show := loopMount
			if web {
				show = webMount
			}
			sameDirs(t, testrig.Mount(t, "squashfs", image), show(t, zoned(t, image)), loose{})
		})
	}
}
