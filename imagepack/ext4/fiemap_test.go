package ext4_test

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// An extent as FIEMAP tells it, in bytes.
type fiemapExtent struct {
	fileOff, imageOff, length int64
	flags                     uint32
}

const (
	fiemapLast      = 0x1
	fiemapUnknown   = 0x2
	fiemapDelalloc  = 0x4
	fiemapInline    = 0x200
	fiemapUnwritten = 0x800
)

// fiemap asks the kernel where a file lies.
func fiemap(t testing.TB, path string) []fiemapExtent {
	t.Helper()
	f, err := os.Open(path)
	testrig.Must(t, err)
	defer f.Close()
	var out []fiemapExtent
	const count = 256
	for start := uint64(0); ; {
		buf := make([]uint64, 4+7*count) // struct fiemap and its extents
		buf[0], buf[1] = start, ^uint64(0)-start
		buf[3] = count
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc020660b, uintptr(unsafe.Pointer(&buf[0]))); e != 0 {
			t.Fatalf("FIEMAP of %s: %v", path, e)
		}
		n := int(buf[2] >> 32)
		if n == 0 {
			return out
		}
		for i := range n {
			e := buf[4+7*i:]
			x := fiemapExtent{int64(e[0]), int64(e[1]), int64(e[2]), uint32(e[5])}
			out = append(out, x)
			start = e[0] + e[2]
			if x.flags&fiemapLast != 0 {
				return out
			}
		}
	}
}

func (e fiemapExtent) String() string {
	return fmt.Sprintf("[%d +%d) at %d, flags %#x", e.fileOff, e.length, e.imageOff, e.flags)
}
