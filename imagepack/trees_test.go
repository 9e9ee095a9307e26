package imagepack

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// packAndMount packs the input with a random boot zone and mounts what comes out of the pack.
func packAndMount(t *testing.T, input string) string {
	t.Helper()
	img := mustOpen(t, context.Background(), input, "")
	pages := int(img.Size() / page)
	pack, _ := mustPack(t, img, WriteOptions{Boot: randomBoot(1, pages, min(pages/3, 100))})
	return testrig.Mount(t, "erofs", extract(t, pack))
}

// treeOf reads the tree of a directory; tree's own tests hold it to the kernel's view.
func treeOf(t *testing.T, dir string) *tree.Inode {
	t.Helper()
	root, err := tree.FromDir(context.Background(), dir, tree.DirOptions{})
	testrig.Must(t, err)
	return root
}

// What the kernel shows of the image in a pack is the directory that was packed.
func TestPackDirectory(t *testing.T) {
	testrig.NeedRoot(t)
	src := testrig.MemoryDir(t)
	treetest.MakeDir(t, src, treetest.Features{Nanoseconds: true, NegativeTime: true, LateTime: true, ACL: true, Wide: 3000})
	at := packAndMount(t, src)
	treetest.CompareDir(t, at, treeOf(t, src))
}

// A tar by GNU tar, with attributes and times to the nanosecond (PAX), and compressed.
func TestPackTar(t *testing.T) {
	testrig.NeedRoot(t)
	src := testrig.MemoryDir(t)
	treetest.MakeDir(t, src, treetest.Features{Nanoseconds: true, NegativeTime: true, LateTime: true})
	remove(t, src, "special/socket", "special/null-again") // GNU tar keeps neither sockets nor links of devices
	for _, c := range []struct{ name, flag string }{{"x.tar", ""}, {"x.tar.gz", "--gzip"}, {"x.tar.zst", "--zstd"}} {
		t.Run(c.name, func(t *testing.T) {
			if c.flag != "--zstd" {
				testrig.Slow(t)
			}
			archive := filepath.Join(testrig.MemoryDir(t), c.name)
			args := []string{"-C", src, "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse", "-cf", archive, "."}
			if c.flag != "" {
				args = append(args, c.flag)
			}
			testrig.Run(t, "tar", args...)
			treetest.CompareDir(t, packAndMount(t, archive), treeOf(t, src))
		})
	}
}

// A squashfs by mksquashfs; it keeps whole seconds and no ACLs.
func TestPackSquashfs(t *testing.T) {
	testrig.NeedRoot(t)
	src := testrig.MemoryDir(t)
	treetest.MakeDir(t, src, treetest.Features{})
	remove(t, src, "special/link-again") // mksquashfs makes two of a symlink with two names
	for _, comp := range []string{"zstd", "gzip"} {
		t.Run(comp, func(t *testing.T) {
			if comp != "gzip" {
				testrig.Slow(t)
			}
			image := filepath.Join(testrig.MemoryDir(t), "x.sqfs")
			testrig.Run(t, "mksquashfs", src, image, "-quiet", "-no-progress", "-comp", comp, "-Xcompression-level", "3")
			treetest.CompareDir(t, packAndMount(t, image), treeOf(t, src))
		})
	}
}

// With --fs keep a squashfs is the image itself, padded.
func TestPackSquashfsKept(t *testing.T) {
	testrig.NeedRoot(t)
	src := testrig.MemoryDir(t)
	treetest.MakeDir(t, src, treetest.Features{})
	remove(t, src, "special/link-again") // mksquashfs makes two of a symlink with two names
	image := filepath.Join(testrig.MemoryDir(t), "x.sqfs")
	testrig.Run(t, "mksquashfs", src, image, "-quiet", "-no-progress")
	img := mustOpen(t, context.Background(), image, FSKeep)
	pack, _ := mustPack(t, img, WriteOptions{Boot: []profiles.Range{{ImageOff: 0, Len: page}}})
	out := extract(t, pack)
	if raw := testrig.ReadFile(t, image); !bytes.HasPrefix(testrig.ReadFile(t, out), raw) {
		t.Error("the image in the pack is not the squashfs that was packed")
	}
	if fs := openPack(t, pack).Header.Filesystem; fs != "squashfs" {
		t.Errorf("file system %q", fs)
	}
	treetest.CompareDir(t, testrig.Mount(t, "squashfs", out), treeOf(t, src))
}

// The same input twice gives the same bytes; a directory and its PAX tar give the same image. A tar of an
// older format keeps whole seconds, so that only mtimes differ.
func TestPackInputsAgree(t *testing.T) {
	testrig.SlowRaced(t)
	testrig.NeedRoot(t)
	src := testrig.MemoryDir(t)
	treetest.MakeDir(t, src, treetest.Features{Nanoseconds: true})
	remove(t, src, "special/socket", "special/null-again")
	dir := testrig.MemoryDir(t)
	pax, gnu := filepath.Join(dir, "pax.tar"), filepath.Join(dir, "gnu.tar")
	tarArgs := []string{"-C", src, "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=none"}
	testrig.Run(t, "tar", append(tarArgs, "--format=pax", "-cf", pax, ".")...)
	testrig.Run(t, "tar", "-C", src, "--format=gnu", "--numeric-owner", "-cf", gnu, ".")
	pack := func(input string) []byte {
		path, _ := mustPack(t, mustOpen(t, context.Background(), input, ""), WriteOptions{Boot: randomBoot(3, 500, 60)})
		return testrig.ReadFile(t, path)
	}
	first := pack(src)
	if !bytes.Equal(first, pack(src)) {
		t.Error("packing a directory twice gives two packs")
	}
	if !bytes.Equal(first, pack(copyOf(t, src))) {
		t.Error("packing a copy of a directory gives another pack")
	}
	// The tar does not tell where holes are, which an image may lay out in another way: compare trees.
	at := packAndMount(t, pax)
	for _, d := range treetest.Diff(at, treeOf(t, src), treetest.Options{}) {
		t.Errorf("PAX tar: %s", d)
	}
	at = packAndMount(t, gnu)
	for _, d := range treetest.Diff(at, treeOf(t, src), treetest.Options{WholeSeconds: true, NoXattrs: true}) {
		t.Errorf("GNU tar: %s", d)
	}
}

// copyOf copies a tree with everything in it, other inode numbers and all.
func copyOf(t *testing.T, src string) string {
	t.Helper()
	dst := filepath.Join(testrig.MemoryDir(t), "copy")
	testrig.Run(t, "cp", "-a", src, dst)
	return dst
}

// remove removes files and leaves the time of their directory as it was.
func remove(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		st, err := os.Stat(filepath.Dir(path))
		testrig.Must(t, err)
		testrig.Must(t, os.Remove(path))
		testrig.Must(t, os.Chtimes(filepath.Dir(path), st.ModTime(), st.ModTime()))
	}
}
