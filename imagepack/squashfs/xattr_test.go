package squashfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand"
	"testing"

	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"

	"golang.org/x/sys/unix"
)

// TestLargeXattrs reads attribute values up to the 65,536 bytes that Linux allows, some of them shared by files,
// and refuses a longer one. They come from a tmpfs, which stores values of that length.
func TestLargeXattrs(t *testing.T) {
	testrig.NeedRoot(t)
	dir := t.TempDir()
	testrig.Run(t, "mount", "-t", "tmpfs", "tmpfs", dir)
	t.Cleanup(func() { testrig.Unmount(t, dir) })
	value := make([]byte, 65536)
	rand.New(rand.NewSource(1)).Read(value)
	for _, f := range []struct {
		name  string
		sizes map[string]int
	}{
		{"largest", map[string]int{"user.v": 65536}},
		{"shared", map[string]int{"user.v": 65536, "user.empty": 0}},
		{"trusted", map[string]int{"trusted.v": 65535, "user.v": 65536, "trusted.w": 8193}},
		{"small", map[string]int{"user.v": 1}},
	} {
		testrig.WriteFile(t, dir+"/"+f.name, f.name)
		for name, size := range f.sizes {
			if err := unix.Setxattr(dir+"/"+f.name, name, value[:size], 0); err != nil {
				t.Fatalf("%s %s: %v", f.name, name, err)
			}
		}
	}
	for _, args := range [][]string{{"-comp", "lzo"}, {"-comp", "xz", "-Xbcj", "x86"}, {"-noX"}} {
		image := makeImage(t, dir, args...)
		_, root := open(t, image)
		treetest.CompareDir(t, testrig.Mount(t, "squashfs", image), root)
		if n := len(root.Lookup("shared").Xattrs); n != 2 {
			t.Errorf("%v: %d attributes, want 2", args, n)
		}
	}

	b := testrig.ReadFile(t, makeImage(t, dir, "-noX"))
	length := binary.LittleEndian.AppendUint32(nil, 65536)
	i := bytes.Index(b, append(length, value[:100]...))
	if i < 0 {
		t.Fatal("no value found")
	}
	b[i]++
	r, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	testrig.Must(t, err)
	_, err = r.Tree()
	var ce *squashfs.CorruptError
	if !errors.As(err, &ce) {
		t.Errorf("a value of 65,537 bytes: %v, want a CorruptError", err)
	}
}
