package mountclient

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"
)

// Metrics returns the status in Prometheus text format 0.0.4.
func (s *Status) Metrics() []byte {
	var b bytes.Buffer
	put := func(name, kind, help string, v float64) {
		fmt.Fprintf(&b, "# HELP bootprof_%s %s\n# TYPE bootprof_%s %s\nbootprof_%s %v\n", name, help, name, kind, name, v)
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
	put("received_bytes_total", "counter", "Bytes of bodies received.", float64(s.Bytes))
	put("retries_total", "counter", "Requests repeated.", float64(s.Retries))
	put("damaged_chunks_total", "counter", "Chunks that arrived damaged.", float64(s.DamagedChunks))
	put("cache_damaged_total", "counter", "Records of the cache dropped.", float64(s.CacheDamaged))
	put("held_pages", "gauge", "Pages in the store or cache.", float64(s.HeldPages))
	return b.Bytes()
}

// answer serves one connection: GET /metrics and GET /status by HTTP/1.0; a peer that sends nothing for a
// moment gets the bare JSON.
func answer(conn net.Conn, s Status) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	line, _ := bufio.NewReaderSize(conn, 4096).ReadSlice('\n')
	body, _ := json.Marshal(s)
	body = append(body, '\n')
	kind, code := "application/json", "200 OK"
	words := strings.Fields(string(line))
	switch {
	case len(words) < 2 || words[0] != "GET":
		_, _ = conn.Write(body)
		return
	case words[1] == "/metrics":
		body, kind = s.Metrics(), "text/plain; version=0.0.4"
	case words[1] != "/status":
		body, kind, code = []byte("GET /status or /metrics\n"), "text/plain", "404 Not Found"
	}
	fmt.Fprintf(conn, "HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", code, kind, len(body), body)
}
