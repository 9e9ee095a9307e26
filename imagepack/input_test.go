package imagepack

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// inputs makes images in images of the directory src, all in dir, by other people's programs.
func inputs(t *testing.T, src, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	testrig.Run(t, "mksquashfs", src, at("plain.sqfs"), "-comp", "gzip", "-quiet", "-no-progress")
	testrig.Run(t, "mkfs.erofs", "-E", "force-inode-extended", at("plain.erofs"), src)
	testrig.Run(t, "mkfs.erofs", "-E", "force-inode-extended", "-zlz4hc", at("lz4.erofs"), src)
	testrig.Run(t, "mkfs.ext4", "-q", "-d", src, "-O", "^has_journal", at("plain.ext4"), "32m")
	testrig.Run(t, "debugfs", "-w", "-R", "rmdir lost+found", at("plain.ext4"))
	testrig.Run(t, "debugfs", "-w", "-R", "set_inode_field / mtime @1600000000", at("plain.ext4"))
	testrig.Run(t, "debugfs", "-w", "-R", "set_inode_field / mtime_extra 0", at("plain.ext4"))

	live := at("live")
	testrig.Must(t, os.MkdirAll(filepath.Join(live, "live"), 0o755))
	copyFile(t, at("plain.sqfs"), filepath.Join(live, "live/filesystem.squashfs"))
	testrig.Run(t, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", at("live.iso"), live)
	copyFile(t, at("plain.sqfs"), filepath.Join(live, "live/other.squashfs"))
	testrig.Run(t, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", at("two.iso"), live)
	writeCloop(t, at("live.cloop"), testrig.ReadFile(t, at("live.iso")))

	nested := at("nested")
	testrig.Must(t, os.MkdirAll(filepath.Join(nested, "LiveOS"), 0o755))
	copyFile(t, at("plain.ext4"), filepath.Join(nested, "LiveOS/rootfs.img"))
	testrig.Run(t, "mksquashfs", nested, at("nested.sqfs"), "-comp", "zstd", "-quiet", "-no-progress")

	disk := at("disk.img")
	testrig.WriteFile(t, disk, "")
	testrig.Must(t, os.Truncate(disk, 64<<20))
	testrig.Run(t, "sh", "-c", "printf 'label: gpt\nsize=8MiB, type=uefi\nsize=40MiB, type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709\n' | sfdisk -q "+disk)
	testrig.Run(t, "dd", "if="+at("plain.ext4"), "of="+disk, "bs=1M", "seek=9", "conv=notrunc", "status=none")
	mbr := at("mbr.img")
	testrig.Run(t, "truncate", "-s", "64M", mbr)
	testrig.Run(t, "sh", "-c", "printf 'label: dos\nsize=8MiB, type=c\nsize=40MiB, type=83, bootable\n' | sfdisk -q "+mbr)
	testrig.Run(t, "dd", "if="+at("plain.ext4"), "of="+mbr, "bs=1M", "seek=9", "conv=notrunc", "status=none")

	// The ISO in KNOPPIX's cloop is the root itself.
	testrig.Run(t, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", at("root.iso"), src)
	writeCloop(t, at("knoppix.cloop"), testrig.ReadFile(t, at("root.iso")))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	testrig.WriteFile(t, to, testrig.ReadFile(t, from))
}

// writeCloop writes image as a cloop v2.
func writeCloop(t *testing.T, path string, image []byte) {
	t.Helper()
	const block = 64 << 10
	head := make([]byte, 128)
	copy(head, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n")
	image = append(bytes.Clone(image), make([]byte, -len(image)&(block-1))...)
	n := len(image) / block
	head = binary.BigEndian.AppendUint32(head, block)
	head = binary.BigEndian.AppendUint32(head, uint32(n))
	var data bytes.Buffer
	first := uint64(len(head) + 8*(n+1))
	for i := range n {
		head = binary.BigEndian.AppendUint64(head, first+uint64(data.Len()))
		z := zlib.NewWriter(&data)
		if _, err := z.Write(image[i*block : (i+1)*block]); err != nil {
			t.Fatal(err)
		}
		z.Close()
	}
	head = binary.BigEndian.AppendUint64(head, first+uint64(data.Len()))
	testrig.WriteFile(t, path, append(head, data.Bytes()...))
}

// Every input becomes an image of the file system in it, and its files, as the kernel shows them in the pack's image, are
// those of the source directory.
func TestInputsWithinInputs(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	src, dir := testrig.MemoryDir(t), testrig.MemoryDir(t)
	for name, content := range map[string]string{"etc/hostname": "lab\n", "usr/bin/x": strings.Repeat("some bytes of a program\n", 9000), "empty": ""} {
		testrig.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(src, name)), 0o755))
		testrig.WriteFile(t, filepath.Join(src, name), content)
	}
	testrig.Run(t, "find", src, "-exec", "touch", "-h", "-d", "@1600000000", "{}", "+")
	inputs(t, src, dir)
	want, err := tree.FromDir(context.Background(), src, tree.DirOptions{})
	testrig.Must(t, err)
	pack := filepath.Join(dir, "x.bpk")
	if _, err := Write(context.Background(), pack, mustOpen(t, context.Background(), src, ""), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, fs, inside, kind string }{
		{"plain.sqfs", "", "", "erofs"},
		{"plain.sqfs", FSSquashfs, "", "squashfs"},
		{"plain.sqfs", FSKeep, "", "squashfs"},
		{"plain.erofs", "", "", "erofs"},
		{"plain.erofs", FSErofs, "", "erofs"},
		{"lz4.erofs", "", "", "erofs"},
		{"plain.ext4", "", "", "ext4"},
		{"plain.ext4", FSErofs, "", "erofs"},
		{"live.iso", "", "", "erofs"},
		{"live.iso", FSSquashfs, "", "squashfs"},
		{"two.iso", "", "live/other.squashfs", "erofs"},
		{"live.cloop", "", "", "erofs"},
		{"nested.sqfs", "", "", "ext4"},
		{"nested.sqfs", FSErofs, "", "erofs"},
		{"disk.img", "", "", "ext4"},
		{"disk.img", FSErofs, "2", "erofs"},
		{"mbr.img", "", "", "ext4"},
		{"mbr.img", FSErofs, "", "erofs"},
		{"root.iso", "", "", "iso9660"},
		{"knoppix.cloop", "", "", "iso9660"},
		{"x.bpk", "", "", "erofs"},
		{"x.bpk", FSSquashfs, "", "squashfs"},
	} {
		t.Run(c.name+" "+c.fs, func(t *testing.T) {
			in, err := OpenInput(context.Background(), filepath.Join(dir, c.name), c.inside)
			testrig.Must(t, err)
			defer in.Close()
			img, err := in.Image(context.Background(), c.fs)
			testrig.Must(t, err)
			defer img.Close()
			if img.Filesystem() != c.kind || len(img.Segments()) == 0 || img.Size()%bpk.PageSize != 0 {
				t.Errorf("%s image of %d bytes with %d segments", img.Filesystem(), img.Size(), len(img.Segments()))
			}
			packed, _ := mustPack(t, img, WriteOptions{})
			image := extract(t, packed)
			var mnt string
			if c.kind == "iso9660" && !strings.Contains(string(testrig.ReadFile(t, "/proc/filesystems")), c.kind) {
				mnt = testrig.MemoryDir(t) // not every kernel mounts an ISO
				testrig.Run(t, "bsdtar", "-xpf", image, "-C", mnt)
				testrig.Run(t, "touch", "-d", "@1600000000", mnt) // which is there before
			} else {
				mnt = testrig.Mount(t, c.kind, image)
			}
			if diff := treetest.Diff(mnt, want, treetest.Options{WholeSeconds: true}); len(diff) > 0 {
				t.Errorf("the files differ: %q", diff)
			}
		})
	}

	for _, c := range []struct{ name, inside, want string }{
		{"two.iso", "", "--inside"},
		{"two.iso", "live/none.squashfs", "live/other.squashfs"},
		{"disk.img", "7", "partition 2"},
		{"plain.sqfs", "x", "--inside x"},
		{"x.bpk", "x", "--inside x"},
	} {
		in, err := OpenInput(context.Background(), filepath.Join(dir, c.name), c.inside)
		if err == nil {
			_, err = in.Image(context.Background(), "")
			in.Close()
		}
		var input *InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s, inside %q: %v", c.name, c.inside, err)
		}
	}

	// Whole, whatever is inside.
	for name, kind := range map[string]string{"two.iso": "iso9660", "disk.img": "", "live.cloop": ""} {
		img := mustOpen(t, context.Background(), filepath.Join(dir, name), FSKeep)
		b := make([]byte, img.Size())
		testrig.Must(t, readImage(img, b, 0))
		if whole := testrig.ReadFile(t, filepath.Join(dir, name)); img.Filesystem() != kind || !bytes.HasPrefix(b, whole) {
			t.Errorf("%s, kept: %q, %d bytes", name, img.Filesystem(), len(b))
		}
		if name != "live.cloop" && len(img.Segments()) == 0 {
			t.Errorf("%s, kept: no map", name)
		}
	}
}
