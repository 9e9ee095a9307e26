package imagepack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/zopt"
	"bootprof/internal/testrig"
)

// touchy is an image whose reads are counted, and may fail or do something else at a certain one.
type touchy struct {
	Image
	calls  atomic.Int64
	inside atomic.Int64
	closed atomic.Bool
	after  int64
	then   func() error
}

func (x *touchy) ReadAt(p []byte, off int64) (int, error) {
	x.inside.Add(1)
	defer x.inside.Add(-1)
	if x.closed.Load() {
		panic("read after Write returned")
	}
	if x.calls.Add(1) > x.after && x.then != nil {
		if err := x.then(); err != nil {
			return 0, err
		}
	}
	return x.Image.ReadAt(p, off)
}

// Write that is cancelled, or whose input fails, at any read of the image: one error, the old file is as it
// was, and nobody reads the image any more.
func TestWriteLeavesTheDirectoryAsItWas(t *testing.T) {
	image := mixedPages(1, 200)
	boot := randomBoot(1, 200, 50) // seven frames
	base := newMemImage(image)
	count := &touchy{Image: base}
	mustPack(t, count, WriteOptions{Boot: boot, Workers: 2, frame: 8})
	total := count.calls.Load()
	errBroken := errors.New("input/output error")
	before := runtime.NumGoroutine()
	for _, kind := range []string{"cancel", "fail", "eof"} {
		for _, after := range []int64{0, 10, total / 4, total / 2, total - 8, total - 2} {
			ctx, cancel := context.WithCancel(context.Background())
			img := &touchy{Image: base, after: after}
			want := errBroken
			switch kind {
			case "cancel":
				img.then, want = func() error { cancel(); return nil }, context.Canceled
			case "fail":
				img.then = func() error { return errBroken }
			case "eof":
				img.then, want = func() error { return io.EOF }, io.ErrUnexpectedEOF
			}
			dir := testrig.MemoryDir(t)
			path := filepath.Join(dir, "x.bpk")
			testrig.WriteFile(t, path, "old")
			st, err := Write(ctx, path, img, WriteOptions{Boot: boot, Workers: 3, frame: 8, BodyLevel: zstd.SpeedFastest, BootLevel: BootFast})
			img.closed.Store(true)
			if !errors.Is(err, want) || st != nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s after %d reads: Write = %v, %v", kind, after, st, err)
			}
			if n := img.inside.Load(); n != 0 {
				t.Errorf("%s after %d reads: %d reads under way after the return", kind, after, n)
			}
			if kind != "cancel" && img.calls.Load() > after+20 {
				t.Errorf("%s after %d reads: %d more", kind, after, img.calls.Load()-after)
			}
			if got := dirNames(t, dir); !slices.Equal(got, []string{"x.bpk"}) || string(testrig.ReadFile(t, path)) != "old" {
				t.Errorf("%s after %d reads: the directory holds %q, %q", kind, after, got, testrig.ReadFile(t, path))
			}
			cancel()
		}
	}
	// A goroutine that has told its end may still be on its last instructions.
	testrig.Eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func TestWriteFullDisk(t *testing.T) {
	testrig.NeedRoot(t)
	dir := t.TempDir()
	testrig.Must(t, syscall.Mount("none", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { testrig.Unmount(t, dir) })
	old := filepath.Join(dir, "x.bpk")
	testrig.WriteFile(t, old, "old")
	image := make([]byte, 500*page)
	for i := range image {
		image[i] = byte(rand.Uint32())
	}
	for _, boot := range []int{0, 400} { // the body does not fit; the boot zone does not
		_, err := Write(context.Background(), old, newMemImage(image), WriteOptions{Boot: randomBoot(1, 500, boot), BodyLevel: zstd.SpeedFastest})
		if !errors.Is(err, syscall.ENOSPC) || strings.Count(err.Error(), "no space left") != 1 || !strings.Contains(err.Error(), old) {
			t.Errorf("%d boot pages: Write: %v", boot, err)
		}
		t.Log(err)
		if got := dirNames(t, dir); !slices.Equal(got, []string{"x.bpk"}) || string(testrig.ReadFile(t, old)) != "old" {
			t.Errorf("the directory holds %q, %q", got, testrig.ReadFile(t, old))
		}
		var st syscall.Statfs_t
		testrig.Must(t, syscall.Statfs(dir, &st))
		if used := int64(st.Blocks-st.Bfree) * st.Bsize; used > 8<<10 {
			t.Errorf("%d bytes are in use after the error", used)
		}
	}
}

// The environment of the process that TestWriteKilled kills.
const (
	killEnv  = "IMAGEPACK_TEST_PACK_TO" // path
	killStop = "IMAGEPACK_TEST_STOP_AT" // report of progress at which it waits to be killed, from 1
)

// TestMain is also the process that TestWriteKilled kills. It prints a dot at each report of progress.
func TestMain(m *testing.M) {
	path := os.Getenv(killEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	stop, reports := os.Getenv(killStop), 0
	opts := WriteOptions{Boot: randomBoot(1, 1000, 40), BodyLevel: zstd.SpeedFastest, BootLevel: BootFast}
	opts.Progress = func(_, _ int64) {
		os.Stdout.WriteString(".")
		if reports++; fmt.Sprint(reports) == stop {
			select {}
		}
	}
	if _, err := Write(context.Background(), path, newMemImage(mixedPages(1, 1000)), opts); err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

// A pack that is killed at any moment leaves the old file, or the new one, and nothing else.
func TestWriteKilled(t *testing.T) {
	testrig.SlowRaced(t)
	dir := testrig.MemoryDir(t)
	path := filepath.Join(dir, "x.bpk")
	// pack kills the process at a report of progress, where it waits if it shall, and returns how many there were.
	pack := func(kill int, wait bool) (reports int) {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), killEnv+"="+path)
		if wait {
			c.Env = append(c.Env, fmt.Sprint(killStop, "=", kill))
		}
		out, err := c.StdoutPipe()
		testrig.Must(t, err)
		testrig.Must(t, c.Start())
		for b := make([]byte, 1); ; reports++ {
			if reports == kill && kill > 0 {
				_ = c.Process.Kill()
			}
			if _, err := out.Read(b); err != nil {
				break
			}
		}
		_ = c.Wait()
		return reports
	}
	reports := pack(0, false)
	if reports < 20 {
		t.Fatalf("%d reports of progress", reports)
	}
	newSum := sha256.Sum256(testrig.ReadFile(t, path))
	for i := range 8 {
		testrig.WriteFile(t, path, "old")
		kill, wait := 1+i*reports/8, true
		if i > 5 { // somewhere in the end: the file is complete, or renamed
			kill, wait = reports, false
		}
		pack(kill, wait)
		b := testrig.ReadFile(t, path)
		if string(b) != "old" && (wait || sha256.Sum256(b) != newSum) {
			t.Fatalf("a pack killed at report %d of %d left %d bytes that are neither the old nor the new file", kill, reports, len(b))
		}
		if got := dirNames(t, dir); !slices.Equal(got, []string{"x.bpk"}) {
			t.Fatalf("a killed pack left %q", got)
		}
	}
}

// A compressor or filter that does not give back what it was given is found before anything is written.
func TestCheckFrame(t *testing.T) {
	testrig.SlowRaced(t)
	image := mixedPages(1, 40)
	ranges := []bpk.Range{{Page: 3, Pages: 10}, {Page: 1, Pages: 1}, {Page: 20, Pages: 20}}
	encode := func() (zoneFrame, [][32]byte) {
		sizes := []int{4, 8, 16, 3}
		f, err := encodeFrame(newMemImage(image), ranges, sizes, zopt.Fast)
		testrig.Must(t, err)
		var plain []byte
		for _, r := range ranges {
			plain = append(plain, image[r.Page*page:(r.Page+r.Pages)*page]...)
		}
		return f, chunkSums(plain, sizes)
	}
	f, sums := encode()
	testrig.Must(t, checkFrame(f, ranges, sums))
	for name, harm := range map[string]func(*zoneFrame, [][32]byte){
		"another byte":      func(_ *zoneFrame, sums [][32]byte) { sums[1][7]++ },
		"filter not undone": func(f *zoneFrame, _ [][32]byte) { f.filter ^= bpk.FilterX86 },
		"damaged chunk":     func(f *zoneFrame, _ [][32]byte) { f.chunks[1].stored = f.chunks[1].stored[:5] },
		"chunk lost":        func(f *zoneFrame, _ [][32]byte) { f.chunks = f.chunks[:3] },
		"no chunk":          func(f *zoneFrame, _ [][32]byte) { f.chunks = nil },
	} {
		f, sums := encode()
		harm(&f, sums)
		if err := checkFrame(f, ranges, sums); err == nil || !strings.HasPrefix(err.Error(), "BUG:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
