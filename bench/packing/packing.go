// Package packing measures image builders against each other: time, memory and size of what they make of one tree.
//
// Builders run one after the other and alternate from round to round, so that a machine that becomes slower for a while
// does not favour one of them. The tree is read once before the first round: all find it in the page cache. A builder's
// output is synced inside its time, since one that is not finished on disk is not finished.
package packing

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Builder is a command that makes one image.
type Builder struct {
	Name string
	Args []string // of which Out stands for the output
}

// Out stands for the output's path in Builder.Args.
const Out = "{out}"

// A Run is one execution of a builder.
type Run struct {
	Wall, CPU time.Duration // CPU: user and system, of all its processes
	PeakRSS   int64         // bytes, of its largest process
	Size      int64         // bytes of the output, with files called like it and more behind
}

// A Result holds all runs of one builder.
type Result struct {
	Name string
	Runs []Run
}

// Measure runs each builder once a round. Outputs are written to out and removed. said is told of each run.
func Measure(ctx context.Context, builders []Builder, out string, rounds int, said func(name string, r Run)) ([]Result, error) {
	results := make([]Result, len(builders))
	for range rounds {
		for i, b := range builders {
			r, err := run(ctx, b, out)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", b.Name, err)
			}
			results[i].Name = b.Name
			results[i].Runs = append(results[i].Runs, r)
			said(b.Name, r)
		}
	}
	return results, nil
}

func run(ctx context.Context, b Builder, out string) (Run, error) {
	defer remove(out)
	remove(out)
	args := slices.Clone(b.Args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], Out, out)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return Run{}, fmt.Errorf("%w: %s", err, lastLine(said.String()))
	}
	size, err := syncFiles(out)
	if err != nil {
		return Run{}, err
	}
	wall := time.Since(began)
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return Run{
		Wall: wall, CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		PeakRSS: usage.Maxrss << 10, Size: size,
	}, nil
}

// outputs are the files that a builder may make of out.
func outputs(out string) []string { return []string{out, out + ".bpm"} }

func remove(out string) {
	for _, f := range outputs(out) {
		os.Remove(f)
	}
}

func syncFiles(out string) (size int64, err error) {
	for _, name := range outputs(out) {
		f, err := os.Open(name)
		if os.IsNotExist(err) && name != out {
			continue
		}
		if err != nil {
			return 0, err
		}
		st, err := f.Stat()
		if err == nil {
			err = f.Sync()
		}
		f.Close()
		if err != nil {
			return 0, err
		}
		size += st.Size()
	}
	return size, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// Table returns the results as Markdown: medians over the rounds, ratios to the builder called base.
func Table(results []Result, base string) string {
	var ref Run
	for _, r := range results {
		if r.Name == base {
			ref = r.median()
		}
	}
	var b strings.Builder
	b.WriteString("| builder | s | min-max | ratio | CPU s | peak MB | size MB | ratio |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, r := range results {
		m := r.median()
		lo, hi := m.Wall, m.Wall
		for _, x := range r.Runs {
			lo, hi = min(lo, x.Wall), max(hi, x.Wall)
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f-%.1f | %.2f | %.1f | %d | %.1f | %.3f |\n", r.Name, m.Wall.Seconds(), lo.Seconds(), hi.Seconds(),
			float64(m.Wall)/float64(max(1, ref.Wall)), m.CPU.Seconds(), m.PeakRSS>>20, float64(m.Size)/1e6, float64(m.Size)/float64(max(1, ref.Size)))
	}
	return b.String()
}

// median returns the median of each figure.
func (r Result) median() Run {
	var m Run
	m.Wall, m.CPU = mid(r.Runs, func(x Run) time.Duration { return x.Wall }), mid(r.Runs, func(x Run) time.Duration { return x.CPU })
	m.PeakRSS, m.Size = mid(r.Runs, func(x Run) int64 { return x.PeakRSS }), mid(r.Runs, func(x Run) int64 { return x.Size })
	return m
}

func mid[T int64 | time.Duration](runs []Run, of func(Run) T) T {
	var all []T
	for _, r := range runs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}
