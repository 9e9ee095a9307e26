package mountclient

import (
	"bytes"
	"fmt"
	"strings"
)

// Metrics returns the status in Prometheus text format 0.0.4.
func (s *Status) Metrics() []byte {
	var b bytes.Buffer
	head := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP bootprof_%s %s\n# TYPE bootprof_%s %s\n", name, help, name, kind)
	}
	put := func(name, kind, help string, v float64) {
		head(name, kind, help)
		fmt.Fprintf(&b, "bootprof_%s %v\n", name, v)
	}
	head("phase", "gauge", "1 for what the client does now.")
	for _, phase := range phases {
		fmt.Fprintf(&b, "bootprof_phase{phase=\"%s\"} %d\n", phase, oneIf(s.Phase == phase))
	}
	put("image_bytes", "gauge", "Size of the image.", float64(s.ImageBytes))
	put("up_seconds", "gauge", "Time since the client started.", s.UpSeconds)
	put("ready_seconds", "gauge", "Time from start to the mount being ready; 0: not yet.", s.ReadySeconds)
	put("hot_seconds", "gauge", "Time from start to all boot pages being there; 0: not yet.", s.HotSeconds)
	put("boot_pages", "gauge", "Pages of the boot zone.", float64(s.BootPages))
	put("boot_pages_loaded", "gauge", "Pages of the boot zone that are there.", float64(s.BootPagesLoaded))
	put("pushed_pages_total", "counter", "Pages put into the page cache ahead of a read.", float64(s.PushedPages))
	put("reads_total", "counter", "Reads that the page cache could not answer.", float64(s.Reads))
	put("misses_total", "counter", "Chunks outside the boot zone that a reader waited for.", float64(s.Misses))
	put("stalled_seconds_total", "counter", "Time that reads waited.", s.StalledSeconds)
	put("requests_total", "counter", "GETs sent, repeated ones included.", float64(s.Requests))
	put("retries_total", "counter", "Requests repeated.", float64(s.Retries))
	put("hedges_total", "counter", "Requests sent because a mirror was late.", float64(s.Hedges))
	put("wasted_bytes_total", "counter", "Bytes received that came too late.", float64(s.WastedBytes))
	put("damaged_chunks_total", "counter", "Chunks that arrived damaged.", float64(s.DamagedChunks))
	put("cache_damaged_total", "counter", "Records of the cache dropped.", float64(s.CacheDamaged))
	put("cache_evicted_pages_total", "counter", "Pages taken out of the cache because of its size limit.", float64(s.CacheEvicted))
	put("reused_bytes_total", "counter", "Stored bytes of chunks taken from another version in the cache.", float64(s.ReusedBytes))
	put("held_pages", "gauge", "Pages in the store or cache.", float64(s.HeldPages))
	put("image_pages", "gauge", "Pages of the image.", float64(s.ImagePages))
	put("fill_pages", "gauge", "Pages in the cache since the fill began, of the image's; 0: it has not begun.", float64(s.FillPages))
	put("last_error_seconds", "gauge", "Time from start to the last fault of network or server; 0: there was none.", s.LastErrorSeconds)
	head("received_bytes_total", "counter", "Bytes of bodies received, by why they were asked for.")
	for _, c := range []struct {
		why string
		n   int64
	}{{"boot", s.ByCause.Boot}, {"demand", s.ByCause.Demand}, {"readahead", s.ByCause.Readahead}, {"damaged", s.ByCause.Damaged}, {"fill", s.ByCause.Fill}} {
		fmt.Fprintf(&b, "bootprof_received_bytes_total{cause=\"%s\"} %d\n", c.why, c.n)
	}
	for _, f := range []struct {
		name, kind, help string
		of               func(*MirrorStatus) float64
	}{
		{"mirror_used", "gauge", "1: in use; 0: resting or dropped.", func(m *MirrorStatus) float64 { return float64(oneIf(m.State == "used")) }},
		{"mirror_requests_total", "counter", "GETs sent to the server.", func(m *MirrorStatus) float64 { return float64(m.Requests) }},
		{"mirror_received_bytes_total", "counter", "Bytes of bodies received from the server.", func(m *MirrorStatus) float64 { return float64(m.Bytes) }},
		{"mirror_faults_total", "counter", "Faults of the server.", func(m *MirrorStatus) float64 { return float64(m.Faults) }},
		{"mirror_throughput_bytes_per_second", "gauge", "Throughput of the server while bodies come; 0: not known.", func(m *MirrorStatus) float64 { return m.Throughput }},
		{"mirror_latency_seconds", "gauge", "Time from a request to the first byte; 0: not known.", func(m *MirrorStatus) float64 { return m.LatencySeconds }},
	} {
		head(f.name, f.kind, f.help)
		for i := range s.Mirrors {
			m := &s.Mirrors[i]
			fmt.Fprintf(&b, "bootprof_%s{mirror=\"%s\"} %v\n", f.name, labelEscapes.Replace(m.Name), f.of(m))
		}
	}
	return b.Bytes()
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
