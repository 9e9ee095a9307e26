package imagepack

import (
	"context"
	"crypto/sha256"
	"errors"
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
	"time"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/zopt"
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
	image := mixedPages(1, 300)
	boot := randomBoot(1, 300, 100) // seven frames
	base := newMemImage(image)
	count := &touchy{Image: base}
	mustPack(t, count, WriteOptions{Boot: boot, Workers: 2, frame: 16})
	total := count.calls.Load()
	errBroken := errors.New("input/output error")
	before := runtime.NumGoroutine()
	for _, kind := range []string{"cancel", "fail", "eof"} {
		for _, after := range []int64{0, 10, 50, 99, total - 8, total - 2} {
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
			dir := t.TempDir()
			path := filepath.Join(dir, "x.bpk")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			st, err := Write(ctx, path, img, WriteOptions{Boot: boot, Workers: 3, frame: 16, BodyLevel: zstd.SpeedFastest})
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
			if got := dirNames(t, dir); !slices.Equal(got, []string{"x.bpk"}) || string(readFile(t, path)) != "old" {
				t.Errorf("%s after %d reads: the directory holds %q, %q", kind, after, got, readFile(t, path))
			}
			cancel()
		}
	}
	// A goroutine that has told its end may still be on its last instructions.
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}

func TestWriteFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "none", dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	old := filepath.Join(dir, "x.bpk")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
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
		if got := dirNames(t, dir); !slices.Equal(got, []string{"x.bpk"}) || string(readFile(t, old)) != "old" {
			t.Errorf("the directory holds %q, %q", got, readFile(t, old))
		}
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if used := int64(st.Blocks-st.Bfree) * st.Bsize; used > 8<<10 {
			t.Errorf("%d bytes are in use after the error", used)
		}
	}
}

const killEnv = "IMAGEPACK_TEST_PACK_TO"

// TestMain is also the process that TestWriteKilled kills.
func TestMain(m *testing.M) {
	path := os.Getenv(killEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	os.Stdout.WriteString("packing\n")
	if _, err := Write(context.Background(), path, newMemImage(mixedPages(1, 1000)), WriteOptions{Boot: randomBoot(1, 1000, 40)}); err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

// A pack that is killed at any moment leaves the old file, or the new one, and nothing else.
func TestWriteKilled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.bpk")
	pack := func(wait time.Duration) {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), killEnv+"="+path)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("packing\n"))); err != nil {
			t.Fatal(err)
		}
		if wait > 0 {
			timer := time.AfterFunc(wait, func() { c.Process.Kill() })
			defer timer.Stop()
		}
		io.Copy(io.Discard, out)
		c.Wait()
	}
	began := time.Now()
	pack(0)
	whole := time.Since(began)
	newSum := sha256.Sum256(readFile(t, path))
	old := []byte("old")
	left := 0
	for range 12 {
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		pack(time.Duration(rand.Int64N(int64(whole))))
		b := readFile(t, path)
		if string(b) == "old" {
			left++
		} else if sha256.Sum256(b) != newSum {
			t.Fatalf("a killed pack left %d bytes that are neither the old nor the new file", len(b))
		}
		if got := dirNames(t, dir); !slices.Equal(got, []string{"x.bpk"}) {
			t.Fatalf("a killed pack left %q", got)
		}
	}
	if left == 0 {
		t.Error("no pack was killed in the middle")
	}
	t.Logf("%d of 12 packs were killed before they were done", left)
}

// A compressor or filter that does not give back what it was given is found before anything is written.
func TestCheckFrame(t *testing.T) {
	image := mixedPages(1, 40)
	ranges := []bpk.Range{{Page: 3, Pages: 10}, {Page: 1, Pages: 1}, {Page: 20, Pages: 20}}
	encode := func() (zoneFrame, [][32]byte) {
		sizes := []int{4, 8, 16, 3}
		f, err := encodeFrame(newMemImage(image), ranges, sizes, zopt.Fast)
		if err != nil {
			t.Fatal(err)
		}
		var plain []byte
		for _, r := range ranges {
			plain = append(plain, image[r.Page*page:(r.Page+r.Pages)*page]...)
		}
		return f, chunkSums(plain, sizes)
	}
	f, sums := encode()
	if err := checkFrame(f, ranges, sums); err != nil {
		t.Fatal(err)
	}
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
