package squashfs_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand"
	"os/exec"
	"path/filepath"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// bcjFilters are the filters of mksquashfs 4.5: option, number in the .xz format, and code that it makes smaller:
// calls of one place from everywhere.
var bcjFilters = []struct {
	option string
	id     byte
	call   func(pc uint32) []byte
}{
	{"x86", 4, func(pc uint32) []byte {
		return binary.LittleEndian.AppendUint32([]byte{0xe8}, 0x400000-(pc+5))
	}},
	{"powerpc", 5, func(pc uint32) []byte {
		return binary.BigEndian.AppendUint32(nil, 0x48000001|(0x400000-pc)&0x03fffffc)
	}},
	{"ia64", 6, func(pc uint32) []byte {
		pc &^= 15
		addr := uint64(0x400000-pc) >> 4
		insn := uint64(5)<<37 | addr&0xfffff<<13 | addr>>20&1<<36
		b := make([]byte, 16)
		b[0] = 0x10 | 1 // a bundle whose third slot is a branch
		for i, v := 0, insn<<7; i < 6; i++ {
			b[10+i] = byte(v >> (8 * i))
		}
		return b
	}},
	{"arm", 7, func(pc uint32) []byte {
		return binary.LittleEndian.AppendUint32(nil, 0xeb000000|(0x400000-(pc+8))>>2&0xffffff)
	}},
	{"armthumb", 8, func(pc uint32) []byte {
		d := (0x200000 - (pc + 4)) >> 1
		return binary.LittleEndian.AppendUint32(nil, 0xf800f000|d>>11&0x7ff|d&0x7ff<<16)
	}},
	{"sparc", 9, func(pc uint32) []byte {
		return binary.BigEndian.AppendUint32(nil, 0x40000000|(0x400000-pc)>>2&0x3fffff)
	}},
}

// callCode returns n bytes of calls with a little else between.
func callCode(call func(pc uint32) []byte, n int) []byte {
	rng := rand.New(rand.NewSource(1))
	var out []byte
	for len(out) < n {
		out = append(out, call(uint32(len(out)))...)
		if rng.Intn(3) == 0 {
			out = append(out, bytes.Repeat([]byte{byte(rng.Intn(20))}, 16)...)
		}
	}
	return out[:n]
}

// filtersUsed counts the xz blocks of an image by the filter they have gone through.
func filtersUsed(image []byte) map[byte]int {
	used := map[byte]int{}
	for {
		i := bytes.Index(image, []byte("\xfd7zXZ\x00"))
		if i < 0 || len(image) < i+20 {
			return used
		}
		if h := image[i+12:]; h[1]&3 == 1 {
			p := 2
			for _, bit := range []byte{0x40, 0x80} { // stored sizes
				if h[1]&bit != 0 {
					_, n := binary.Uvarint(h[p:])
					p += n
				}
			}
			used[h[p]]++
		}
		image = image[i+6:]
	}
}

// codeDir makes a tree of real programs and of code for the filters' machines.
func codeDir(t testing.TB) string {
	t.Helper()
	dir := testrig.MemoryDir(t)
	for _, program := range []string{"ls", "cat"} {
		path, err := exec.LookPath(program)
		testrig.Must(t, err)
		testrig.WriteFile(t, filepath.Join(dir, program), testrig.ReadFile(t, path))
	}
	for i, f := range bcjFilters {
		testrig.WriteFile(t, filepath.Join(dir, f.option), callCode(f.call, 100_000+i*777))
	}
	return dir
}

// TestBCJ reads blocks that have gone through each filter. Recent kernels (6.18) have none for IA-64: there unsquashfs
// tells what the files are.
func TestBCJ(t *testing.T) {
	testrig.NeedRoot(t)
	dir := codeDir(t)
	for i, f := range bcjFilters {
		t.Run(f.option, func(t *testing.T) {
			if i > 0 {
				testrig.Slow(t)
			}
			t.Parallel()
			image := makeImage(t, dir, "-comp", "xz", "-Xbcj", f.option, "-b", "64K")
			b := testrig.ReadFile(t, image)
			if used := filtersUsed(b); used[f.id] < 2 || len(used) != 1 {
				t.Fatalf("blocks by filter: %v, want some of %d", used, f.id)
			}
			_, root := open(t, image)
			if f.option == "ia64" {
				compareUnsquashfs(t, image, root)
				return
			}
			treetest.CompareDir(t, testrig.Mount(t, "squashfs", image), root)
		})
	}
	for size, filters := range map[string]string{"4K": "x86,arm,armthumb,powerpc,sparc,ia64", "1M": "x86,arm"} {
		t.Run(filters+" "+size, func(t *testing.T) {
			testrig.Slow(t)
			t.Parallel()
			image := makeImage(t, dir, "-comp", "xz", "-Xbcj", filters, "-b", size)
			_, root := open(t, image)
			compareUnsquashfs(t, image, root)
		})
	}
}

// TestLZOBlocks reads lzo images of all variants and block sizes.
func TestLZOBlocks(t *testing.T) {
	testrig.NeedRoot(t)
	dir := codeDir(t)
	for i, size := range []string{"4K", "16K", "128K", "1M"} {
		variants := []string{"lzo1x_1", "lzo1x_1_11", "lzo1x_1_15", "lzo1x_999"}
		t.Run(fmt.Sprintf("%s %s", variants[i], size), func(t *testing.T) {
			t.Parallel()
			args := []string{"-comp", "lzo", "-b", size, "-Xalgorithm", variants[i]}
			if variants[i] == "lzo1x_999" {
				args = append(args, "-Xcompression-level", "3")
			}
			image := makeImage(t, dir, args...)
			r, root := open(t, image)
			treetest.CompareDir(t, testrig.Mount(t, "squashfs", image), root)
			if r.Info().Compressor != "lzo" {
				t.Errorf("compressor %q", r.Info().Compressor)
			}
		})
	}
}

// compareUnsquashfs compares the tree with what unsquashfs writes.
func compareUnsquashfs(t *testing.T, image string, root *tree.Inode) {
	t.Helper()
	out := filepath.Join(testrig.MemoryDir(t), "out")
	testrig.Run(t, "unsquashfs", "-no-progress", "-quiet", "-d", out, image)
	for _, d := range treetest.Diff(out, root, treetest.Options{WholeSeconds: true, NoXattrs: true}) {
		t.Error(d)
	}
}
