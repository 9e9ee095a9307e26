package mountclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/fsmagic"
	"bootprof/internal/loopdev"
)

// pushGoroutines is how many pushes may wait for a READ at the same time before the others do, too.
const pushGoroutines = 2

// MountOptions say what Mount puts where.
type MountOptions struct {
	Options
	Dir    string        // an empty directory
	Raw    bool          // Dir/image is the image file; nothing is mounted on it
	Loop   bool          // use a loop device even where the kernel can mount the image file itself
	RunDir string        // for the status socket; empty: /run/bootprof
	window time.Duration // how long a boot takes at least; 0: bootWindow

	ImageName string // of the image file with Raw; empty: image
}

// A Mounted is a remote image that is in use. It ends when Dir is unmounted; see Wait.
type Mounted struct {
	Client *Client
	opts   MountOptions
	server *fuse.Server
	stop   context.CancelFunc
	parts  sync.WaitGroup
	failed atomic.Pointer[error] // of the first read that failed
	device uint64                // of the file system at Dir, once it is mounted
}

// SetupError tells what this machine or the arguments lack for a mount.
type SetupError struct{ Err error }

func (e *SetupError) Error() string { return e.Err.Error() }
func (e *SetupError) Unwrap() error { return e.Err }

// Check tells whether a mount at dir can work on this machine, before anything is fetched.
func Check(dir string) error {
	if os.Geteuid() != 0 {
		return &SetupError{errors.New("mounting needs root: run it with sudo")}
	}
	st, err := os.Stat(dir)
	if err != nil {
		return &SetupError{fmt.Errorf("mount point: %w", err)}
	}
	if !st.IsDir() {
		return &SetupError{fmt.Errorf("mount point %s is not a directory", dir)}
	}
	d, err := os.Open(dir)
	if err != nil {
		return &SetupError{err}
	}
	defer d.Close()
	if names, err := d.Readdirnames(1); err != io.EOF || len(names) > 0 {
		return &SetupError{fmt.Errorf("mount point %s is not empty", dir)}
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return &SetupError{errors.New("this kernel has no FUSE: /dev/fuse is missing (modprobe fuse)")}
	}
	return nil
}

// Mount opens the remote image and mounts it. It returns when Dir is ready. ctx bounds the start only.
func Mount(ctx context.Context, opts MountOptions) (*Mounted, error) {
	if err := Check(opts.Dir); err != nil {
		return nil, err
	}
	c, err := Open(ctx, opts.Options)
	if err != nil {
		return nil, err
	}
	if opts.FillRate > 0 { // a mount made straight from the FUSE file can never leave it
		opts.Loop = true
	}
	if opts.window == 0 {
		opts.window = bootWindow
	}
	run, stop := context.WithCancel(context.Background())
	m := &Mounted{Client: c, opts: opts, stop: stop}
	if err := m.attach(ctx, run); err != nil {
		m.end()
		return nil, err
	}
	c.ready.Store(int64(time.Since(c.started)))
	c.fetch.setInUse()
	if err := c.preloadFailed(); err != nil { // the mount did not need what is missing, but the boot will
		_ = unix.Unmount(opts.Dir, unix.MNT_DETACH)
		m.end()
		return nil, err
	}
	m.device, _ = deviceOf(opts.Dir)
	if err := m.serveStatus(run); err != nil {
		opts.Log.Warn("no status socket", "error", err)
	}
	return m, nil
}

// attach mounts the FUSE file and, but for Raw, the file system in it.
func (m *Mounted) attach(ctx, run context.Context) (err error) {
	dir := m.opts.Dir
	if !m.opts.Raw {
		if dir, err = os.MkdirTemp(m.tempDir(), "bootprof-"); err != nil {
			return &SetupError{fmt.Errorf("making a directory for the image file: %w", err)}
		}
		defer os.Remove(dir)
	}
	disableRequestTimeout("/proc/sys/fs/fuse", m.opts.Log)
	img := &imageFile{size: m.Client.head.ImageSize, read: m.read, log: m.opts.Log, name: imageName}
	if m.opts.Raw {
		img.size = m.Client.Size() // a file system may need the whole last page
		if m.opts.ImageName != "" {
			img.name = m.opts.ImageName
		}
	}
	if m.server, err = mountFUSE(dir, img); err != nil {
		return &SetupError{err}
	}
	detach := func() error { return unix.Unmount(dir, unix.MNT_DETACH) }
	file, err := os.Open(dir + "/" + img.name)
	if err == nil { // a first close, which tells the kernel that Flush is not wanted
		file.Close()
		file, err = os.Open(dir + "/" + img.name)
	}
	if err != nil {
		detach()
		return err
	}
	bdi := lowerReadahead(file)
	m.Client.push.write = img.push
	if m.opts.Record {
		m.Client.push.end() // nothing is pushed: each page has to be asked for
		if d := m.Client.demand; d != nil {
			d.missed.reads = true
		}
	}
	for range pushGoroutines {
		m.parts.Go(func() { m.Client.fetch.persist(run, "pushing pages", func() { m.Client.push.run(run) }) })
	}
	if m.opts.Raw {
		if m.opts.Root {
			h := m.hold([]string{bdi}, 0, nil)
			m.parts.Go(func() { m.survived("what follows the boot", func() { h.calm(run) }) })
			return file.Close()
		}
		m.parts.Go(func() {
			if m.booted(run, func() bool { return true }) {
				writeReadahead(bdi, calmKB)
				_ = m.fill(run, func() bool { return true })
			}
		})
		return file.Close()
	}
	defer file.Close()
	calm, err := m.mountImage(ctx, file)
	// From here on the kernel holds the file; without the mount, the FUSE connection ends with its last user.
	if err2 := detach(); err == nil && err2 != nil {
		err = fmt.Errorf("detaching %s: %w", dir, err2)
	}
	if err != nil {
		return err
	}
	m.parts.Go(func() { m.survived("what follows the boot", func() { calm(run) }) })
	return nil
}

// mountImage mounts the file system in the image file at Dir. It returns what raises the readahead once the
// boot is over, which ends with its context or with the mount.
func (m *Mounted) mountImage(ctx context.Context, file *os.File) (calm func(context.Context), err error) {
	// Whoever interrupts the start is not kept waiting by reads that wait for the network.
	proceed := context.AfterFunc(ctx, m.Client.stop)
	defer proceed()
	fs := m.Client.head.Filesystem
	if fs == "" {
		fs = fsmagic.Detect(file)
	}
	if err := m.failed.Load(); err != nil {
		return nil, *err
	}
	if !fsmagic.Mountable(fs) {
		return nil, &SetupError{fmt.Errorf("the image in %s holds no file system that could be mounted; --raw gives the image file", m.Client.shown)}
	}
	calm, err = m.mountFile(file, fs)
	if errors.Is(err, errNeedsLoop) {
		calm, err = m.mountLoop(file, fs)
	}
	if errno, ok := err.(unix.Errno); ok { // of mount(2) itself; what the others say is more to the point
		if cause := m.failed.Load(); cause != nil {
			return nil, *cause
		}
		err = &SetupError{fmt.Errorf("mounting the %s file system of %s at %s: %w (is it in /proc/filesystems?)", fs, m.Client.shown, m.opts.Dir, errno)}
	}
	if err == nil && !proceed() {
		_ = unix.Unmount(m.opts.Dir, unix.MNT_DETACH)
		err = context.Cause(ctx)
	}
	return calm, err
}

// errNeedsLoop tells that the kernel mounts this file system from block devices only.
var errNeedsLoop = errors.New("a loop device is needed")

// mountFile mounts an EROFS straight from the image file, which Linux 6.12 and later can: a page that the boot
// reads is then copied from page cache to page cache in the reader's own thread, where a loop device has
// it wait for a kernel thread. Boots whose pages are all there are 20 % faster by it (docs/design.md).
func (m *Mounted) mountFile(file *os.File, fs string) (calm func(context.Context), err error) {
	if fs != "erofs" || m.opts.Loop {
		return nil, errNeedsLoop
	}
	before := erofsReadaheads()
	err = unix.Mount(file.Name(), m.opts.Dir, fs, unix.MS_RDONLY, "")
	if errors.Is(err, unix.ENOTBLK) {
		return nil, errNeedsLoop
	}
	if err != nil {
		return nil, err
	}
	// The mount has a readahead of its own, under a name that only the kernel knows. Another mount of this
	// moment may get the same treatment: low now and high later does no harm there.
	var mine []string
	for path := range erofsReadaheads() {
		if !before[path] && writeReadahead(path, 0) {
			mine = append(mine, path)
		}
	}
	if len(mine) == 0 { // without that the boot would fetch cold pages
		if err := unix.Unmount(m.opts.Dir, 0); err != nil {
			return nil, err
		}
		return nil, errNeedsLoop
	}
	if m.opts.Root {
		return m.hold(mine, 0, nil).calm, nil
	}
	return func(ctx context.Context) {
		if m.booted(ctx, func() bool { return true }) {
			for _, path := range mine {
				writeReadahead(path, calmKB)
			}
		}
	}, nil
}

// mountLoop mounts the file system by way of a loop device, which goes when the mount goes.
func (m *Mounted) mountLoop(file *os.File, fs string) (calm func(context.Context), err error) {
	dev, err := loopdev.Attach(file, loopdev.Options{Autoclear: true, Name: "bootprof"})
	if err != nil {
		return nil, &SetupError{err}
	}
	defer dev.Close()
	if err := dev.SetReadahead(0); err != nil {
		return nil, &SetupError{err}
	}
	// An open file keeps the readahead that it was opened with. That of the loop device's file can be
	// changed through a descriptor of it only, which must not outlast the device.
	fd, err := unix.Dup(int(file.Fd()))
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	held := os.NewFile(uintptr(fd), file.Name())
	if err := unix.Mount(dev.Path, m.opts.Dir, fs, unix.MS_RDONLY, ""); err != nil {
		held.Close()
		return nil, err
	}
	// Mounting a squashfs raises it again (to 512 KiB on Linux 6.18).
	if err := dev.SetReadahead(0); err != nil {
		m.opts.Log.Warn("the boot will ask for pages beside those that it needs", "error", err)
	}
	if m.opts.Root {
		setting := fmt.Sprintf("/sys/block/loop%d/queue/read_ahead_kb", dev.Number)
		return m.hold([]string{readaheadOf(held), setting}, dev.Number, held).calm, nil
	}
	return func(ctx context.Context) {
		defer held.Close()
		if m.booted(ctx, func() bool { return loopdev.Backs(dev.Number, held) }) {
			m.calmLoop(dev.Number, held)
			m.leave(ctx, dev.Number, held)
		}
	}, nil
}

// deviceOf returns the number of the file system at dir.
func deviceOf(dir string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	return uint64(st.Dev), err
}

// read is what the image file answers READs with.
func (m *Mounted) read(ctx context.Context, dst []byte, imageOff int64) (n int, err error) {
	err = errPanicked
	m.Client.fetch.persist(ctx, "a read", func() { n, err = m.readOnce(ctx, dst, imageOff) })
	return n, err
}

func (m *Mounted) readOnce(ctx context.Context, dst []byte, imageOff int64) (int, error) {
	first, pages := imageOff/bpk.PageSize, (imageOff%bpk.PageSize+int64(len(dst))+bpk.PageSize-1)/bpk.PageSize
	if d := m.Client.demand; m.opts.Record && d != nil {
		d.missed.read(m.Client.started, first, pages)
	}
	done := m.Client.push.reading(first, pages)
	defer done()
	n, err := m.Client.ReadAt(ctx, dst, imageOff)
	if err != nil && ctx.Err() == nil {
		m.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// disableRequestTimeout keeps the kernel (Linux 6.15 and later) from aborting the connection when a read
// waits for the network.
func disableRequestTimeout(dir string, log *slog.Logger) {
	isSet := func(name string) bool {
		b, err := os.ReadFile(dir + "/" + name)
		return err == nil && string(b) != "0\n"
	}
	const first, second = "default_request_timeout", "max_request_timeout"
	if isSet(first) {
		if err := os.WriteFile(dir+"/"+first, []byte("0\n"), 0); err != nil {
			log.Warn("an outage longer than fs.fuse."+first+" breaks the mount", "error", err)
		}
	}
	if isSet(second) {
		log.Warn("the kernel limits how long a read may wait: an outage longer than fs.fuse." + second + " breaks the mount")
	}
}

// Wait blocks until Dir is unmounted and the last user of the image is gone, then frees everything.
func (m *Mounted) Wait() error {
	m.server.Wait()
	return m.end()
}

// Unmount unmounts Dir; Wait then returns. It fails while Dir is in use. A mount at Dir that is not this one's, which is
// gone then, is left alone.
func (m *Mounted) Unmount() error {
	if dev, err := deviceOf(m.opts.Dir); err == nil && dev != m.device {
		return nil
	}
	if err := unix.Unmount(m.opts.Dir, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", m.opts.Dir, err)
	}
	return nil
}

func (m *Mounted) end() error {
	m.stop()
	if m.server != nil {
		m.server.Wait()
	}
	m.parts.Wait()
	return m.Client.Close()
}
