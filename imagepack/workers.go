package imagepack

import (
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// Memory of a pack whose WriteOptions.Workers is 0, in bytes. Encoders are what takes it: with one of each kind for every
// processor, a pack with a large boot zone took 1.5 GB on 8 processors.
const (
	packMemory    = 480 << 20 // resident at most, but for what the image itself takes beyond that
	programMemory = 48 << 20  // the program, and garbage
	frameMemory   = 124 << 20 // of a frameEncoder
)

// chunkMemory returns what a chunkEncoder of a level takes, with the chunks that wait for it, in bytes.
func chunkMemory(level zstd.EncoderLevel) int64 {
	switch level {
	case BodyMax:
		return 28 << 20
	case zstd.SpeedBestCompression:
		return 40 << 20
	case zstd.SpeedBetterCompression:
		return 16 << 20
	}
	return 8 << 20
}

// workers says how many goroutines compress.
type workers struct {
	zone  int // the boot zone; 0 if there is none
	early int // the body, while the zone is being compressed
	body  int // the body, when that is done
}

// planWorkers divides room bytes of memory among encoders, at most one of each kind per processor. The zone comes first: it
// takes more time for its bytes than the body does, and cannot be divided as finely.
func planWorkers(procs int, room int64, zonePages, frames int, level zstd.EncoderLevel) workers {
	chunk := chunkMemory(level)
	fit := func(bytes, each int64, most int) int { return int(max(1, min(bytes/each, int64(most)))) }
	if frames == 0 {
		n := fit(room, chunk, procs)
		return workers{early: n, body: n}
	}
	room -= int64(zonePages) * 4096 / 4 // the compressed zone stays in memory until it is written
	var w workers
	w.zone = fit(room-chunk, frameMemory, min(procs, frames))
	w.early = fit(room-int64(w.zone)*frameMemory, chunk, procs)
	w.body = fit(room, chunk, procs)
	return w
}

// encoderRoom returns how much memory there is for encoders: what the input has in use, its tree and the plan of the
// image, is taken off. It collects garbage.
func encoderRoom() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return packMemory - programMemory - int64(m.HeapAlloc)
}

// MemoryLimit returns where the garbage collector should begin to work for memory instead of speed, in bytes, in a
// process that packs with WriteOptions.Workers of n.
func MemoryLimit(n int) int64 {
	return max(packMemory-80<<20, int64(n)*(frameMemory+40<<20)+programMemory)
}
