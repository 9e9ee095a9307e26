// Package recorder turns a traced boot into a profile.
//
// Record exposes an image as a FUSE file, runs a command that boots from it (or reads it in any other way),
// and logs the first touch of every page. What is logged is what the kernel asks for:
//
//	command ─> {dir} a mount ─> {dev} a loop device ─> {} the FUSE file ─> Options.Image
//	           readahead 0       readahead 0            direct I/O, logs
//
// The words {}, {dev} and {dir} in the command stand for these three; only what the command names is set up.
//
// Time is counted from the moment the image can first be read: before {dir} is mounted, so that the touches
// of mounting are in the run, as they are part of every boot.
//
// Traps:
//   - Time stamps are CPU times of the boot only if the image answers at once. Record reads an *os.File
//     through once beforehand if it takes at most half of the free memory; another ReaderAt must be fast
//     by itself. A READ costs about 0.02 ms through {} and 0.05 ms through {dev} more than one of a local disk in
//     memory; the time stamps include it.
//   - A command that attaches {} to a loop device by itself gets the kernel's default readahead at first.
//     Record looks for such devices after every open of {} and sets their readahead to 0, usually within
//     milliseconds; what was read before that may be in the run. {dev} and {dir} have no such gap.
//   - A mount in the command's own mount namespace ends with its last process. A command that leaves mounts of
//     the image elsewhere (an overlay over {dir} in the caller's namespace) keeps its loop device alive.
//   - unshare(1), and process 1 of a process namespace, ignore SIGTERM: such a command takes all of Options.Grace
//     to end.
//   - The process that records serves the file. It must not wait for a read of that file in one thread while
//     all its others stand still, as they do during fork and exec: a program inside {dir} is therefore
//     started by way of /bin/sh.
package recorder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"runtime"
	"time"

	"bootprof/imagepack/imagemap"
	"bootprof/profiles"
)

// Method is what Record writes to the header.
const Method = "fuse-direct"

// DefaultGrace is how long a command may take to end after SIGTERM.
const DefaultGrace = 10 * time.Second

// ErrNothingRead means that the command ended without reading a byte of the image. The run is empty.
var ErrNothingRead = errors.New("the command read nothing of the image: it must use {}, {dev} or {dir}")

// ErrNotReached means that the command ended by itself before the condition of UntilRegex or UntilFile was seen. The
// run holds all it read.
var ErrNotReached = errors.New("the command ended before its until condition was seen")

// A Session is a recording in progress, as Options.Run gets it.
type Session struct {
	Image string            // path of the recording image, what {} stands for in a command
	Mark  func(name string) // sets a mark now; safe for concurrent use
	Pages func() int64      // touched so far
}

// Options of Record. Image, Size, and Command or Run must be set.
type Options struct {
	Image      io.ReaderAt   // safe for concurrent use; not closed
	Size       int64         // bytes, > 0
	SHA256     [32]byte      // of the image; zero: computed, which reads all of it
	Filesystem string        // type for {dir} and the header; "" means by its magic
	Map        *imagemap.Map // for file touches; nil: the run has none
	Coarse     bool          // the image is compressed: touches are whole blocks

	// Run, if set, is called instead of a command that is run: it boots something from the image by other means, and the
	// recording lasts until it returns. It must return when ctx ends, with nothing left that uses the image. Its string
	// becomes Header.End, its error that of Record. Command then only tells, in the header, what was booted.
	Run     func(ctx context.Context, s Session) (end string, err error)
	Machine Machine // what Run boots on

	Command []string  // words; {}, {dev} and {dir} are replaced wherever they occur in one
	Stdin   io.Reader // nil: /dev/null
	Stdout  io.Writer // what the command writes is passed on as it comes; nil: dropped
	Stderr  io.Writer

	// The first condition that comes true stops the recording; with none it lasts until the command ends.
	UntilRegex *regexp.Regexp // on a line of the command's output; see lineWatch for unfinished lines
	UntilFile  string         // a path that comes to exist; it must not be there at the start
	Duration   time.Duration  // 0: no limit

	// KeepGoing makes a condition set its mark only: the command runs on to its own end and what it touches
	// counts, up to and through a shutdown. Otherwise the command is ended, and is served while it ends, but
	// nothing counts any more.
	KeepGoing bool
	Grace     time.Duration // from SIGTERM to SIGKILL; 0: DefaultGrace

	TempDir string       // where the private directory is made; "": the system's
	Logger  *slog.Logger // nil: nothing is logged
}

// A Machine is what an image was booted on, if not on this one. Its fields are those of profiles.Header.
type Machine struct {
	Kernel     string
	Class      string
	Readahead  int64 // bytes
	TimeScaled bool
}

func (o *Options) check() error {
	switch {
	case o.Image == nil || o.Size <= 0:
		return fmt.Errorf("recording needs an image of at least one byte, this one has %d", o.Size)
	case o.Run == nil && (len(o.Command) == 0 || o.Command[0] == ""):
		return errors.New("recording needs a command to run")
	case o.Duration < 0 || o.Grace < 0:
		return fmt.Errorf("a duration of %v and a grace period of %v: neither may be negative", o.Duration, o.Grace)
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Record runs the command and returns what it touched of the image. It needs root, /dev/fuse, and loop devices for
// {dev} and {dir}. When it returns, the command's process group has ended and nothing of its own is left mounted,
// attached or on disk.
//
// Once the command (or Run) was started there is always a run, even together with an error: a *CommandError if the command
// failed by itself, the context's error if ctx was cancelled, ErrNotReached, ErrNothingRead (also wrapped in
// another of these), or that of reading the image.
func Record(ctx context.Context, o Options) (run *profiles.Run, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	h, err := o.header(ctx)
	if err != nil {
		return nil, err
	}
	log := newReadLog(o.Size)
	st, err := newStage(&o, log, h.Filesystem)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = join(err, st.close())
	}()
	if o.Run != nil {
		return finish(&o, h, log, o.runSession(ctx, st, log))
	}
	cmd, err := newCommand(ctx, &o, st, log)
	if err != nil {
		return nil, err
	}
	if err := st.mountDir(log.begin); err != nil {
		return nil, err
	}
	res, err := cmd.run(ctx)
	if err != nil {
		return nil, err
	}
	return finish(&o, h, log, res)
}

// finish makes the run and the error that tells what was wrong with it.
func finish(o *Options, h profiles.Header, log *readLog, res result) (*profiles.Run, error) {
	touches, err := log.touchesUntil(res.endAt)
	h.End = res.end
	h.Duration = int64(res.endAt)
	run := &profiles.Run{Header: h, Touches: touches, Marks: res.marks, FileTouches: fileTouches(o.Map, touches)}
	if err == nil {
		err = res.err
	}
	if len(touches) == 0 {
		err = join(err, ErrNothingRead)
	}
	return run, err
}

// header fills in what is known before the run.
func (o *Options) header(ctx context.Context) (profiles.Header, error) {
	h := profiles.Header{
		ImageSize:   o.Size,
		ImageSHA256: o.SHA256,
		Filesystem:  o.Filesystem,
		Method:      Method,
		Coarse:      o.Coarse,
		Kernel:      kernelRelease(),
		Machine:     machineClass(runtime.NumCPU()),
		RecordedAt:  time.Now().Unix(),
		Command:     o.Command,
	}
	if o.Run != nil {
		h.Kernel, h.Machine, h.Readahead, h.TimeScaled = o.Machine.Kernel, o.Machine.Class, o.Machine.Readahead, o.Machine.TimeScaled
	}
	if h.Filesystem == "" {
		h.Filesystem = detect(o.Image, o.Size)
	}
	if err := o.readThrough(ctx, &h.ImageSHA256); err != nil {
		return h, fmt.Errorf("reading the image before recording: %w", err)
	}
	return h, nil
}
