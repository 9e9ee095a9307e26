// Package loopdev attaches image files to read-only loop devices, with ioctls and without losetup(8).
//
// A Device is a kernel object with a number; its block device is /dev/loopN. Detach asks the kernel to
// let go: with other users (a mount, an open file) the device lives on until the last of them is gone
// and then clears itself.
//
// Traps:
//   - The kernel rounds the size down to 512 bytes; bytes after that are not on the device. File systems
//     with 4-KiB blocks refuse a device whose size is no multiple of 4 KiB.
//   - LOOP_CONFIGURE and later changes of the queue's limits reset the readahead: call SetReadahead after
//     Attach and before the first open by a reader, since an open file keeps the value it began with.
//   - ChangeFD, and from 6.13 to 6.18 a write to the queue's files in /sys, wait until the device has no request
//     under way. Whoever serves those requests (a FUSE file behind the device) must not wait for such a call.
//   - Where udevd runs it reads the start and the end of every new block device to name its file system.
//     Options.NoProbe holds the lock that keeps it away.
//   - A loop device never uses direct I/O on its file here, so that pages pushed into the file's page cache
//     are seen.
package loopdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ioctlChangeFD is LOOP_CHANGE_FD of <linux/loop.h>, which x/sys does not have.
const ioctlChangeFD = 0x4c06

// attachTries bounds how often a free device may be lost to another process between asking for it and
// configuring it.
const attachTries = 64

// Options of Attach. The zero value is usable.
type Options struct {
	// Autoclear lets the kernel detach the device when its last user closes it, even if the process that
	// attached it was killed. The Device itself is a user until Detach or Close.
	Autoclear bool
	// NoProbe holds an exclusive flock(2) on the device node until Detach or Close: udevd does not probe a
	// locked block device.
	NoProbe bool
	// Name is what losetup(8) shows as the file's name, cut to 63 bytes; empty means the path of the file.
	Name string
}

// A Device is an attached loop device. It is not safe for concurrent use. The caller calls Detach once.
type Device struct {
	Path   string // "/dev/loop7"
	Number int
	f      *os.File // the node; nil after Detach or Close
}

// Attach puts file on a free loop device, read-only. The device keeps its own reference to the file:
// the caller may close it at once.
func Attach(file *os.File, opts Options) (*Device, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("attaching %s to a loop device: %w (are root and the loop module there?)", file.Name(), err)
	}
	defer ctl.Close()
	for try := 1; ; try++ {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("asking for a free loop device for %s: %w", file.Name(), err)
		}
		d, err := configure(n, file, opts)
		if err == nil {
			return d, nil
		}
		// EBUSY: another process took the device first. ENXIO, ENOENT: it was removed in between.
		retry := errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist)
		if !retry || try == attachTries {
			return nil, fmt.Errorf("attaching %s to /dev/loop%d: %w", file.Name(), n, err)
		}
	}
}

func configure(n int, file *os.File, opts Options) (*Device, error) {
	d := &Device{Path: "/dev/loop" + strconv.Itoa(n), Number: n}
	var err error
	// Not O_RDWR: a kernel without CONFIG_BLK_DEV_WRITE_MOUNTED mounts no device that is open for writing.
	if d.f, err = os.OpenFile(d.Path, os.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if opts.NoProbe {
		// udevd may hold its own shared lock for a moment after the device's previous use.
		if err := unix.Flock(int(d.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			d.f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = unix.EBUSY
			}
			return nil, err
		}
	}
	cfg := unix.LoopConfig{Fd: uint32(file.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_READ_ONLY
	if opts.Autoclear {
		cfg.Info.Flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	name := opts.Name
	if name == "" {
		name = file.Name()
	}
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], name)
	err = unix.IoctlLoopConfigure(int(d.f.Fd()), &cfg)
	runtime.KeepAlive(file) // cfg holds its bare descriptor
	if err != nil {
		d.f.Close()
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
			err = fmt.Errorf("LOOP_CONFIGURE: %w (it takes a regular file and Linux 5.8)", err)
		}
		return nil, err
	}
	return d, nil
}

// SetReadahead sets the device's readahead in KiB; 0 makes every read ask for exactly its pages. Files that
// are open already keep the old value. It waits for no request.
func (d *Device) SetReadahead(kb int) error {
	if d.f == nil {
		return fmt.Errorf("setting readahead %d KiB of %s: %w", kb, d.Path, os.ErrClosed)
	}
	// BLKRASET counts 512-byte sectors. It works without /sys, which an initramfs may not have mounted.
	if err := unix.IoctlSetInt(int(d.f.Fd()), unix.BLKRASET, kb*2); err != nil {
		return fmt.Errorf("setting readahead %d KiB of %s: %w", kb, d.Path, err)
	}
	return nil
}

// SetReadahead is Device.SetReadahead for a loop device that somebody else attached. It goes through /sys and
// may wait for the device's requests; see the traps of the package.
func SetReadahead(number, kb int) error {
	p := fmt.Sprintf("/sys/block/loop%d/queue/read_ahead_kb", number)
	if err := os.WriteFile(p, []byte(strconv.Itoa(kb)), 0); err != nil {
		return fmt.Errorf("setting readahead %d KiB: %w", kb, err)
	}
	return nil
}

// Readahead returns the readahead of a loop device in KiB.
func Readahead(number int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/queue/read_ahead_kb", number))
	if err != nil {
		return 0, fmt.Errorf("reading the readahead: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// ChangeFD switches the live device to another file of the same size, mounted or not. The old file is
// let go when the requests under way are done. The readahead stays as it is.
func (d *Device) ChangeFD(file *os.File) error {
	if d.f == nil {
		return fmt.Errorf("switching %s to %s: %w", d.Path, file.Name(), os.ErrClosed)
	}
	err := unix.IoctlSetInt(int(d.f.Fd()), ioctlChangeFD, int(file.Fd()))
	runtime.KeepAlive(file)
	if err != nil {
		return fmt.Errorf("switching %s to %s: %w", d.Path, file.Name(), err)
	}
	return nil
}

// ChangeFD is Device.ChangeFD for a loop device that is attached to old, whoever attached it.
func ChangeFD(number int, old, file *os.File) error {
	d, err := Open(number, old)
	if err != nil {
		return fmt.Errorf("switching to %s: %w", file.Name(), err)
	}
	defer d.Close()
	return d.ChangeFD(file)
}

// Open opens a loop device that is attached to file. While it is open, the device stays what it is.
func Open(number int, file *os.File) (*Device, error) {
	d := &Device{Path: "/dev/loop" + strconv.Itoa(number), Number: number}
	var err error
	if d.f, err = os.OpenFile(d.Path, os.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if !Backs(number, file) {
		d.Close()
		return nil, fmt.Errorf("opening %s for %s: %w", d.Path, file.Name(), unix.ENXIO)
	}
	return d, nil
}

// Detach lets the device go and releases d. With other users left the device is cleared by the kernel when
// the last of them closes it. A second call does nothing.
func (d *Device) Detach() error {
	if d.f == nil {
		return nil
	}
	err := unix.IoctlSetInt(int(d.f.Fd()), unix.LOOP_CLR_FD, 0)
	d.Close()
	// ENXIO: somebody else has detached it already.
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detaching %s: %w", d.Path, err)
	}
	return nil
}

// Detach is Device.Detach for a loop device that somebody else attached.
func Detach(number int) error {
	d := Device{Path: "/dev/loop" + strconv.Itoa(number), Number: number}
	var err error
	if d.f, err = os.OpenFile(d.Path, os.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("detaching %s: %w", d.Path, err)
	}
	return d.Detach()
}

// Close releases d without detaching the device; with Options.Autoclear the device goes with its last
// user. For a device that stays mounted when its daemon ends.
func (d *Device) Close() error {
	if d.f == nil {
		return nil
	}
	f := d.f
	d.f = nil
	return f.Close()
}

// Backs tells whether the loop device with this number is attached to file. The number alone does not tell
// that: a device that was cleared is soon used again for another file.
func Backs(number int, file *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(file.Fd()), &st) == nil && BacksInode(number, st.Dev, st.Ino)
}

// BacksInode is Backs for a file that is known by the numbers of its file system and inode.
func BacksInode(number int, dev, inode uint64) bool {
	f, err := os.OpenFile("/dev/loop"+strconv.Itoa(number), os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return false
	}
	return info.Device == dev && info.Inode == inode
}

// BackingFiles returns the path of the file behind each attached loop device, by device number, as
// the kernel tells it: the path in the mount namespace of who attached it, with " (deleted)" appended
// for an unlinked file.
func BackingFiles() (map[int]string, error) {
	const block = "/sys/block"
	ents, err := os.ReadDir(block)
	if err != nil {
		return nil, fmt.Errorf("listing loop devices: %w", err)
	}
	out := make(map[int]string)
	for _, e := range ents {
		n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "loop"))
		if err != nil || !strings.HasPrefix(e.Name(), "loop") {
			continue
		}
		// Absent for a device that is not attached.
		b, err := os.ReadFile(block + "/" + e.Name() + "/loop/backing_file")
		if err == nil {
			out[n] = strings.TrimSuffix(string(b), "\n")
		}
	}
	return out, nil
}
