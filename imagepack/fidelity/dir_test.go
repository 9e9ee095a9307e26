package fidelity

import (
	"fmt"
	"hash/maphash"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// belowPathMax and overPathMax are levels of source.deep.
const (
	belowPathMax = 15
	overPathMax  = 30
)

// everything makes a directory with one of everything, and the extremes of each kind.
func everything(t testing.TB, dir string, levels int) *source {
	t.Helper()
	testrig.Must(t, os.Mkdir(dir, 0o755))
	treetest.MakeDir(t, dir, all)
	s := newSource(t, dir)
	s.inodes(true)
	s.names()
	s.deep(levels)
	s.attrs(true)
	s.links()
	s.sparse()
	s.remove("random-1048576", "random-2097169", "text-1048576") // they only slow the compressors down
	return s
}

func TestDirectory(t *testing.T) {
	testrig.NeedRoot(t)
	src := scratch(t) + "/src"
	everything(t, src, belowPathMax)
	t.Run("by the web", func(t *testing.T) { sameDirs(t, src, webMount(t, pack(t, src)), loose{}) })
	t.Run("by the web, boot zone", func(t *testing.T) {
		testrig.Slow(t)
		sameDirs(t, src, webMount(t, zoned(t, src)), loose{})
	})
	t.Run("by the web, recorded", func(t *testing.T) {
		testrig.Slow(t)
		first, run := pack(t, src), testrig.MemoryDir(t)+"/run.bprof"
		testrig.Run(t, command(), "record", "--image", first, "-o", run, "--", "sh", "-c", "cat $0/text-100000 $0/special/link $0/attrs/c* >/dev/null; ls -lR $0/inodes >/dev/null", "{dir}")
		sameDirs(t, src, webMount(t, pack(t, src, "--profile", run)), loose{})
	})
	t.Run("by loop", func(t *testing.T) {
		testrig.Slow(t)
		sameDirs(t, src, loopMount(t, pack(t, src)), loose{})
	})
	t.Run("by loop, boot zone", func(t *testing.T) { sameDirs(t, src, loopMount(t, zoned(t, src)), loose{}) })
}

// Paths longer than the kernel takes at once.
func TestDeepDirectory(t *testing.T) {
	testrig.NeedRoot(t)
	src := scratch(t) + "/src"
	testrig.Must(t, os.Mkdir(src, 0o755))
	s := newSource(t, src)
	s.attrs(false)
	s.deep(overPathMax)
	sameDirs(t, src, webMount(t, zoned(t, src)), loose{})
}

// A directory of 20,000 entries, and one file with 66,000 names, more than most file systems allow; the entries in a tar and
// a squashfs, too.
func TestWideDirectory(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	src := scratch(t) + "/src"
	testrig.Must(t, os.Mkdir(src, 0o755))
	s := newSource(t, src)
	s.mkdir("wide", 0o755)
	for i := range 20_000 {
		testrig.Must(t, os.WriteFile(fmt.Sprintf("%s/wide/entry %d of many", src, i*7919%20_000), nil, 0o600))
	}
	s.mkdir("linked", 0o755)
	s.mkdir("linked/below", 0o755)
	s.file("linked/0", 5000)
	for i := range 65_999 {
		testrig.Must(t, os.Link(src+"/linked/0", fmt.Sprintf("%s/linked/%s%d", src, []string{"", "below/"}[i%2], i+1)))
	}
	t.Run("directory", func(t *testing.T) { sameDirs(t, src, webMount(t, pack(t, src)), loose{}) })
	wide, seed := src+"/wide", maphash.MakeSeed()
	want := walk(t, wide, loose{wholeSeconds: true}, seed) // all that a squashfs keeps
	t.Run("tar", func(t *testing.T) {
		archive := testrig.MemoryDir(t) + "/x.tar"
		testrig.Run(t, "tar", "--format=posix", "--numeric-owner", "-C", wide, "-cf", archive, ".")
		sameRecords(t, want, walk(t, loopMount(t, pack(t, archive)), loose{wholeSeconds: true}, seed))
	})
	t.Run("squashfs", func(t *testing.T) {
		image := testrig.MemoryDir(t) + "/x.sqfs"
		testrig.Run(t, "mksquashfs", wide, image, "-comp", "lz4", "-quiet", "-no-progress", "-processors", "1")
		sameRecords(t, want, walk(t, loopMount(t, pack(t, image)), loose{}, seed))
	})
}

// A container's root: the merged view of an overlay, where files have device numbers of their own.
func TestOverlay(t *testing.T) {
	testrig.NeedRoot(t)
	base := scratch(t)
	for _, d := range []string{"upper", "work", "merged"} {
		testrig.Must(t, os.Mkdir(base+"/"+d, 0o755))
	}
	everything(t, base+"/lower", belowPathMax).remove("xattrs/opaque/whiteout", "xattrs/opaque/whiteout too")
	testrig.Must(t, unix.Mount("none", base+"/merged", "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base)))
	t.Cleanup(func() { testrig.Unmount(t, base+"/merged") })
	s := newSource(t, base+"/merged")
	s.remove("text-1", "xattrs/acls") // whiteouts
	s.mkdir("xattrs/acls", 0o700)     // opaque
	s.file("xattrs/acls/new", 100)
	testrig.Must(t, os.Chmod(base+"/merged/text-4097", 0o600)) // copied up
	testrig.Must(t, os.Rename(base+"/merged/random-1", base+"/merged/random-one"))
	sameDirs(t, base+"/merged", webMount(t, zoned(t, base+"/merged")), loose{})
}

// Files that may not be written, on ext4 as on the machine's disk.
func TestImmutable(t *testing.T) {
	testrig.NeedRoot(t)
	base := testrig.MemoryDir(t)
	image := base + "/ext4"
	testrig.Must(t, os.WriteFile(image, nil, 0o600))
	testrig.Must(t, os.Truncate(image, 64<<20))
	testrig.Run(t, "mkfs.ext4", "-q", "-b", "4096", "-I", "256", image)
	src := testrig.MemoryDir(t)
	testrig.Run(t, "mount", "-o", "loop", image, src)
	t.Cleanup(func() { testrig.Unmount(t, src) })
	treetest.MakeDir(t, src, treetest.Features{Nanoseconds: true, NegativeTime: true, LateTime: true, ACL: true})
	flags := []string{"+i", src + "/text-4096", src + "/special"}
	testrig.Run(t, "chattr", flags...)
	t.Cleanup(func() { flags[0] = "-i"; testrig.Run(t, "chattr", flags...) })
	sameDirs(t, src, loopMount(t, zoned(t, src)), loose{})
}
