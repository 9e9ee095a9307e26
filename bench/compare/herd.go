package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"bootprof/bench"
	"bootprof/bench/link"
	"bootprof/profiles"
)

// A Herd is many clients that begin at the same moment, behind one link to one nginx.
type Herd struct {
	Images  Images
	Clients int
}

// A HerdReport has what the herd did, and what larger ones would do by simulation.
type HerdReport struct {
	Clients   int         `json:"clients"`
	Link      string      `json:"link"`
	Runs      []HerdRun   `json:"runs"`
	Simulated []Simulated `json:"simulated"`
	Error     string      `json:"error,omitempty"`
}

// A HerdRun is one way of all clients.
type HerdRun struct {
	Way     string  `json:"way"`
	Clients int     `json:"clients"`
	Last    float64 `json:"last_s"` // until the last client had read all that a boot reads
	Median  float64 `json:"median_s"`
	First   float64 `json:"first_s"`
	Bytes   int64   `json:"link_bytes"` // of all clients, both directions
	GETs    int     `json:"gets"`
}

// herdLink is the server's.
var herdLink = fastLink

// herdRounds of bootprof; fetch-all is limited by the link alone.
const herdRounds = 3

func (h *Herd) plan() part {
	fetch := time.Duration(float64(h.Clients)*177e6*8/float64(herdLink.Bits)*float64(time.Second)) + 10*time.Second
	boots := time.Duration(herdRounds+1) * (time.Duration(h.Clients)*150*time.Millisecond + 5*time.Second)
	return part{"herd", fmt.Sprintf("%d clients, bootprof %d times, fetch-all once, each way alone once", h.Clients, herdRounds),
		(fetch + boots).Round(time.Second)}
}

// A herdWay lets one client have its read set.
type herdWay struct {
	name   string
	served string
	run    func(ctx context.Context, client *link.Netns, b *bench.Bed, dir string) error
	end    func(dir string) error
}

func (h *Herd) run(ctx context.Context, c Config) (report HerdReport) {
	report = HerdReport{Clients: h.Clients, Link: herdLink.String()}
	err := h.measure(ctx, c, &report)
	if err != nil {
		report.Error = err.Error()
		fmt.Fprintln(c.Progress, "the herd ended:", err)
	}
	return report
}

func (h *Herd) measure(ctx context.Context, c Config, report *HerdReport) error {
	run, err := profiles.ReadFile(h.Images.runs()[0])
	if err != nil {
		return err
	}
	ours := bootprofHerd(c.Bootprof, h.Images.pack(), run.Touches)
	all := fetchAllHerd(h.Images.squashfs())
	type turn struct {
		way     herdWay
		clients int
	}
	turns := []turn{{ours, 1}, {all, 1}}
	for range herdRounds {
		turns = append(turns, turn{ours, h.Clients})
	}
	turns = append(turns, turn{all, h.Clients})
	alone := map[string]HerdRun{}
	for _, t := range turns {
		r, err := h.once(ctx, t.way, t.clients)
		if err != nil {
			return fmt.Errorf("%d clients of %s: %w", t.clients, t.way.name, err)
		}
		fmt.Fprintf(c.Progress, "%d clients of %s: the last has its read set after %.2f s, %.1f MB\n", t.clients, t.way.name, r.Last, float64(r.Bytes)/1e6)
		report.Runs = append(report.Runs, r)
		if t.clients == 1 {
			alone[t.way.name] = r
		}
	}
	for _, way := range []string{all.name, ours.name} {
		r := alone[way]
		report.Simulated = append(report.Simulated, simulations(way, h.Clients, float64(r.Bytes), r.Last, float64(herdLink.Bits))...)
	}
	return nil
}

// once lets all clients begin at the same moment.
func (h *Herd) once(ctx context.Context, w herdWay, clients int) (r HerdRun, err error) {
	r = HerdRun{Way: w.name, Clients: clients}
	b, err := bench.OpenBed([]link.Params{herdLink}, [][]string{{w.served}})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	ends, err := b.Run.Link.AddClients(clients)
	if err != nil {
		return r, err
	}
	defer func() {
		for _, e := range ends {
			err = errors.Join(err, e.Close())
		}
	}()
	dirs := make([]string, clients)
	for i := range dirs {
		dirs[i] = filepath.Join(b.Run.Work, fmt.Sprint("client", i))
		if err := os.Mkdir(dirs[i], 0o755); err != nil {
			return r, err
		}
	}
	if err := bench.WarmFile(w.served); err != nil {
		return r, err
	}
	defer link.HoldGC()()
	before := b.Run.Link.Stats()
	times, errs := make([]float64, clients), make([]error, clients)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			errs[i] = w.run(ctx, ends[i], b, dirs[i])
			times[i] = time.Since(began).Seconds()
		})
	}
	wg.Wait()
	after := b.Run.Link.Stats().Sub(before)
	r.Bytes = after.Down.Bytes + after.Up.Bytes
	for _, dir := range dirs {
		if w.end != nil {
			errs = append(errs, w.end(dir))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return r, err
	}
	slices.Sort(times)
	r.First, r.Median, r.Last = times[0], times[len(times)/2], times[len(times)-1]
	s, err := b.Servers[0].Stats(began, time.Time{})
	r.GETs = s.GETs
	return r, err
}

// bootprofHerd mounts the image file and reads the pages of a recorded boot in their order.
func bootprofHerd(binary, pack string, touches []profiles.Touch) herdWay {
	return herdWay{
		name: wayBootprof, served: pack,
		run: func(ctx context.Context, client *link.Netns, b *bench.Bed, dir string) error {
			if err := runIn(client, exec.CommandContext(ctx, binary, "mount", b.Run.URL, dir, "--raw")); err != nil {
				return err
			}
			image, err := os.Open(filepath.Join(dir, "image"))
			if err != nil {
				return err
			}
			defer image.Close()
			var page [profiles.PageSize]byte
			for _, t := range touches {
				for off := t.ImageOff; off < t.ImageOff+t.Len; off += profiles.PageSize {
					if _, err := image.ReadAt(page[:min(profiles.PageSize, t.ImageOff+t.Len-off)], off); err != nil {
						return err
					}
				}
			}
			return nil
		},
		end: bench.UnmountIfMounted,
	}
}

// fetchAllHerd downloads the image and drops it: so many copies do not fit in one machine's memory. What a boot reads then comes
// from memory.
func fetchAllHerd(image string) herdWay {
	return herdWay{
		name: wayFetchAll, served: image,
		run: func(ctx context.Context, client *link.Netns, b *bench.Bed, _ string) error {
			return runIn(client, exec.CommandContext(ctx, "curl", "-sS", "--fail", "-o", os.DevNull, b.Run.URL))
		},
	}
}

// runIn runs a command to its end in a namespace. A daemon that it leaves behind keeps only a file.
func runIn(n *link.Netns, cmd *exec.Cmd) error {
	said, err := os.CreateTemp("", "bench-herd-")
	if err != nil {
		return err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	if err := n.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		text, _ := os.ReadFile(said.Name())
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}
