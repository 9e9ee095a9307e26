// Package compare puts bootprof side by side with everything a user could pick instead: images, links, ways, herds of
// clients and faults, planned to fit a budget of time, with the result as JSON, Markdown and plots.
//
// The matrix is Full or Quick (matrix.go). A Cell is one table of it. Its ways alternate, in rounds; package bench measures
// them. A peer that fails is a row with its message.
package compare

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"bootprof/bench"
	"bootprof/bench/lab"
)

// Config says what to compare and with what.
type Config struct {
	Cells    []Cell
	Bootprof string // binary
	Revision string // of bootprof's source, for the report; "" if not known
	Desync   string // binary
	Budget   time.Duration
	DryRun   bool // print the plan and end
	Progress io.Writer
	Parts    Parts
}

// A Comparison is everything that was measured.
type Comparison struct {
	Date     string       `json:"date"`
	Machine  string       `json:"machine"`
	Kernel   string       `json:"kernel"`
	Versions [][2]string  `json:"versions"` // program, version
	Took     float64      `json:"took_s"`
	Planned  float64      `json:"planned_s"`
	Cells    []CellReport `json:"cells"`
	Herd     *HerdReport  `json:"herd,omitempty"`
	Faults   []FaultRow   `json:"faults,omitempty"`
}

// A CellReport is one table.
type CellReport struct {
	Name   string       `json:"name"`
	Work   string       `json:"work"`
	Error  string       `json:"error,omitempty"` // why the cell, or the rest of it, was not measured
	Report bench.Report `json:"report"`
}

// bootTimeout is that of one boot: what takes longer is a failure.
const bootTimeout = 4 * time.Minute

// Run measures all cells, the herd and the faults. What fails is told in the result; the error is for what makes it useless.
func Run(ctx context.Context, c Config) (*Comparison, error) {
	began := time.Now()
	others := c.Parts.list()
	rest := c.Budget
	for _, p := range others {
		rest -= p.takes
	}
	total, err := share(c.Cells, rest)
	total += c.Budget - rest
	if werr := writePlan(c.Progress, c.Cells, others, total); err != nil || werr != nil || c.DryRun {
		return nil, errors.Join(err, werr)
	}
	for _, im := range c.images() {
		if err := im.check(); err != nil {
			return nil, err
		}
		if err := train(ctx, c, im); err != nil {
			return nil, err
		}
	}
	r := &Comparison{Date: began.UTC().Format("2006-01-02 15:04 UTC"), Planned: total.Seconds()}
	var described bench.Report
	described.Describe()
	r.Machine, r.Kernel = described.Machine, described.Kernel
	r.Versions = versions(ctx, c)
	for _, cell := range c.Cells {
		fmt.Fprintf(c.Progress, "== %s, %v planned, %v since the begin\n", cell.Name, cell.total().Round(time.Second), time.Since(began).Round(time.Second))
		report, err := cell.measure(ctx, c)
		cr := CellReport{Name: cell.Name, Work: cell.Work, Report: report}
		if err != nil {
			cr.Error = err.Error()
			fmt.Fprintln(c.Progress, "this cell ended:", err)
		}
		r.Cells = append(r.Cells, cr)
		if ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() == nil {
		c.Parts.run(ctx, c, r)
	}
	r.Took = time.Since(began).Seconds()
	return r, context.Cause(ctx)
}

// images are all that the comparison needs.
func (c Config) images() (all []Images) {
	for _, cell := range c.Cells {
		all = append(all, cell.Images)
		if cell.Old != nil {
			all = append(all, *cell.Old)
		}
	}
	if c.Parts.Herd != nil {
		all = append(all, c.Parts.Herd.Images)
	}
	if c.Parts.Faults != nil {
		all = append(all, c.Parts.Faults.Images)
	}
	return all
}

// measure fills one table.
func (cell Cell) measure(ctx context.Context, c Config) (report bench.Report, err error) {
	report = bench.Report{Link: cell.Link(), Image: cell.Images.Kind, Baseline: cell.ways[0].name}
	report.Describe()
	report.Rounds = slices.Max(cell.rounds)
	check, err := bench.CheckLink(ctx, cell.Links[0].Link)
	report.Check = check.String()
	if err != nil {
		return report, fmt.Errorf("link %s is not what it should be: %w", cell.Link(), err)
	}
	fmt.Fprintln(c.Progress, "link check:", check)
	p := programs{bootprof: c.Bootprof, desync: c.Desync}
	results, err := bench.Measure(ctx, bench.Config{
		Link: cell.Links[0].Link, Ways: cell.benchWays(p), Rounds: report.Rounds, Lab: lab.Options{Timeout: bootTimeout},
		Warm: []string{"mount", "umount"}, Progress: c.Progress, Tolerant: true,
	})
	report.Results = results
	if len(results) == 0 {
		return report, err
	}
	report.Summary = bench.Summarize(results, report.Baseline)
	if ctx.Err() == nil {
		err = errors.Join(err, cell.bound(ctx, c, &report))
	}
	return report, err
}

// bound computes what no client can beat: over all links that bring right bytes together, and without their losses.
func (cell Cell) bound(ctx context.Context, c Config, report *bench.Report) error {
	all := cell.Links[0].Link
	all.Bits = 0
	for _, p := range cell.right() {
		all.Bits += p.Bits
	}
	local := time.Duration(report.Summary[0].Total * float64(time.Second)).Round(time.Millisecond)
	b, err := bench.LowerBound(ctx, c.Bootprof, cell.Images.runs(), cell.Images.pack(), all, local)
	if err != nil {
		return err
	}
	b.Zstd19Bytes = cell.Images.zstd19()
	report.Bound = &b
	return nil
}

// train makes the state with which desync fetches ahead, by one boot, unless it is there.
func train(ctx context.Context, c Config, im Images) error {
	if _, err := readable(im.desync().State); err == nil {
		return nil
	}
	fmt.Fprintf(c.Progress, "training desync on a boot of %s\n", im.Kind)
	_, err := bench.Measure(ctx, bench.Config{
		Link: fastLink, Ways: []bench.Way{bench.DesyncTraining(c.Desync, im.desync())}, Rounds: 1,
		Lab: lab.Options{Timeout: bootTimeout}, Progress: c.Progress,
	})
	if err != nil {
		return fmt.Errorf("training desync: %w", err)
	}
	_, err = readable(im.desync().State)
	return err
}

// versions asks each program.
func versions(ctx context.Context, c Config) (all [][2]string) {
	if c.Revision != "" {
		all = append(all, [2]string{"bootprof", c.Revision})
	}
	for _, v := range []struct {
		name string
		args []string
	}{
		{"nginx", []string{"/usr/sbin/nginx", "-v"}},
		{"curl", []string{"curl", "--version"}},
		{"httpfs2", []string{"httpfs2"}},
		{"httpdirfs", []string{"httpdirfs", "--version"}},
		{"nbdkit", []string{"nbdkit", "--version"}},
		{"nbdfuse", []string{"nbdfuse", "--version"}},
		{"rclone", []string{"rclone", "version"}},
	} {
		out, _ := exec.CommandContext(ctx, v.args[0], v.args[1:]...).CombinedOutput() // some say it with an error
		all = append(all, [2]string{v.name, firstWithDigit(string(out))})
	}
	desync := "unknown"
	if info, err := buildinfo.ReadFile(c.Desync); err == nil {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == "github.com/folbricht/desync" {
				desync = m.Version
			}
		}
	}
	return append(all, [2]string{"desync", desync}, [2]string{"Go", runtime.Version()})
}

// firstWithDigit is the line of what a program said that may tell its version.
func firstWithDigit(said string) string {
	for line := range strings.Lines(said) {
		if strings.ContainsAny(line, "0123456789") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return "unknown"
}
