// Command labboot boots a root directory in the namespace lab, prints "booted" when the boot marker appears, ends the
// guest and exits with 0:
//
//	bootprof record --image IMAGE -o RUN --until booted -- labboot [--target UNIT] {dir}
//
// It exits with 1 and the console's last lines if the marker does not appear.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"bootprof/bench/lab"
)

func main() {
	lab.RunStage()
	var o lab.Options
	flag.StringVar(&o.Target, "target", "multi-user.target", "systemd `UNIT` to boot to")
	flag.DurationVar(&o.Timeout, "timeout", 0, "give up after this time (default 2m)")
	verbose := flag.Bool("v", false, "print the console to stderr at the end")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: labboot [--target UNIT] [--timeout D] [-v] DIR")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, flag.Arg(0), o, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "labboot:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, o lab.Options, verbose bool) error {
	g, err := lab.Start(ctx, dir, o)
	if err != nil {
		return err
	}
	// Said before the guest ends: a recorder takes this line's time as the end of the boot.
	fmt.Println("booted")
	err = g.Stop()
	if verbose {
		fmt.Fprintln(os.Stderr, g.Console)
	}
	fmt.Fprintf(os.Stderr, "booted in %.3f s\n", g.Booted.Seconds())
	if len(g.Failed) > 0 {
		fmt.Fprintln(os.Stderr, "units that failed:", strings.Join(g.Failed, "; "))
	}
	return err
}
