// Command bench boots systemd from an image that comes in different ways and prints how long each takes, from nothing to
// booted:
//
//	bench --local IMAGE --fetch SQUASHFS --plain-pack PACK --pack PACK --run RUN [--link 100mbit/20ms] [--rounds 5]
//
// Each of the four ways is measured if its file is given; the first one is the baseline of the ratios. The runs must be
// recorded on the plain pack. --check measures the emulated link instead. It needs root. The table goes to stdout, progress
// to stderr. Exit codes: 0 measured, 1 something failed, 2 wrong flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"bootprof/bench"
	"bootprof/bench/lab"
	"bootprof/bench/link"
)

type flags struct {
	local, localSquashfs, fetch, plainPack, pack string
	runs                                         []string
	bootprof, target, markdown, json             string
	link                                         link.Params
	rounds, fetchRounds                          int
	timeout                                      time.Duration
	check                                        bool
	mirrors                                      []bench.Mirror
	zstd19                                       int64
}

func main() {
	lab.RunStage()
	f := flags{link: link.Params{Bits: 100e6, RTT: 20 * time.Millisecond}}
	flag.StringVar(&f.local, "local", "", "way local: file system image on the local `FILE`; the baseline")
	flag.StringVar(&f.localSquashfs, "local-squashfs", "", "way local-sqfs: squashfs on the local `FILE`")
	flag.StringVar(&f.fetch, "fetch", "", "way fetch-all: image `FILE` that is fetched whole")
	flag.StringVar(&f.plainPack, "plain-pack", "", "way on-demand: pack `FILE` made without a profile")
	flag.StringVar(&f.pack, "pack", "", "way bootprof: pack `FILE` made with profiles")
	flag.Func("run", "recorded run `FILE`, for the lower bound; may be repeated", func(s string) error {
		f.runs = append(f.runs, s)
		return nil
	})
	flag.StringVar(&f.bootprof, "bootprof", "bootprof", "bootprof `BINARY` to measure")
	flag.Func("link", "`BANDWIDTH/RTT[/LOSS%]` of the link (default 100mbit/20ms)", func(s string) (err error) {
		f.link, err = link.Parse(s)
		return err
	})
	flag.Func("mirror", "way mirrors: as bootprof, from several servers, each behind a link `BANDWIDTH/RTT[/LOSS%][:LIE]` of its own; give it for each. "+
		"LIE damages what it serves: all of the pack, zone (the boot zone) or once (one byte)", func(s string) error {
		m, err := bench.ParseMirror(s)
		f.mirrors = append(f.mirrors, m)
		return err
	})
	flag.Int64Var(&f.zstd19, "zstd19", 0, "`BYTES` of the touched pages as one stream of zstd -19, to compare with")
	flag.IntVar(&f.rounds, "rounds", 5, "rounds of all ways")
	flag.IntVar(&f.fetchRounds, "fetch-rounds", 0, "rounds of fetch-all, which is slow and varies little; 0: all")
	flag.StringVar(&f.target, "target", "multi-user.target", "systemd `UNIT` to boot to")
	flag.DurationVar(&f.timeout, "timeout", 5*time.Minute, "of one boot")
	flag.StringVar(&f.markdown, "markdown", "", "write the table as Markdown to `FILE`")
	flag.StringVar(&f.json, "json", "", "write all figures of all runs to `FILE`")
	flag.BoolVar(&f.check, "check", false, "measure the emulated link and end")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: %q: all arguments are flags\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags) error {
	if os.Getuid() != 0 {
		return errors.New("needs root: it mounts images and makes network namespaces")
	}
	check, err := checkLink(ctx, f.link)
	if err != nil || f.check {
		return err
	}
	c := bench.Config{Link: f.link, Rounds: f.rounds, Lab: lab.Options{Target: f.target, Timeout: f.timeout}, Progress: os.Stderr,
		Warm: []string{"mount", "umount"}}
	report := bench.Report{Link: f.link.String(), Check: check.String(), Rounds: f.rounds}
	if f.local != "" {
		c.Ways = append(c.Ways, bench.Local("local", f.local))
	}
	if f.localSquashfs != "" {
		c.Ways = append(c.Ways, bench.Local("local-sqfs", f.localSquashfs))
	}
	if f.fetch != "" {
		way := bench.FetchAll("fetch-all", f.fetch)
		way.Rounds = f.fetchRounds
		c.Ways = append(c.Ways, way)
	}
	if f.plainPack != "" {
		c.Ways = append(c.Ways, bench.Mounted("on-demand", f.bootprof, f.plainPack))
	}
	if f.pack != "" {
		c.Ways = append(c.Ways, bench.Mounted(bench.Trained, f.bootprof, f.pack))
	}
	if f.pack != "" && len(f.mirrors) > 0 {
		way := bench.Mounted("mirrors", f.bootprof, f.pack)
		way.Mirrors = f.mirrors
		c.Ways = append(c.Ways, way)
	}
	if len(c.Ways) == 0 {
		return errors.New("nothing to measure: give --local, --fetch, --plain-pack or --pack")
	}
	report.Baseline = c.Ways[0].Name
	report.Results, err = bench.Measure(ctx, c)
	if len(report.Results) == 0 {
		return err
	}
	report.Describe()
	report.Summary = bench.Summarize(report.Results, report.Baseline)
	if len(f.runs) > 0 {
		bound, berr := bench.LowerBound(ctx, f.bootprof, f.runs, f.pack, f.link, localTime(f, report.Summary))
		err = errors.Join(err, berr)
		bound.Zstd19Bytes = f.zstd19
		if berr == nil {
			report.Bound = &bound
		}
	}
	return errors.Join(err, report.WriteText(os.Stdout), bench.WriteFile(f.markdown, report.WriteMarkdown),
		bench.WriteFile(f.json, report.WriteJSON))
}

// localTime is the median boot from local disk, 0 if that was not measured.
func localTime(f flags, ways []bench.Summary) time.Duration {
	if f.local == "" {
		return 0
	}
	return time.Duration(ways[0].Total * float64(time.Second)).Round(time.Millisecond)
}

// checkLink measures the link before anything else.
func checkLink(ctx context.Context, p link.Params) (link.CheckResult, error) {
	r, err := bench.CheckLink(ctx, p)
	fmt.Fprintf(os.Stderr, "link %v\nlink check: %v\n", p, r)
	return r, err
}
