package mountclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"bootprof/internal/fsmagic"
	"bootprof/internal/loopdev"
)

// Readahead of the FUSE file and of the loop device. While booting it would ask for cold pages beside those
// that the boot needs; afterwards a copy of a large file wants it.
const (
	bootWindow     = 20 * time.Second // from ready; readahead stays low at least so long
	calmFUSEKB     = 1024
	calmLoopKB     = 512
	pushGoroutines = 2
)

// MountOptions say what Mount puts where.
type MountOptions struct {
	Options
	Dir    string // an empty directory
	Raw    bool   // Dir/image is the image file; nothing is mounted on it
	RunDir string // for the status socket; empty: /run/bootprof
}

// A Mounted is a remote image that is in use. It ends when Dir is unmounted; see Wait.
type Mounted struct {
	Client *Client
	opts   MountOptions
	server *fuse.Server
	stop   context.CancelFunc
	parts  sync.WaitGroup
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
	run, stop := context.WithCancel(context.Background())
	m := &Mounted{Client: c, opts: opts, stop: stop}
	if err := m.attach(ctx, run); err != nil {
		m.end()
		return nil, err
	}
	c.ready.Store(int64(time.Since(c.started)))
	c.fetch.setInUse()
	if err := m.serveStatus(run); err != nil {
		opts.Log.Warn("no status socket", "error", err)
	}
	return m, nil
}

// attach mounts the FUSE file and, but for Raw, the file system in it.
func (m *Mounted) attach(ctx, run context.Context) (err error) {
	dir := m.opts.Dir
	if !m.opts.Raw {
		if dir, err = os.MkdirTemp("", "bootprof-"); err != nil {
			return &SetupError{fmt.Errorf("making a directory for the image file: %w", err)}
		}
		defer os.Remove(dir)
	}
	disableRequestTimeout(m.Client)
	img := &imageFile{size: m.Client.Size(), read: m.read, log: m.opts.Log}
	if m.server, err = mountFUSE(dir, img); err != nil {
		return &SetupError{err}
	}
	detach := func() error { return unix.Unmount(dir, unix.MNT_DETACH) }
	file, err := os.Open(dir + "/" + imageName)
	if err != nil {
		detach()
		return err
	}
	bdi := setFUSEReadahead(file, 0)
	m.Client.push.write = img.WriteCache
	for range pushGoroutines {
		m.parts.Go(func() { m.Client.push.run(run) })
	}
	if m.opts.Raw {
		m.parts.Go(func() { m.settleRaw(run, bdi) })
		return file.Close()
	}
	loop, err := m.mountLoop(ctx, file)
	// From here on the kernel holds the file; without the mount, the FUSE connection ends with its last user.
	if err2 := detach(); err == nil && err2 != nil {
		err = fmt.Errorf("detaching %s: %w", dir, err2)
	}
	if err != nil {
		file.Close()
		return err
	}
	m.parts.Go(func() { m.settle(run, file, bdi, loop) })
	return nil
}

// mountLoop mounts the file system in the image file at Dir and returns the number of the loop device.
func (m *Mounted) mountLoop(ctx context.Context, file *os.File) (int, error) {
	fs := m.Client.head.Filesystem
	if fs == "" {
		fs = fsmagic.Detect(file)
	}
	if !fsmagic.Mountable(fs) {
		return 0, &SetupError{fmt.Errorf("the image in %s holds no file system that could be mounted; --raw gives the image file", m.Client.fetch.src.shown)}
	}
	dev, err := loopdev.Attach(file, loopdev.Options{Autoclear: true, Name: "bootprof"})
	if err != nil {
		return 0, &SetupError{err}
	}
	defer dev.Close()
	if err := dev.SetReadahead(0); err != nil {
		return 0, &SetupError{err}
	}
	if err := unix.Mount(dev.Path, m.opts.Dir, fs, unix.MS_RDONLY, ""); err != nil {
		if m.Client.brokenBy != nil {
			return 0, m.Client.brokenBy
		}
		return 0, &SetupError{fmt.Errorf("mounting the %s file system of %s at %s: %w (is it in /proc/filesystems?)", fs, m.Client.fetch.src.shown, m.opts.Dir, err)}
	}
	return dev.Number, nil
}

// read is what the image file answers READs with.
func (m *Mounted) read(ctx context.Context, dst []byte, imageOff int64) (int, error) {
	const page = 4096
	done := m.Client.push.reading(imageOff/page, (imageOff%page+int64(len(dst))+page-1)/page)
	defer done()
	return m.Client.ReadAt(ctx, dst, imageOff)
}

// settle raises the readahead when the boot is over. It keeps the image file open until then, because an
// open file keeps the readahead that it was opened with, and only through this descriptor can that of the
// loop device's file be changed. Until then it watches that the loop device lives: the file must not
// outlast it.
func (m *Mounted) settle(ctx context.Context, file *os.File, bdi string, loop int) {
	defer file.Close()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	ready := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !loopdev.Backs(loop, file) {
			return
		}
		if time.Since(ready) >= bootWindow && m.Client.hot.Load() > 0 {
			break
		}
	}
	writeReadahead(bdi, calmFUSEKB)
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_NORMAL); err != nil {
		m.opts.Log.Debug("raising the readahead of the image file", "error", err)
	}
	if err := loopdev.SetReadahead(loop, calmLoopKB); err != nil {
		m.opts.Log.Debug("raising the readahead of the loop device", "error", err)
	}
}

// settleRaw raises the readahead for files opened after the boot.
func (m *Mounted) settleRaw(ctx context.Context, bdi string) {
	if sleep(ctx, bootWindow) {
		writeReadahead(bdi, calmFUSEKB)
	}
}

// setFUSEReadahead sets the readahead of the file system that file lies on and returns the name of its
// setting in /sys, "" if there is none (then the kernel's default stays).
func setFUSEReadahead(file *os.File, kb int) string {
	var st unix.Stat_t
	if unix.Fstat(int(file.Fd()), &st) != nil {
		return ""
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	if !writeReadahead(path, kb) {
		return ""
	}
	// The file was opened before; it takes the new value over like this.
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_NORMAL)
	return path
}

func writeReadahead(path string, kb int) bool {
	return path != "" && os.WriteFile(path, strconv.AppendInt(nil, int64(kb), 10), 0) == nil
}

// disableRequestTimeout keeps the kernel (Linux 6.15 and later) from aborting the connection when a read
// waits for the network.
func disableRequestTimeout(c *Client) {
	const dir = "/proc/sys/fs/fuse/"
	if b, err := os.ReadFile(dir + "default_request_timeout"); err == nil && string(b) != "0\n" {
		_ = os.WriteFile(dir+"default_request_timeout", []byte("0"), 0)
	}
	if b, err := os.ReadFile(dir + "max_request_timeout"); err == nil && string(b) != "0\n" {
		c.opts.Log.Warn("the kernel limits how long a read may wait: an outage longer than fs.fuse.max_request_timeout breaks the mount")
	}
}

// Wait blocks until Dir is unmounted and the last user of the image is gone, then frees everything.
func (m *Mounted) Wait() error {
	m.server.Wait()
	return m.end()
}

// Unmount unmounts Dir; Wait then returns. It fails while Dir is in use.
func (m *Mounted) Unmount() error {
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
