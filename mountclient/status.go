package mountclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"bootprof/imagepack/bpk"
)

// DefaultRunDir is where running clients put their status sockets.
const DefaultRunDir = "/run/bootprof"

// What a client does: it brings the boot zone, answers what else is read, brings the rest as well, or leaves the mount to the
// kernel and a local file.
const (
	phasePreloading = "preloading"
	phaseRunning    = "running"
	phaseFilling    = "filling"
	phaseLocal      = "local"
)

var phases = []string{phasePreloading, phaseRunning, phaseFilling, phaseLocal}

// A Status is a moment of a client's life. Times are in seconds, sizes in bytes.
type Status struct {
	PID             int     `json:"pid"`
	URL             string  `json:"url"` // without credentials
	Dir             string  `json:"dir"`
	Digest          string  `json:"digest"` // empty: the image was not packed
	ImageBytes      int64   `json:"image_bytes"`
	Phase           string  `json:"phase"` // one of phases
	UpSeconds       float64 `json:"up_seconds"`
	ReadySeconds    float64 `json:"ready_seconds"` // from start to Dir being mounted
	HotSeconds      float64 `json:"hot_seconds"`   // from start to all boot pages being there; 0: not yet
	BootPages       int64   `json:"boot_pages"`
	BootPagesLoaded int64   `json:"boot_pages_loaded"`
	PushedPages     int64   `json:"pushed_pages"` // put into the kernel's page cache ahead of a read
	Reads           int64   `json:"reads"`        // reads that the page cache could not answer
	Misses          int64   `json:"misses"`       // chunks outside the boot zone, or windows of a plain image, that a reader waited for
	StalledSeconds  float64 `json:"stalled_seconds"`
	Requests        int64   `json:"requests"` // GETs sent, repeated ones included
	Bytes           int64   `json:"bytes"`    // of bodies received
	Retries         int64   `json:"retries"`
	DamagedChunks   int64   `json:"damaged_chunks"`
	CacheDir        string  `json:"cache_dir,omitempty"`
	CacheDamaged    int64   `json:"cache_damaged,omitempty"` // records of the cache dropped: damaged, or of damaged pages
	CacheLimit      int64   `json:"cache_limit,omitempty"`   // bytes that CacheDir may take; 0: no limit
	CacheEvicted    int64   `json:"cache_evicted,omitempty"` // pages taken out of the cache for that
	ReusedBytes     int64   `json:"reused_bytes,omitempty"`  // stored bytes of chunks that another version in the cache had
	HeldPages       int64   `json:"held_pages"`              // pages in the store or cache
	FillPages       int64   `json:"fill_pages,omitempty"`    // pages in the cache since the fill began, of ImagePages
	ImagePages      int64   `json:"image_pages"`

	Hedges      int64          `json:"hedges"`       // requests sent because a mirror was late
	WastedBytes int64          `json:"wasted_bytes"` // of Bytes, what came too late
	ByCause     ByteCauses     `json:"bytes_by_cause"`
	Mirrors     []MirrorStatus `json:"mirrors"` // one for a single server, too

	LastError        string  `json:"last_error,omitempty"`         // of network or server
	LastErrorSeconds float64 `json:"last_error_seconds,omitempty"` // from start to it

	LocalFile string `json:"local_file,omitempty"` // the kernel serves the mount from this file, and no client runs any more
}

// Status returns the present state.
func (m *Mounted) Status() Status {
	c := m.Client
	s := Status{
		PID: os.Getpid(), URL: c.shown, Dir: m.opts.Dir, Digest: fmt.Sprintf("sha256:%x", c.digest),
		ImageBytes: c.head.ImageSize, Phase: phasePreloading,
		UpSeconds: time.Since(c.started).Seconds(), ReadySeconds: seconds(c.ready.Load()), HotSeconds: seconds(c.hot.Load()),
		BootPages: c.head.BootPages, PushedPages: c.push.pushedPages(), Reads: c.reads.Load(),
		Misses: c.misses(), StalledSeconds: seconds(c.stalled.Load()),
		Requests: c.fetch.src.count.requests.Load(), Bytes: c.fetch.src.count.bytes.Load(),
		Retries: c.fetch.src.count.retries.Load(), DamagedChunks: c.fetch.src.count.corrupt.Load(),
		CacheDir: c.opts.CacheDir, HeldPages: c.store.heldPages(),
		Hedges: c.fetch.hedges.Load(), WastedBytes: c.fetch.wasted.Load(), ByCause: c.fetch.src.count.causes(),
		Mirrors: c.fetch.mirrorStatus(),
	}
	s.LastError, s.LastErrorSeconds = c.fetch.last.since(c.started)
	if n := c.zone.decoded.Load(); n > 0 {
		last := c.index.Chunks[n-1]
		s.BootPagesLoaded = int64(last.First + last.Pages)
	}
	if c.plain != nil {
		s.Digest = ""
	}
	if s.HotSeconds > 0 {
		s.Phase = phaseRunning
	}
	s.ImagePages = c.head.ImageSize / bpk.PageSize
	if filling := c.filling.Load(); filling != fillNone {
		s.Phase, s.FillPages = phaseFilling, s.HeldPages
		if filling == fillLocal {
			s.Phase = phaseLocal
		}
	}
	if c.cache != nil {
		s.CacheDamaged, s.CacheLimit, s.CacheEvicted = c.cache.damagedRecords(), c.opts.CacheBytes, c.cache.evicted.Load()
	}
	if c.demand != nil {
		s.ReusedBytes = c.demand.reused.Load()
	}
	return s
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

// serveStatus answers every connection to a unix socket in RunDir (see answer), until ctx ends;
// it then removes the socket.
func (m *Mounted) serveStatus(ctx context.Context) error {
	dir := m.runDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := socketPath(dir, os.Getpid())
	os.Remove(path) // of an earlier process with our id
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	_ = os.Chmod(path, 0o600)
	m.parts.Go(func() { m.answerAll(ctx, l, m.page) })
	return nil
}

// ReadStatus asks the running clients whose sockets lie in runDir ("": DefaultRunDir) for their status,
// sorted by mount point. It removes sockets of clients that were killed.
func ReadStatus(runDir string) ([]Status, error) {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	entries, err := os.ReadDir(runDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out []Status
	for _, e := range entries {
		pid, isSock := strings.CutSuffix(e.Name(), ".sock")
		if _, err := strconv.Atoi(pid); err != nil || !isSock {
			continue
		}
		path := filepath.Join(runDir, e.Name())
		var s Status
		err := askSocket(path, "/status", &s)
		if ending(err) {
			err = askSocket(path, "/status", &s)
		}
		switch {
		case err == nil:
			out = append(out, s)
		case nobody(err):
			os.Remove(path)
		case !ending(err):
			return nil, fmt.Errorf("asking the client behind %s: %w", path, err)
		}
	}
	local, err := readLocal(runDir, entries, out)
	if err != nil {
		return nil, err
	}
	out = append(out, local...)
	sort.Slice(out, func(i, j int) bool { return out[i].Dir < out[j].Dir })
	return out, nil
}
