package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/bench/link"
	"bootprof/imagepack/bpk"
)

// client is a mounted pack and the daemon behind it.
type client struct {
	pid     int
	pidfd   int
	mountOK bool
	mounter time.Duration // processor time of the mount command itself
}

// endTimeout is how long a daemon may live after its directory was unmounted.
const endTimeout = 15 * time.Second

// CacheDir stands for Run.Cache in the arguments of Mounted.
const CacheDir = "{cache}"

// Mounted boots from a pack, or another form of one, that `bootprof mount` brings over the link. binary is the bootprof to run,
// args are flags of its mount. What a client finds beside the pack is served, too: the manifest of an image, the chunks of a split pack.
func Mounted(name, binary, pack string, args ...string) Way {
	return Way{
		Name:   name,
		Served: pack,
		Beside: besidePack(pack),
		Warm:   []string{binary},
		Open: func(ctx context.Context, r *Run) error {
			r.client = &client{pidfd: -1}
			all := []string{"mount", r.URL, r.Dir}
			for _, a := range args {
				all = append(all, strings.ReplaceAll(a, CacheDir, r.Cache))
			}
			state, err := runClient(r, exec.CommandContext(ctx, binary, all...))
			if err != nil {
				return err
			}
			r.client.mountOK = true
			r.client.mounter = state.UserTime() + state.SystemTime()
			return nil
		},
		Sample: func(ctx context.Context, r *Run) error { return sampleClient(ctx, binary, r) },
		Close:  closeClient,
	}
}

// besidePack lists what a client finds beside a pack, or another form of one.
func besidePack(pack string) (beside []string) {
	for _, f := range []string{pack + bpk.ManifestSuffix, filepath.Join(filepath.Dir(pack), "chunks")} {
		if _, err := os.Stat(f); err == nil {
			beside = append(beside, f)
		}
	}
	return beside
}

// status is what the bench needs of `bootprof status DIR --json`.
type status struct {
	PID            int     `json:"pid"`
	Misses         *int64  `json:"misses"`
	Reads          int64   `json:"reads"`
	StalledSeconds float64 `json:"stalled_seconds"`
	HotSeconds     float64 `json:"hot_seconds"`
}

// sampleClient takes the daemon's figures and keeps hold of it, to see that it ends.
func sampleClient(ctx context.Context, binary string, r *Run) error {
	out, err := exec.CommandContext(ctx, binary, "status", r.Dir, "--json").Output()
	if err != nil {
		return fmt.Errorf("%s status %s: %w%s", binary, r.Dir, err, stderrOf(err))
	}
	var s status
	if err := json.Unmarshal(out, &s); err != nil {
		return fmt.Errorf("reading what %s status says: %w", binary, err)
	}
	if s.PID <= 0 {
		return fmt.Errorf("%s status %s names no pid", binary, r.Dir)
	}
	r.client.pid = s.PID
	if r.client.pidfd, err = unix.PidfdOpen(s.PID, 0); err != nil {
		return fmt.Errorf("watching the mount's daemon %d: %w", s.PID, err)
	}
	if r.ClientRSS, err = peakRSS(s.PID); err != nil {
		return err
	}
	cpu, err := cpuTime(s.PID)
	if err != nil {
		return err
	}
	r.ClientCPU = (cpu + r.client.mounter).Seconds()
	if s.Misses != nil {
		r.Misses, r.HasMisses = *s.Misses, true
	}
	r.Reads, r.Stalled, r.Hot = s.Reads, s.StalledSeconds, s.HotSeconds
	return nil
}

// closeClient unmounts and waits for the daemon's end.
func closeClient(r *Run) error {
	c := r.client
	if c == nil || !c.mountOK {
		return UnmountIfMounted(r.Dir)
	}
	err := unmount(r.Dir)
	if c.pidfd >= 0 {
		defer unix.Close(c.pidfd)
		if eerr := awaitEnd(c.pidfd, endTimeout); eerr != nil {
			err = errors.Join(err, fmt.Errorf("the mount's daemon %d after umount: %w", c.pid, eerr))
		}
	}
	return err
}

// A Bound is what `bootprof analyze` computes from the recorded runs.
type Bound struct {
	Seconds         float64 `json:"bound_seconds"`  // a boot takes at least this long over the link
	By              string  `json:"bound_by"`       // what it is due to: "link" or "cpu"
	SizesAre        string  `json:"link_sizes_are"` // which bytes were counted: "compressed" or "raw"
	WorkingSetBytes int64   `json:"working_set_bytes"`
	CompressedBytes int64   `json:"compressed_bytes"`        // of the working set; 0 if not measured
	Zstd19Bytes     int64   `json:"zstd19_bytes,omitempty"`  // of the working set as one stream of zstd -19; 0 if not measured
	LocalSeconds    float64 `json:"local_seconds,omitempty"` // the boot time that recorded times were scaled to; 0: none
	Pages           int64   `json:"pages"`
}

// LowerBound asks for the bound of a boot with these runs over the link. pack is the one made with them, for the compressed
// size of the pages; with "" the bound counts them uncompressed. local is the time of a boot from local disk, to
// which the recorded times are scaled: recording slows a boot. 0: as recorded.
func LowerBound(ctx context.Context, binary string, runs []string, pack string, p link.Params, local time.Duration) (Bound, error) {
	p.Loss = 0 // the bound knows none
	args := append([]string{"analyze", "--json", "--link", p.String()}, runs...)
	if pack != "" {
		args = append(args, "--pack", pack)
	}
	if local > 0 {
		args = append(args, "--boot-time", local.String())
	}
	out, err := exec.CommandContext(ctx, binary, args...).Output()
	if err != nil {
		return Bound{}, fmt.Errorf("%s %s: %w%s", binary, strings.Join(args, " "), err, stderrOf(err))
	}
	b, err := parseBound(out)
	b.LocalSeconds = local.Seconds()
	return b, err
}

// parseBound reads the analysis, with the bound of its first link.
func parseBound(analysis []byte) (b Bound, err error) {
	var a struct {
		Bound
		Links []struct {
			Seconds float64 `json:"bound_seconds"`
			By      string  `json:"bound_by"`
		} `json:"links"`
	}
	if err := json.Unmarshal(analysis, &a); err != nil {
		return b, fmt.Errorf("reading the analysis: %w", err)
	}
	if len(a.Links) == 0 || a.Links[0].Seconds <= 0 {
		return b, errors.New("the analysis has no lower bound")
	}
	b = a.Bound
	b.Seconds, b.By = a.Links[0].Seconds, a.Links[0].By
	return b, nil
}

func stderrOf(err error) string {
	var ee *exec.ExitError
	if errors.As(err, &ee) && len(ee.Stderr) > 0 {
		return ": " + strings.TrimSpace(string(ee.Stderr))
	}
	return ""
}
