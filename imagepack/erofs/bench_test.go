package erofs

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// BenchmarkDirectory plans and reads an image of the directory in EROFS_BENCH_DIR (/usr/share), with warm caches:
//
//	EROFS_BENCH_DIR=/some/root go test -run '^$' -bench Directory ./imagepack/erofs
func BenchmarkDirectory(b *testing.B) {
	dir := os.Getenv("EROFS_BENCH_DIR")
	if dir == "" {
		dir = "/usr/share"
	}
	root, err := tree.FromDir(context.Background(), dir, tree.DirOptions{})
	testrig.Must(b, err)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	im, err := Plan(root, Options{})
	testrig.Must(b, err)
	defer im.Close()
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.SetBytes(im.Size())
	buf := make([]byte, 1<<20)
	for b.Loop() {
		for off := int64(0); off < im.Size(); {
			n, err := im.ReadAt(buf, off)
			if n == 0 {
				b.Fatal(err)
			}
			off += int64(n)
		}
	}
	b.ReportMetric(float64(took.Milliseconds()), "plan-ms")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "plan-MB")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/1e6, "plan-alloc-MB")
	b.ReportMetric(float64(im.Size())/1e6, "image-MB")
}
