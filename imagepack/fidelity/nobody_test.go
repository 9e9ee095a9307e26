package fidelity

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bootprof/internal/testrig"
)

// nobodyRuns is the command as a user without any rights.
func nobodyRuns(args ...string) *exec.Cmd {
	return exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", command()}, args...)...)
}

// Inputs of every kind need no root: nobody makes the same pack of them.
func TestAsNobody(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	base := scratch(t)
	testrig.Must(t, os.Chmod(filepath.Dir(base), 0o755))
	src := base + "/src"
	makeSmall(t, src)
	at := func(name string) string { return base + "/" + name }
	testrig.Must(t, os.Mkdir(at("live"), 0o755))
	testrig.Must(t, os.Mkdir(at("live/live"), 0o755))
	testrig.Run(t, "mksquashfs", src, at("squashfs"), "-comp", "lz4", "-quiet", "-no-progress", "-processors", "1")
	testrig.Run(t, "cp", at("squashfs"), at("live/live/filesystem.squashfs"))
	testrig.Run(t, "mkfs.erofs", "-zlz4hc", at("erofs"), src)
	plain := at("plain") // mkfs.ext4 has no room for many attributes
	testrig.Run(t, "cp", "-r", "--preserve=mode,ownership,timestamps,links", src, plain)
	testrig.Run(t, "mkfs.ext4", "-q", "-d", plain, "-O", "^has_journal", "-I", "256", at("ext4"), "32m")
	testrig.Run(t, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", at("iso"), at("live"))
	testrig.Run(t, "tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-C", src, "-cf", at("tar"), ".")
	testrig.Run(t, "tar", "--zstd", "-C", src, "-cf", at("tar.zst"), ".")
	testrig.Run(t, "truncate", "-s", "64M", at("disk"))
	testrig.Run(t, "sh", "-c", `printf 'label: dos\nsize=8MiB, type=c\nsize=40MiB, type=83, bootable\n' | sfdisk -q "$0"`, at("disk"))
	testrig.Run(t, "dd", "if="+at("ext4"), "of="+at("disk"), "bs=1M", "seek=9", "conv=notrunc", "status=none")
	writeCloop(t, at("cloop"), at("iso"))
	testrig.Must(t, os.Mkdir(at("out"), 0o777))
	testrig.Must(t, os.Chmod(at("out"), 0o777))
	for _, c := range []struct{ name, fs string }{
		{"squashfs", ""}, {"erofs", ""}, {"ext4", ""}, {"ext4", "erofs"}, {"iso", ""}, {"iso", "keep"}, {"disk", "erofs"}, {"cloop", ""}, {"tar", ""}, {"tar.zst", ""},
	} {
		t.Run(c.name+" "+c.fs, func(t *testing.T) {
			input, out := at(c.name), at("out/x.bpk")
			args := []string{"pack", input, "-o", out, "--level", "fastest"}
			if c.fs != "" {
				args = append(args, "--fs", c.fs)
			}
			testrig.Must(t, os.Chmod(input, 0o444))
			if b, err := nobodyRuns(args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, b)
			}
			made, err := os.ReadFile(out)
			testrig.Must(t, err)
			testrig.Must(t, os.Remove(out))
			testrig.Run(t, command(), args...)
			want, err := os.ReadFile(out)
			testrig.Must(t, err)
			if !bytes.Equal(made, want) {
				t.Errorf("%d bytes, root's pack has %d", len(made), len(want))
			}
			testrig.Must(t, os.Remove(out))
		})
	}
}

// writeCloop writes the image at from as a cloop v2.
func writeCloop(t testing.TB, path, from string) {
	t.Helper()
	const block = 64 << 10
	image, err := os.ReadFile(from)
	testrig.Must(t, err)
	image = append(image, make([]byte, -len(image)&(block-1))...)
	head := make([]byte, 128)
	copy(head, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n")
	n := len(image) / block
	head = binary.BigEndian.AppendUint32(head, block)
	head = binary.BigEndian.AppendUint32(head, uint32(n))
	first := uint64(len(head) + 8*(n+1))
	var data bytes.Buffer
	for i := range n {
		head = binary.BigEndian.AppendUint64(head, first+uint64(data.Len()))
		z := zlib.NewWriter(&data)
		_, err := z.Write(image[i*block : (i+1)*block])
		testrig.Must(t, err)
		testrig.Must(t, z.Close())
	}
	head = binary.BigEndian.AppendUint64(head, first+uint64(data.Len()))
	testrig.Must(t, os.WriteFile(path, append(head, data.Bytes()...), 0o644))
}
