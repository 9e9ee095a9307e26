package testrig

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

// Allocated returns how many bytes of heap this process allocates while f runs, freed or not. Unlike
// runtime.ReadMemStats it does not stop the world, which costs more than the work of a test that asks a thousand
// times. Small objects count when their span, of some KiB, is taken: ask for bounds of 100 KiB and more.
func Allocated(f func()) int64 {
	before := heapAllocs()
	f()
	return int64(heapAllocs() - before)
}

func heapAllocs() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// RareGC has the garbage collector run less often until the end of the test: after 64 MiB and not after 4. A loop that
// decodes small inputs keeps little and drops much, and collecting is most of its time.
func RareGC(t testing.TB) {
	ballast := make([]byte, 64<<20) // counts as live; its pages are never touched
	t.Cleanup(func() { runtime.KeepAlive(ballast) })
}
