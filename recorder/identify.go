package recorder

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"bootprof/internal/fsmagic"
)

// readThrough reads the whole image if its SHA-256 is not known, which also brings it into memory, or if it is a
// file that fits there well.
func (o *Options) readThrough(ctx context.Context, sum *[32]byte) error {
	known := *sum != [32]byte{}
	if _, isFile := o.Image.(*os.File); known && !(isFile && o.Size <= availableMemory()/2) {
		return nil
	}
	r := &ctxReader{ctx, io.NewSectionReader(o.Image, 0, o.Size)}
	h := sha256.New()
	w := io.Writer(h)
	if known {
		w = io.Discard
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if n != o.Size {
		return fmt.Errorf("it has %d bytes, not %d", n, o.Size)
	}
	if !known {
		h.Sum(sum[:0])
	}
	return nil
}

// A ctxReader stops with the context's error.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// detect names the image's file system; "" for a partition table.
func detect(image io.ReaderAt, size int64) string {
	name := fsmagic.Detect(io.NewSectionReader(image, 0, size))
	if !fsmagic.Mountable(name) {
		return ""
	}
	return name
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// machineClass is coarse on purpose: it says whether two runs can be compared in time, not whose machine it was.
func machineClass(cpus int) string {
	var u unix.Utsname
	var si unix.Sysinfo_t
	if unix.Uname(&u) != nil || unix.Sysinfo(&si) != nil {
		return ""
	}
	bytes := uint64(si.Totalram) * uint64(si.Unit)
	return fmt.Sprintf("%s, %d cpus, %d GiB", unix.ByteSliceToString(u.Machine[:]), cpus, (bytes+1<<29)>>30)
}

// availableMemory is MemAvailable in bytes; 0 if it cannot be told.
func availableMemory() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int64
		if rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			if _, err := fmt.Sscanf(rest, "%d kB", &kb); err == nil {
				return kb << 10
			}
		}
	}
	return 0
}
