package recorder

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"bootprof/internal/loopdev"
)

// Placeholders in the command.
const (
	wordImage = "{}"
	wordDev   = "{dev}"
	wordDir   = "{dir}"
)

// busyWait is how long a mount or loop device may stay in use after the command's end: the kernel
// lets go of the mounts of a mount namespace some time after its last process.
const busyWait = 5 * time.Second

// A stage is what the command runs on: the FUSE file, and the loop device and mount if it names them.
type stage struct {
	logger  *slog.Logger
	root    string // private directory, mode 0700
	fuseDir string // mount point in root
	image   string // the FUSE file
	dir     string // mount point in root, for {dir}
	fstype  string

	server  *fuse.Server
	watch   *loopWatch
	dev     *loopdev.Device // nil without {dev} and {dir}
	wantDir bool
	mounted bool // dir is mounted
}

// newStage sets up all but the mount of {dir}.
func newStage(o *Options, log *readLog, fstype string) (_ *stage, err error) {
	s := &stage{logger: o.Logger, fstype: fstype, wantDir: uses(o.Command, wordDir)}
	if s.wantDir && fstype == "" {
		return nil, errors.New("the command uses {dir}, but the image is no file system that is known by its magic")
	}
	if s.root, err = os.MkdirTemp(o.TempDir, "bootprof-record-"); err != nil {
		return nil, fmt.Errorf("making a directory for the recording image: %w", err)
	}
	// The kernel names the file behind a loop device by its real path.
	if real, err := filepath.EvalSymlinks(s.root); err == nil {
		s.root = real
	}
	defer func() {
		if err != nil {
			err = join(err, s.close())
		}
	}()
	s.fuseDir = filepath.Join(s.root, "fuse")
	s.image = filepath.Join(s.fuseDir, imageName)
	s.dir = filepath.Join(s.root, "dir")
	for _, d := range []string{s.fuseDir, s.dir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, fmt.Errorf("making a directory for the recording image: %w", err)
		}
	}
	s.watch = newLoopWatch(s.root, o.Logger)
	node := &imageNode{image: o.Image, size: o.Size, log: log, opened: s.watch.kick}
	if s.server, err = mountImage(s.fuseDir, node, o.Logger); err != nil {
		return nil, err
	}
	if s.wantDir || uses(o.Command, wordDev) {
		if err := s.attach(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// attach makes the loop device. The file is closed again: were it open here, a child process would close its copy
// of the descriptor on exec and wait for this process to answer, while that waits for the exec.
func (s *stage) attach() error {
	f, err := os.Open(s.image)
	if err != nil {
		return fmt.Errorf("opening the recording image: %w", err)
	}
	defer f.Close()
	if s.dev, err = loopdev.Attach(f, loopdev.Options{NoProbe: true}); err != nil {
		return err
	}
	return s.dev.SetReadahead(0)
}

// mountDir mounts {dir} if the command names it; begin is called right before.
func (s *stage) mountDir(begin func()) error {
	if !s.wantDir {
		return nil
	}
	begin()
	if err := unix.Mount(s.dev.Path, s.dir, s.fstype, unix.MS_RDONLY, ""); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("mounting the image: this kernel has no %s", s.fstype)
		}
		return fmt.Errorf("mounting the image as %s: %w", s.fstype, err)
	}
	s.mounted = true
	return nil
}

// uses tells whether any of the command's words holds the placeholder.
func uses(words []string, placeholder string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, placeholder) })
}

// words replaces the placeholders.
func (s *stage) words(command []string) []string {
	var dev string
	if s.dev != nil {
		dev = s.dev.Path
	}
	r := strings.NewReplacer(wordImage, s.image, wordDev, dev, wordDir, s.dir)
	out := make([]string, len(command))
	for i, w := range command {
		out[i] = r.Replace(w)
	}
	return out
}

// close takes everything down again, in whatever state it is. Its error means that something is left.
func (s *stage) close() error {
	var errs []error
	if s.watch != nil {
		s.watch.stop()
	}
	if s.mounted {
		errs = append(errs, s.unmount(s.dir))
	}
	if s.server != nil {
		errs = append(errs, s.closeLoops(), s.unmount(s.fuseDir))
		ended := make(chan struct{})
		go func() { s.server.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(busyWait):
			// Detached lazily, but somebody has a file of it open; the server ends with that.
			errs = append(errs, errors.New("the recording image is still in use and is served until this process ends"))
		}
	}
	// Not RemoveAll: these are empty directories, and should a mount be left it must stay whole.
	for _, d := range []string{s.fuseDir, s.dir, s.root} {
		if err := os.Remove(d); d != "" && err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return join(errs...)
}

// unmount waits for a busy mount and in the end detaches it lazily.
func (s *stage) unmount(dir string) error {
	for end := time.Now().Add(busyWait); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(dir, 0)
		if err == nil || errors.Is(err, unix.EINVAL) { // EINVAL: not mounted, the command did it
			return nil
		}
		if errors.Is(err, unix.EBUSY) && time.Now().Before(end) {
			continue
		}
		s.logger.Warn("detaching a mount that stays busy", "dir", dir, "err", err)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", dir, err)
		}
		return nil
	}
}

// closeLoops detaches the stage's device and those that the command attached to the image and left, with
// their mounts in this namespace: without the image behind them they are of no use. It waits until they are gone.
func (s *stage) closeLoops() error {
	for end := time.Now().Add(busyWait); ; time.Sleep(5 * time.Millisecond) {
		nums, err := loopsOver(s.root)
		if err != nil {
			return err
		}
		if s.dev != nil {
			for _, dir := range mountsOf(s.dev.Number) {
				s.logger.Warn("unmounting what the command left", "dir", dir)
				unix.Unmount(dir, unix.MNT_DETACH)
			}
			err := s.dev.Detach()
			s.dev = nil
			if err != nil {
				return err
			}
			continue
		}
		if len(nums) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("/dev/loop%d still holds the recording image: something the command left uses it", nums[0])
		}
		for _, n := range nums {
			for _, dir := range mountsOf(n) {
				s.logger.Warn("unmounting what the command left", "dir", dir)
				unix.Unmount(dir, unix.MNT_DETACH)
			}
			// With users left this only makes it clear itself later; so again in the next round.
			if err := loopdev.Detach(n); err != nil {
				s.logger.Warn("a loop device of the command", "err", err)
			}
		}
	}
}
