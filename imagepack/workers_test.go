package imagepack

import (
	"testing"

	"github.com/klauspost/compress/zstd"
)

// However many processors there are, the encoders that work at the same time fit in the room, one of each kind is there,
// and no processor is idle for want of an encoder on a small machine.
func TestPlanWorkers(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name      string
		procs     int
		room      int64
		zonePages int
		level     zstd.EncoderLevel
		want      workers
		over      bool
	}{
		{"no zone", 2, 400 * mib, 0, zstd.SpeedBestCompression, workers{0, 2, 2}, false},
		{"no zone, many processors", 64, 400 * mib, 0, zstd.SpeedBestCompression, workers{0, 10, 10}, false},
		{"no zone, fast", 64, 400 * mib, 0, zstd.SpeedDefault, workers{0, 50, 50}, false},
		{"one frame", 2, 400 * mib, 3000, zstd.SpeedBestCompression, workers{1, 2, 2}, false},
		{"one frame, many processors", 16, 400 * mib, 3000, zstd.SpeedBestCompression, workers{1, 6, 9}, false},
		{"270 MB", 2, 410 * mib, 66_000, zstd.SpeedBestCompression, workers{2, 2, 2}, false},
		{"270 MB, 4 processors", 4, 410 * mib, 66_000, zstd.SpeedBestCompression, workers{2, 2, 4}, false},
		{"270 MB, 16 processors", 16, 410 * mib, 66_000, zstd.SpeedBestCompression, workers{2, 2, 8}, false},
		{"one processor", 1, 410 * mib, 66_000, zstd.SpeedBestCompression, workers{1, 1, 1}, false},
		{"a huge tree", 8, -100 * mib, 66_000, zstd.SpeedBestCompression, workers{1, 1, 1}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := planWorkers(c.procs, c.room, c.zonePages, zoneFrames(c.zonePages, framePages), c.level)
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			chunk := chunkMemory(c.level)
			together := max(int64(got.zone)*frameMemory+int64(got.early)*chunk, int64(got.body)*chunk) + int64(c.zonePages)*page/4
			if together > c.room && !c.over {
				t.Errorf("%+v take %d MiB, there is room for %d", got, together/mib, c.room/mib)
			}
		})
	}
}
