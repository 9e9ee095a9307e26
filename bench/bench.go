// Package bench measures how long a machine takes from nothing to booted when its image comes in different ways.
//
// A way brings a root directory about: from the local disk, by fetching the whole image first, or by mounting a pack
// over the link. A run is one boot by one way: caches are dropped, a fresh link and web server are made, the clock
// starts, the way makes its directory ready, systemd boots from it in the namespace lab, and the clock stops at the
// boot marker. Rounds alternate the ways, so that a machine that becomes slower slows all of them; the figures are
// medians.
//
// Equal conditions: before each run the page cache is dropped and then filled again with what is not measured, which
// are the programs on the host's disk and the file that the web server sends.
//
// Traps. After each run nothing of it may be left (a mount, a loop device, a process in the link's namespace): the
// measurement fails if there is, as the next run would not be equal, and as a client that leaves something is broken.
// The link emulator takes its processor time from the same cores; the report has it.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"bootprof/bench/lab"
	"bootprof/bench/link"
	"bootprof/bench/serve"
)

// Config says what to measure.
type Config struct {
	Link     link.Params
	Ways     []Way
	Rounds   int         // of all ways; at least 1
	Lab      lab.Options // how to boot
	Warm     []string    // programs to hold in the page cache, names or paths
	Progress io.Writer   // gets one line per run; nil for none
	// Tolerant makes a run that fails a result with its Error, and leaves a way out that has failed twice; otherwise the first
	// failure ends the measurement. The first way, which ratios refer to, must not fail in any case.
	Tolerant bool
}

// A Way makes a root directory ready to boot from.
type Way struct {
	Name   string
	Served string   // file that the web server offers, "" if none
	Beside []string // files and directories that it offers beside that one
	Warm   []string // programs of this way to hold in the page cache besides Config.Warm, names or paths
	Rounds int      // leave the way out of later rounds; 0 is in all of them
	// Fill, if any, is run once before all rounds, and each run gets a copy of what it left in Run.Cache.
	Fill *Way
	// Mirrors, if any, take the place of Config.Link: a web server for each.
	Mirrors []Mirror
	// Open starts the client and returns when Run.Dir is the root directory. It sets what Close and Sample need.
	Open func(ctx context.Context, r *Run) error
	// Sample takes the client's figures at the boot marker, with the guest running. May be nil.
	Sample func(ctx context.Context, r *Run) error
	// Close ends what Open started, as a user would.
	Close func(r *Run) error
}

// A Run is one boot while it is measured.
type Run struct {
	Dir   string // an empty directory at first: the root, or where to make it
	Work  string // a directory for other files, removed afterwards
	Cache string // a directory for what a client keeps from boot to boot, below Work; empty without Way.Fill
	URL   string // of the way's Served file; of several servers separated by commas
	Link  *link.Link
	more  []*link.Link // to mirrors
	Result

	client *client // see bootprof.go; nil in other ways
	peer   *peer   // see peer.go; nil in other ways
}

// A Result has the figures of one run. A figure that a way does not have is zero.
type Result struct {
	Way         string   `json:"way"`
	Round       int      `json:"round"`
	Total       float64  `json:"total_s"`         // seconds from the start of the client to the boot marker
	Ready       float64  `json:"ready_s"`         // of these, until the root directory was there
	LinkBytes   int64    `json:"link_bytes"`      // IP packets that arrived until the marker, both directions
	BodyBytes   int64    `json:"body_bytes"`      // of HTTP answers to requests begun until the marker
	GETs        int      `json:"gets"`            // begun until the marker
	HTTPErrors  int      `json:"http_errors"`     // answers of 400 and above
	ClientRSS   int64    `json:"client_rss"`      // bytes, peak
	ClientCPU   float64  `json:"client_cpu_s"`    // seconds
	LinkCPU     float64  `json:"link_cpu_s"`      // seconds of the emulator
	LinkDropped int64    `json:"link_dropped"`    // packets that found the queue full, both directions
	LinkLate    float64  `json:"link_late_s"`     // the most that the emulator was late with a packet, seconds
	Misses      int64    `json:"misses"`          // reads that the client had to answer from the network on demand
	HasMisses   bool     `json:"has_misses"`      // whether Misses is known
	Reads       int64    `json:"reads"`           // reads that the kernel's page cache could not answer
	Stalled     float64  `json:"stalled_s"`       // seconds that readers waited, summed
	Hot         float64  `json:"hot_s"`           // seconds from the client's start until all boot pages were there; 0: not yet
	Failed      []string `json:"failed_units"`    // units of the guest that did not start
	Leftovers   []string `json:"leftovers"`       // what the run left behind; an error
	Error       string   `json:"error,omitempty"` // why the run failed; all figures are zero then
}

// Measure runs all rounds. On an error it returns what was measured until then as well.
func Measure(ctx context.Context, c Config) ([]Result, error) {
	if c.Rounds < 1 || len(c.Ways) == 0 {
		return nil, fmt.Errorf("measuring %d rounds of %d ways: want at least one of each", c.Rounds, len(c.Ways))
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	fills, err := c.fill(ctx)
	if err != nil {
		return nil, err
	}
	defer fills.remove()
	var results []Result
	failures := make([]int, len(c.Ways))
	for round := 1; round <= c.Rounds; round++ {
		for i, w := range c.Ways {
			if ctx.Err() != nil {
				return results, context.Cause(ctx)
			}
			if w.Rounds > 0 && round > w.Rounds || failures[i] > 1 {
				continue
			}
			r, err := fills.failed[i], error(nil)
			if r.Error == "" {
				r, err = c.once(ctx, w, round, fills.dirs[i], "")
			}
			if err != nil {
				err = fmt.Errorf("round %d of %s: %w", round, w.Name, err)
				if !c.Tolerant || i == 0 || ctx.Err() != nil {
					return results, err
				}
				r = Result{Way: w.Name, Error: OneLine(err, maxErrorBytes/2, maxErrorBytes/2)}
			}
			r.Round = round
			results = append(results, r)
			if r.Error != "" {
				failures[i]++
				fmt.Fprintf(c.Progress, "round %d/%d %-18s failed: %s\n", round, c.Rounds, w.Name, r.Error)
				continue
			}
			fmt.Fprintf(c.Progress, "round %d/%d %-18s %6.2f s  %6.1f MB\n", round, c.Rounds, w.Name, r.Total,
				float64(r.LinkBytes)/1e6)
		}
	}
	return results, nil
}

// once makes one run. The client's cache is a copy of the directory cacheFrom, and moved to cacheTo afterwards, unless these
// are "". The round seeds the losses of the links, so that each way of a round has the same.
func (c Config) once(ctx context.Context, w Way, round int, cacheFrom, cacheTo string) (res Result, err error) {
	work, err := os.MkdirTemp("", "bench-run-")
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	r := &Run{Dir: filepath.Join(work, "root"), Work: work, Cache: filepath.Join(work, "cache"), Result: Result{Way: w.Name}}
	if err := os.Mkdir(r.Dir, 0o755); err != nil {
		return res, err
	}
	if err := copyCache(cacheFrom, r.Cache); err != nil {
		return res, err
	}
	if err := prepareCaches(w.served(), slices.Concat(c.Warm, w.Warm)); err != nil {
		return res, err
	}
	mirrors := slices.Clone(w.Mirrors)
	if len(mirrors) == 0 {
		mirrors = []Mirror{{Link: c.Link}}
	}
	for i := range mirrors {
		mirrors[i].Link.Seed += uint64(round * len(mirrors))
	}
	if r.Link, err = link.Open(mirrors[0].Link); err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, r.Link.Close()) }()
	for _, m := range mirrors[1:] {
		l, err2 := r.Link.Add(m.Link)
		if err2 != nil {
			return res, err2
		}
		r.more = append(r.more, l)
		defer func() { err = errors.Join(err, l.Close()) }()
	}
	var servers []*serve.Server
	if w.Served != "" {
		for i, l := range r.links() {
			root, err2 := servedDir(r, w, i, mirrors[i].Lie)
			if err2 != nil {
				return res, err2
			}
			server, err2 := serveFile(r, l, root, filepath.Base(w.Served))
			if err2 != nil {
				return res, err2
			}
			servers = append(servers, server)
			defer func() { err = errors.Join(err, server.Close()) }()
		}
	}
	if err := c.boot(ctx, w, r, servers); err != nil {
		return res, err
	}
	if cacheTo != "" {
		return r.Result, os.Rename(r.Cache, cacheTo)
	}
	return r.Result, nil
}

// boot is the measured part, and the end of it.
func (c Config) boot(ctx context.Context, w Way, r *Run, servers []*serve.Server) (err error) {
	closed := false
	closeWay := func() error {
		if closed {
			return nil
		}
		closed = true
		return w.Close(r)
	}
	defer func() { err = errors.Join(err, closeWay()) }()

	defer link.HoldGC()()
	linksBefore := r.linkStats()
	started := time.Now()
	if err := w.Open(ctx, r); err != nil {
		return err
	}
	ready := time.Now()
	guest, err := lab.Start(ctx, r.Dir, c.Lab)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Stop()) }()
	booted := ready.Add(guest.Booted)
	r.countLinks(linksBefore)
	if w.Sample != nil {
		if err := w.Sample(ctx, r); err != nil {
			return err
		}
	}
	r.Ready, r.Total = ready.Sub(started).Seconds(), booted.Sub(started).Seconds()
	if err := guest.Stop(); err != nil {
		return err
	}
	r.Failed = guest.Failed
	if err := closeWay(); err != nil {
		return err
	}
	if r.Leftovers, err = leftovers(r); err != nil {
		return err
	}
	if len(r.Leftovers) > 0 {
		return fmt.Errorf("left behind: %q", r.Leftovers)
	}
	for _, server := range servers {
		// All requests have ended with the client, so those under way at the marker are in the log, too.
		s, err := server.Stats(started, booted)
		if err != nil {
			return err
		}
		r.GETs += s.GETs
		r.BodyBytes += s.BodyBytes
		r.HTTPErrors += s.Errors
	}
	return nil
}

// links returns all links of the run.
func (r *Run) links() []*link.Link { return append([]*link.Link{r.Link}, r.more...) }

func (r *Run) linkStats() (all []link.Stats) {
	for _, l := range r.links() {
		all = append(all, l.Stats())
	}
	return all
}

// countLinks takes the links' figures.
func (r *Run) countLinks(before []link.Stats) {
	for i, l := range r.links() {
		s := l.Stats().Sub(before[i])
		r.LinkBytes += s.Down.Bytes + s.Up.Bytes
		r.LinkDropped += s.Down.Dropped + s.Up.Dropped
		r.LinkCPU += s.CPU.Seconds()
		r.LinkLate = max(r.LinkLate, s.Late.Seconds())
	}
}

// served lists all that the way's web server sends.
func (w Way) served() []string {
	if w.Served == "" {
		return nil
	}
	return append([]string{w.Served}, w.Beside...)
}

// servedDir makes a directory for the nth web server that has the way's files.
func servedDir(r *Run, w Way, n int, lie Lie) (root string, err error) {
	root = filepath.Join(r.Work, fmt.Sprintf("www%d", n))
	if lie != "" {
		return root, lyingDir(root, w, lie)
	}
	return root, linkFiles(root, w.served())
}

// linkFiles makes a directory with links to the files.
func linkFiles(root string, files []string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		abs, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		if err := os.Symlink(abs, filepath.Join(root, filepath.Base(abs))); err != nil {
			return err
		}
	}
	return nil
}

// serveFile starts a web server at the far end of a link and adds the URL of the file to the run's.
func serveFile(r *Run, l *link.Link, root, name string) (*serve.Server, error) {
	s, err := serve.Start(serve.Options{
		Root:  root,
		Addr:  l.ServerIP,
		Start: l.Server.Start,
		Probe: func() error { return l.Server.Probe(l.ServerIP, 8080) },
	})
	if err != nil {
		return nil, err
	}
	if r.URL != "" {
		r.URL += ","
	}
	r.URL += s.URL(name)
	return s, nil
}
