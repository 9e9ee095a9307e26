package fidelity

import (
	"context"
	"hash/maphash"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// extract unpacks an archive with the tool that is its oracle.
func extract(t testing.TB, tool, archive, dir string) {
	t.Helper()
	testrig.Must(t, os.Mkdir(dir, 0o755))
	args := []string{"--xattrs", "--acls", "--numeric-owner", "-p", "-C", dir, "-xf", archive}
	if tool == "tar" {
		args = append([]string{"--xattrs-include=*"}, args...)
	}
	testrig.Run(t, tool, args...)
}

// Everything, in archives as GNU tar and bsdtar make them, compressed in each way: the pack equals what the tool that
// made the archive extracts.
func TestTar(t *testing.T) {
	testrig.NeedRoot(t)
	base := scratch(t)
	rich := base + "/rich"
	// bsdtar keeps links to sockets, but no sockets. Single sockets are left out by both.
	everything(t, rich, belowPathMax).remove("links/m-socket", "links/a-m-socket", "links/z-m-socket", "links/a/m-socket", "links/z/m-socket")
	// bsdtar writes a pax archive that keeps all, but for sockets, links to devices, parts of a second before
	// 1970 and the largest numbers in ACLs. When it extracts, it changes names: the oracle is the source.
	bsd := base + "/bsd"
	testrig.Run(t, "cp", "-a", rich, bsd)
	nb := newSource(t, bsd)
	nb.remove("special/socket", "xattrs/socket", "special/null-again", "xattrs/acls/file-4294967293", "xattrs/acls/file-4294967293-dir")
	for _, at := range []string{"a/", "a-", "z/", "z-"} {
		nb.remove("links/"+at+"m-char", "links/"+at+"m-block")
	}
	for path, r := range walk(t, bsd, loose{}, maphash.MakeSeed()) {
		if r.sec < 0 {
			nb.time(path, r.sec, 0)
		}
	}
	poor := base + "/poor" // what ustar holds
	testrig.Must(t, os.Mkdir(poor, 0o755))
	treetest.MakeDir(t, poor, treetest.Features{})
	s := newSource(t, poor)
	s.sparse()
	small := base + "/small"
	makeSmall(t, small)
	s.remove("owner-large", "dir/deep", "special/char-large", "special/block-large", "special/long", strings.Repeat("n", 255))

	attrs := []string{"--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"}
	with := func(more ...string) []string { return append(more, attrs...) }
	for i, c := range []struct {
		name, dir, tool string
		args            []string
	}{
		{"posix.tar", rich, "tar", with("--format=posix")},
		{"sparse10.tar.zst", rich, "tar", with("--format=posix", "--sparse", "--zstd")},
		{"small.tar.xz", small, "tar", with("--format=posix", "-I", "xz -0")},
		{"sparse00.tar.gz", rich, "tar", with("--format=posix", "--sparse", "--sparse-version=0.0", "--gzip")},
		{"gnu.tar", rich, "tar", []string{"--format=gnu", "--sparse", "--numeric-owner"}},
		{"oldgnu.tar", poor, "tar", []string{"--format=oldgnu", "--sparse", "--numeric-owner"}},
		{"ustar.tar", poor, "tar", []string{"--format=ustar"}},
		{"incremental.tar", rich, "tar", []string{"--format=gnu", "--listed-incremental=" + base + "/list"}},
		{"bsd-pax.tar", bsd, "bsdtar", []string{"--format=pax", "--xattrs", "--acls", "--numeric-owner"}},
		{"bsd-ustar.tar", poor, "bsdtar", []string{"--format=ustar"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if i > 0 {
				testrig.Slow(t)
			}
			show := loopMount
			if c.name == "sparse10.tar.zst" { // one client at a time
				show = webMount
			} else {
				t.Parallel()
			}
			archive := filepath.Join(testrig.MemoryDir(t), c.name)
			testrig.Run(t, c.tool, append(c.args, "-C", c.dir, "-cf", archive, ".")...)
			got := show(t, zoned(t, archive))
			if strings.HasPrefix(c.name, "bsd-pax") {
				sameDirs(t, bsd, got, loose{})
				return
			}
			extracted := base + "/" + c.name
			extract(t, c.tool, archive, extracted)
			sameDirs(t, extracted, got, loose{noRootTime: c.tool == "bsdtar"})
			testrig.Must(t, os.RemoveAll(extracted))
		})
	}
}

// Compressed files of several streams, as parallel compressors make them.
func TestTarStreams(t *testing.T) {
	testrig.NeedRoot(t)
	base := scratch(t)
	src := base + "/src"
	makeSmall(t, src)
	testrig.Run(t, "tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-C", src, "-cf", base+"/x.tar", ".")
	extract(t, "tar", base+"/x.tar", base+"/extracted")
	for _, tool := range []string{"gzip", "bzip2", "xz", "zstd"} {
		t.Run(tool, func(t *testing.T) {
			testrig.Run(t, "sh", "-c", `cd "$0" && { head -c 30000 x.tar | $1 -c; tail -c +30001 x.tar | head -c 10000 | $1 -c; tail -c +40001 x.tar | $1 -c; } >x.tar.$1`, base, tool)
			sameDirs(t, base+"/extracted", loopMount(t, pack(t, base+"/x.tar."+tool)), loose{})
		})
	}
}

// The oldest format has no mark but the checksum of its headers.
func TestTarV7(t *testing.T) {
	testrig.NeedRoot(t)
	base := scratch(t)
	src := base + "/src"
	testrig.Must(t, os.Mkdir(src, 0o755))
	s := newSource(t, src)
	s.links()
	s.remove("links/m-fifo", "links/m-char", "links/m-block", "links/m-socket")
	for _, at := range []string{"a/", "a-", "z/", "z-"} {
		for _, kind := range []string{"fifo", "char", "block", "socket"} {
			s.remove("links/" + at + "m-" + kind)
		}
	}
	archive := base + "/v7.tar"
	testrig.Run(t, "tar", "--format=v7", "-C", src, "-cf", archive, ".")
	img, err := imagepack.Open(context.Background(), archive, "")
	testrig.Must(t, err)
	defer img.Close()
	if img.Filesystem() != "erofs" {
		t.Fatal("a tar of the v7 format is taken for a raw image: isTar of imagepack must ask tree.IsTar")
	}
	extract(t, "tar", archive, base+"/extracted")
	sameDirs(t, base+"/extracted", loopMount(t, zoned(t, archive)), loose{})
}
