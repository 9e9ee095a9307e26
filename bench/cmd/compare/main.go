// Command compare measures bootprof side by side with what a user could pick instead:
//
//	compare --build DIR --results DIR [--quick] [--budget 60m] [--only REGEX] [--dry-run]
//
// DIR of --build has the images that scripts/bench.sh makes. It needs root. Progress goes to stderr, result files to --results:
// results.json, results.md and plots. --render FILE makes Markdown and plots of an earlier results.json. Exit codes: 0 measured,
// 1 something failed, 2 wrong flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"bootprof/bench/compare"
	"bootprof/bench/lab"
)

type flags struct {
	build, results, render, revision string
	quick, dryRun, faults, cells     bool
	budget                           time.Duration
	rounds, herd                     int
	only                             *regexp.Regexp
}

func main() {
	lab.RunStage()
	var f flags
	flag.StringVar(&f.build, "build", "build", "`DIR` with the images and programs")
	flag.StringVar(&f.results, "results", "bench/results", "`DIR` for the results")
	flag.BoolVar(&f.quick, "quick", false, "few cells, few rounds")
	flag.DurationVar(&f.budget, "budget", 0, "`TIME` for all; rounds of slow ways are dropped to keep it (default 48m, 7m with --quick)")
	flag.IntVar(&f.rounds, "rounds", 0, "rounds of all ways that the budget lets (default 5, 2 with --quick)")
	flag.IntVar(&f.herd, "herd", 50, "clients of the herd; 0: no herd")
	flag.Func("only", "measure only ways whose `REGEX` matches \"CELL WAY\", as in 'debian 100mbit/20ms (nbdkit|boot)'; no herd, no faults", func(s string) (err error) {
		f.only, err = regexp.Compile(s)
		return err
	})
	flag.BoolVar(&f.faults, "faults", true, "look at clients under faults")
	flag.BoolVar(&f.cells, "cells", true, "measure boots")
	flag.StringVar(&f.revision, "revision", "", "`NAME` of bootprof's source, for the report")
	flag.BoolVar(&f.dryRun, "dry-run", false, "print the plan and end")
	flag.StringVar(&f.render, "render", "", "measure nothing: make Markdown and plots of this `FILE`")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "compare: %q: all arguments are flags\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags) error {
	if f.render != "" {
		r, err := compare.Read(f.render)
		if err != nil {
			return err
		}
		return r.Write(f.results)
	}
	if os.Getuid() != 0 && !f.dryRun {
		return errors.New("needs root: it mounts images and makes network namespaces")
	}
	r, err := compare.Run(ctx, f.config())
	if r == nil {
		return err
	}
	short, serr := r.WithoutPaths(f.build)
	if serr != nil {
		return errors.Join(err, serr)
	}
	return errors.Join(err, short.Write(f.results))
}

func (f flags) config() compare.Config {
	rounds, budget := 5, 48*time.Minute
	if f.quick {
		rounds, budget = 2, 7*time.Minute
	}
	if f.rounds > 0 {
		rounds = f.rounds
	}
	if f.budget > 0 {
		budget = f.budget
	}
	c := compare.Config{
		Bootprof: filepath.Join(f.build, "bootprof"), Desync: filepath.Join(f.build, "peers/desync"),
		Revision: f.revision, Budget: budget, DryRun: f.dryRun, Progress: os.Stderr,
	}
	switch {
	case !f.cells:
	case f.quick:
		c.Cells = compare.Quick(f.build, rounds)
	default:
		c.Cells = compare.Full(f.build, rounds)
	}
	if f.only != nil {
		c.Cells = compare.Only(c.Cells, f.only)
		return c
	}
	c.Parts = compare.StandardParts(f.build, f.quick, f.herd, f.faults)
	return c
}
