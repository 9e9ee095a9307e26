package fidelity

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// A file of 5 GiB with data at a few places, among them on both sides of 4 GiB: its holes cost next to nothing.
func TestLargeSparseFile(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedRoot(t)
	base := scratch(t)
	src := base + "/src"
	testrig.Must(t, os.Mkdir(src, 0o755))
	s := newSource(t, src)
	s.holes(5<<30+1234, 0, 1<<31-2500, 1<<32-2500, 1<<32+1<<20, 5<<30+1000)
	const name = "/holes-5368710354-5"
	for _, c := range []struct {
		name string
		args []string // of tar or mksquashfs; none: the directory
	}{
		{"directory", nil},
		{"gnu.tar", []string{"--format=gnu"}},
		{"pax.tar", []string{"--format=posix"}},
		{"pax00.tar", []string{"--format=posix", "--sparse-version=0.0"}},
		{"sqfs", []string{"-comp", "lz4", "-b", "1M", "-quiet", "-no-progress", "-processors", "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			input, want := src, src
			switch {
			case c.name == "sqfs":
				input = filepath.Join(testrig.MemoryDir(t), c.name)
				testrig.Run(t, "mksquashfs", append([]string{src, input}, c.args...)...)
				want = testrig.Mount(t, "squashfs", input)
			case c.args != nil:
				input = filepath.Join(testrig.MemoryDir(t), c.name)
				testrig.Run(t, "tar", append(c.args, "--sparse", "-C", src, "-cf", input, ".")...)
			}
			packed := pack(t, input)
			st, err := os.Stat(packed)
			testrig.Must(t, err)
			if st.Size() > 1<<20 {
				t.Errorf("the pack has %d bytes", st.Size())
			}
			var got string
			if c.args == nil {
				got = webMount(t, packed)
			} else {
				got = loopMount(t, packed)
			}
			step := int64(64 << 10)
			if c.name == "sqfs" {
				step = 16 << 20 // the kernel makes pages of a whole block of zeros
			}
			sameSparse(t, want+name, got+name, step)
		})
	}
}

// sameSparse compares two large files: all around their data, and of holes a page in every step bytes.
func sameSparse(t *testing.T, want, got string, step int64) {
	t.Helper()
	open := func(path string) (*os.File, int64) {
		f, err := os.Open(path)
		testrig.Must(t, err)
		t.Cleanup(func() { f.Close() })
		testrig.Must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)) // no readahead
		st, err := f.Stat()
		testrig.Must(t, err)
		return f, st.Size()
	}
	a, size := open(want)
	b, gotSize := open(got)
	if size != gotSize {
		t.Fatalf("%d bytes, want %d", gotSize, size)
	}
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	same := func(off, length int64) {
		n, _ := a.ReadAt(x[:length], off)
		m, err := b.ReadAt(y[:length], off)
		if n != m || string(x[:n]) != string(y[:m]) {
			t.Fatalf("[%d +%d) differs: %d bytes, want %d; %v", off, length, m, n, err)
		}
	}
	for off := int64(0); off < size; off += step {
		same(off, 4096)
	}
	for _, around := range []int64{0, 1 << 31, 1 << 32, 1<<32 + 1<<20, 3 << 30, 5 << 30} {
		same(max(0, around-1<<19), 1<<20)
	}
}
