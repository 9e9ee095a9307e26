package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	var m vmFlags
	cmd := &cobra.Command{
		Use: "record --image IMAGE -o RUN.bprof [--until REGEX|--until-file PATH|--duration D] -- CMD...\n" +
			"  bootprof record --vm IMAGE -o RUN.bprof [--runs N] [--until REGEX] [FLAGS]",
		DisableFlagsInUseLine: true, // what follows CMD is CMD's
		Short:                 "Record which pages of an image a boot touches",
		Long: `Run CMD and record which pages of IMAGE it touches, and when. In CMD, {} stands for the image as a file,
{dev} for a read-only loop device on it, and {dir} for a directory where its file system is mounted.

IMAGE may be a pack: the image inside is exposed, so that pages are exact. The recording ends when a line
of CMD's output matches --until, when --until-file appears, after --duration, or with CMD itself; CMD is
then ended with SIGTERM, later SIGKILL. The run is written even if CMD fails or is interrupted.

With --vm the image boots in a QEMU machine instead, with its own kernel and an initramfs made for the occasion, to
its login prompt; then its power button is pressed. All of it is recorded. The console is kept as RUN.console.log.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if m.image != "" {
				return a.recordVM(cmd, args, m, until, out, o.Duration)
			}
			if err := m.notWithout(cmd); err != nil {
				return usage(cmd, err)
			}
			if len(args) == 0 {
				return usage(cmd, errors.New("want the command to run, behind --, got 0 arguments"))
			}
			if image == "" || out == "" {
				return usage(cmd, errors.New("--image and -o are needed"))
			}
			var err error
			if o.UntilRegex, err = untilRegex(cmd, until); err != nil {
				return err
			}
			if err := needRecorder(); err != nil {
				return err
			}
			o.Command, o.Stdin, o.Stdout, o.Stderr = args, os.Stdin, a.stdout, a.stderr
			return a.record(cmd.Context(), image, out, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&image, "image", "", "the `IMAGE` to record: a pack, or any image file")
	f.StringVarP(&out, "output", "o", "", "`RUN.bprof`, the profile to write")
	f.StringVar(&until, "until", "", "stop when a line of CMD's output matches `REGEX`; with --vm, the console's line at login (login:)")
	f.StringVar(&o.UntilFile, "until-file", "", "stop when `PATH` comes to exist")
	f.DurationVar(&o.Duration, "duration", 0, "stop after this time; with --vm, give up after it (20m)")
	f.BoolVar(&o.KeepGoing, "keep-going", false, "only mark the stop, and record to the end of CMD")
	f.DurationVar(&o.Grace, "grace", time.Second, "time between SIGTERM and SIGKILL for CMD")
	m.add(f)
	return cmd
}

// untilRegex compiles --until; nil without it.
func untilRegex(cmd *cobra.Command, until string) (*regexp.Regexp, error) {
	if until == "" {
		return nil, nil
	}
	re, err := regexp.Compile(until)
	if err != nil {
		return nil, usage(cmd, fmt.Errorf("--until: %w", err))
	}
	return re, nil
}

func needRecorder() error {
	if os.Geteuid() != 0 {
		return &codedError{mountclient.ExitSetup, errors.New("recording needs root: run it with sudo")}
	}
	return nil
}

func (a *app) record(ctx context.Context, image, out string, o recorder.Options) error {
	img, err := a.openRecorded(ctx, image, out)
	if err != nil {
		return err
	}
	defer img.Close()
	if !fsmagic.Mountable(img.kind) && strings.Contains(strings.Join(o.Command, " "), "{dir}") {
		return &imagepack.InputError{Path: image, Err: errors.New("{dir} wants a file system to mount, and none begins here: record a pack of it (bootprof pack), or use {} or {dev}")}
	}
	return a.recordRun(ctx, img, out, o)
}

// A recordedImage is an image that is about to be recorded.
type recordedImage struct {
	name   string
	file   *os.File // the image itself, that of a pack unpacked
	size   int64
	sha256 [32]byte // zero: not known
	kind   string   // as fsmagic names it
	coarse bool
	closer []io.Closer
}

func (r *recordedImage) Close() {
	for _, c := range r.closer {
		c.Close()
	}
}

// openRecorded opens an image, or the one inside a pack, whose runs are to be written to outs.
func (a *app) openRecorded(ctx context.Context, image string, outs ...string) (_ *recordedImage, err error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, &codedError{mountclient.ExitFormat, err}
	}
	r := &recordedImage{name: image, file: f, closer: []io.Closer{f}}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, &imagepack.InputError{Path: image, Err: fmt.Errorf("this is a directory: pack it first, with bootprof pack %s -o first.bpk", image)}
	}
	for _, out := range outs {
		if sameFile(out, image) {
			return nil, &codedError{mountclient.ExitUsage, fmt.Errorf("-o %s would replace the image", out)}
		}
		// Before the boot, not after it: a run that cannot be written is lost.
		if err := checkWritable(out, false); err != nil {
			return nil, err
		}
	}
	head := make([]byte, 8)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, &imagepack.InputError{Path: image, Err: errors.New("too short for an image")}
	}
	r.size = st.Size()
	if bpk.IsPack(head) {
		if err := a.unpackRecorded(ctx, r); err != nil {
			return nil, err
		}
	}
	r.kind = fsmagic.Detect(io.NewSectionReader(r.file, 0, r.size))
	if r.coarse = imagepack.Coarse(r.file, r.size, r.kind); r.coarse {
		fmt.Fprintf(a.stderr, "bootprof: %s is compressed, so this run sees whole compressed blocks; a boot recorded on a pack of the same files is exact\n", image)
	}
	return r, nil
}

// unpackRecorded takes the image out of a pack.
func (a *app) unpackRecorded(ctx context.Context, r *recordedImage) error {
	p, err := openPack(r.name, r.name)
	if err != nil {
		return err
	}
	r.closer = append(r.closer, p)
	bar := newProgress(a.stderr, "unpacking "+filepath.Base(r.name))
	f, err := imagepack.ExtractTemp(ctx, p.Pack, bar.set)
	bar.close()
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	r.closer = append(r.closer, f)
	r.file, r.size, r.sha256 = f, p.Header.ImageSize, p.Header.ImageSHA256
	return nil
}

// recordRun records one run of an image and writes it, also when it went wrong, unless nothing was read.
func (a *app) recordRun(ctx context.Context, img *recordedImage, out string, o recorder.Options) (err error) {
	o.Image, o.Size, o.SHA256, o.Coarse = img.file, img.size, img.sha256, img.coarse
	o.Filesystem, o.Logger = img.kind, a.log()
	if o.Map, err = imagepack.MapOf(img.file, img.size, img.kind); err != nil {
		return &imagepack.InputError{Path: img.name, Err: err}
	}
	// A reader of CMD's output that leaves early must not cost the run. Ignored, the signal would be so in CMD, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	run, err := recorder.Record(ctx, o)
	if run != nil {
		img.sha256 = run.Header.ImageSHA256 // for the next run
	}
	if run != nil && !errors.Is(err, recorder.ErrNothingRead) {
		if werr := profiles.WriteFile(out, run); werr != nil {
			return errors.Join(err, werr)
		}
		var bytes int64
		for _, t := range run.Touches {
			bytes += t.Len
		}
		fmt.Fprintf(a.stderr, "%s: %d pages (%s) of %s in %.2f s, ended by: %s\n", out, bytes/profiles.PageSize, size(bytes), img.name,
			time.Duration(run.Header.Duration).Seconds(), run.Header.End)
	}
	return err
}
