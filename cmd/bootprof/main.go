// Bootprof makes a machine boot from a Linux image on a plain web server as fast as from its own disk.
//
// docs/cli.md describes the commands, their flags and exit codes. Machines read stdout, people stderr.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bootprof/mountclient"
	"bootprof/recorder/labinit"
)

func main() {
	if labinit.IsInit() {
		labinit.Run() // the machine of record --vm: its whole job, and it does not return
	}
	if len(os.Args) > 1 && os.Args[1] == "mount" {
		mountclient.MarkRoot(os.Args[2:])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &app{stdout: stdout, stderr: stderr}
	root := app.command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return mountclient.ExitOK
	}
	var coded *codedError
	if errors.As(err, &coded) && coded.err == nil {
		return coded.code // told already
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &codedError{mountclient.ExitSignal, errors.New("interrupted")}
	}
	fmt.Fprintln(stderr, "bootprof:", strings.Join(strings.Fields(err.Error()), " "))
	return exitCode(err)
}

// app is what the verbs share.
type app struct {
	stdout, stderr io.Writer
	verbose        bool
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "bootprof",
		Short:         "Boot a Linux image from a plain web server as fast as from the local disk",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "tell more on stderr")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	// An empty value is a variable of a script that is not set: --sign "$KEY" must not mean "not signed".
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) (err error) {
		cmd.Flags().Visit(func(f *pflag.Flag) {
			if f.Value.String() == "" || f.Value.String() == "[]" {
				err = usage(cmd, fmt.Errorf("--%s has an empty value", f.Name))
			}
		})
		return err
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(a.recordCmd(), a.analyzeCmd(), a.packCmd(), a.serveCmd(), a.mountCmd(), a.statusCmd(), a.inspectCmd(), a.verifyCmd(), a.initrdCmd())
	return root
}

// version is set by the build.
var version = "dev"

func (a *app) log() *slog.Logger {
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	return mountclient.NewLog(a.stderr, level)
}

// args checks the number of arguments and names what is missing.
func args(min, max int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < min || max >= 0 && len(args) > max {
			return usage(cmd, fmt.Errorf("want %s, got %d arguments", what, len(args)))
		}
		return nil
	}
}

func usage(cmd *cobra.Command, err error) error {
	return &codedError{mountclient.ExitUsage, fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}
