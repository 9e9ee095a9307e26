package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/internal/fsmagic"
	"bootprof/mountclient"
	"bootprof/profiles"
	"bootprof/recorder"
)

func (a *app) recordCmd() *cobra.Command {
	var image, out, until string
	var o recorder.Options
	cmd := &cobra.Command{
		Use:                   "record --image IMAGE -o RUN.bprof [--until REGEX|--until-file PATH|--duration D] -- CMD...",
		DisableFlagsInUseLine: true, // what follows CMD is CMD's
		Short:                 "Record which pages of an image a boot touches",
		Long: `Run CMD and record which pages of IMAGE it touches, and when. In CMD, {} stands for the image as a file,
{dev} for a read-only loop device on it, and {dir} for a directory where its file system is mounted.

IMAGE may be a pack: the image inside is exposed, so that pages are exact. The recording ends when a line
of CMD's output matches --until, when --until-file appears, after --duration, or with CMD itself; CMD is
then ended with SIGTERM, later SIGKILL. The run is written even if CMD fails or is interrupted.`,
		Args: args(1, -1, "the command to run, behind --"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if image == "" || out == "" {
				return usage(cmd, errors.New("--image and -o are needed"))
			}
			if until != "" {
				re, err := regexp.Compile(until)
				if err != nil {
					return usage(cmd, fmt.Errorf("--until: %w", err))
				}
				o.UntilRegex = re
			}
			if os.Geteuid() != 0 {
				return &codedError{mountclient.ExitSetup, errors.New("recording needs root: run it with sudo")}
			}
			o.Command, o.Stdin, o.Stdout, o.Stderr = args, os.Stdin, a.stdout, a.stderr
			return a.record(cmd.Context(), image, out, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&image, "image", "", "the `IMAGE` to record: a pack, or any image file")
	f.StringVarP(&out, "output", "o", "", "`RUN.bprof`, the profile to write")
	f.StringVar(&until, "until", "", "stop when a line of CMD's output matches `REGEX`")
	f.StringVar(&o.UntilFile, "until-file", "", "stop when `PATH` comes to exist")
	f.DurationVar(&o.Duration, "duration", 0, "stop after this time")
	f.BoolVar(&o.KeepGoing, "keep-going", false, "only mark the stop, and record to the end of CMD")
	f.DurationVar(&o.Grace, "grace", time.Second, "time between SIGTERM and SIGKILL for CMD")
	return cmd
}

func (a *app) record(ctx context.Context, image, out string, o recorder.Options) error {
	f, err := os.Open(image)
	if err != nil {
		return &codedError{mountclient.ExitFormat, err}
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return &imagepack.InputError{Path: image, Err: fmt.Errorf("this is a directory: pack it first, with bootprof pack %s -o first.bpk", image)}
	case sameFile(out, image):
		return &codedError{mountclient.ExitUsage, fmt.Errorf("-o %s would replace the image", out)}
	}
	// Before the boot, not after it: a run that cannot be written is lost.
	if err := checkWritable(out, false); err != nil {
		return err
	}
	head := make([]byte, 8)
	if _, err := f.ReadAt(head, 0); err != nil {
		return &imagepack.InputError{Path: image, Err: errors.New("too short for an image")}
	}
	o.Image, o.Size = f, st.Size()
	if bpk.IsPack(head) {
		p, err := openPack(image, image)
		if err != nil {
			return err
		}
		defer p.Close()
		bar := newProgress(a.stderr, "unpacking "+filepath.Base(image))
		f, err = imagepack.ExtractTemp(ctx, p.Pack, bar.set)
		bar.close()
		if err != nil {
			return fmt.Errorf("%s: %w", image, err)
		}
		defer f.Close()
		o.Image, o.Size, o.SHA256 = f, p.Header.ImageSize, p.Header.ImageSHA256
	}
	kind := fsmagic.Detect(f)
	if !fsmagic.Mountable(kind) && strings.Contains(strings.Join(o.Command, " "), "{dir}") {
		return &imagepack.InputError{Path: image, Err: errors.New("{dir} wants a file system to mount, and none begins here: record a pack of it (bootprof pack), or use {} or {dev}")}
	}
	if o.Map, err = imagepack.MapOf(f, o.Size, kind); err != nil {
		return &imagepack.InputError{Path: image, Err: err}
	}
	if o.Coarse = imagepack.Coarse(f, o.Size, kind); o.Coarse {
		fmt.Fprintf(a.stderr, "bootprof: %s is compressed, so this run sees whole compressed blocks; a boot recorded on a pack of the same files is exact\n", image)
	}
	o.Filesystem, o.Logger = kind, a.log()
	// A reader of CMD's output that leaves early must not cost the run. Ignored, the signal would be so in CMD, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	run, err := recorder.Record(ctx, o)
	if run != nil && !errors.Is(err, recorder.ErrNothingRead) {
		if werr := profiles.WriteFile(out, run); werr != nil {
			return errors.Join(err, werr)
		}
		var bytes int64
		for _, t := range run.Touches {
			bytes += t.Len
		}
		fmt.Fprintf(a.stderr, "%s: %d pages (%s) of %s in %.2f s, ended by: %s\n", out, bytes/profiles.PageSize, size(bytes), image,
			time.Duration(run.Header.Duration).Seconds(), run.Header.End)
	}
	return err
}
