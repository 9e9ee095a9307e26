package mountclient

import (
	"context"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"bootprof/internal/loopdev"
)

// enterVoid makes an empty file system, which no directory shows, the root directory of this process: whatever it would
// open by a path from then on, it is told at once that there is no such file. The path might otherwise lead to
// the file system that the client itself serves, and wait for the client.
func enterVoid() error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Fchdir(dir); err != nil {
		return err
	}
	return unix.Chroot(".")
}

// A held is what a root's client does after the boot to files that it opened before DIR was ready.
type held struct {
	m        *Mounted
	settings []*os.File      // of readahead
	file     *os.File        // the image file as the loop device has it; nil: there is no loop device
	loop     *loopdev.Device // nil: the client stays
	run      *os.File        // the run directory; nil: no note
}

// hold opens what paths name; those that are not there are left out. If the image is to become local, number is that of
// the loop device that file is on. It keeps file.
func (m *Mounted) hold(paths []string, number int, file *os.File) *held {
	h := &held{m: m, file: file}
	for _, p := range paths {
		if f, err := os.OpenFile(p, os.O_WRONLY, 0); err == nil {
			h.settings = append(h.settings, f)
		}
	}
	if m.opts.FillRate == 0 || file == nil {
		return h
	}
	var err error
	if h.loop, err = loopdev.Open(number, file); err != nil {
		m.opts.Log.Warn("the client will go on serving the mount", "error", err)
	}
	if h.run, err = os.Open(m.runDir()); err != nil {
		m.opts.Log.Warn("status will not know of the mount", "error", err)
	}
	return h
}

// calm lets the image become local when the boot is over, if that is asked for, and raises the readahead then. Before, it stays 0:
// a page that is here would be read together with others that are not, and with the server gone whoever wants it would wait
// for them. A machine that shuts down wants many (systemd-shutdown locks all its pages in memory).
// The mount of a root is there for as long as the machine: it does not look for its end.
func (h *held) calm(ctx context.Context) {
	defer h.close()
	always := func() bool { return true }
	if !h.m.booted(ctx, always) || h.m.fill(ctx, always) != nil {
		return
	}
	for _, f := range h.settings {
		_, _ = f.Write(strconv.AppendInt(nil, calmKB, 10))
	}
	if h.file != nil {
		_ = unix.Fadvise(int(h.file.Fd()), 0, 0, unix.FADV_NORMAL)
	}
	if h.loop != nil {
		h.handOver()
	}
}

func (h *held) handOver() {
	local := h.m.Client.cache.local
	if err := h.leaveNote(local); err != nil {
		h.m.opts.Log.Warn("status will not know of the mount", "error", err)
	}
	if err := h.loop.ChangeFD(local); err != nil {
		h.m.opts.Log.Warn("the client goes on serving the mount", "error", err)
		return
	}
	h.m.opts.Log.Info("the image is local: the kernel serves the mount, the client ends", "dir", h.m.opts.Dir, "file", local.Name())
}

func (h *held) leaveNote(local *os.File) error {
	n, err := h.m.noteOf(h.loop.Number, local)
	if err != nil || h.run == nil {
		return err
	}
	return n.leaveIn(h.run)
}

func (h *held) close() {
	for _, f := range h.settings {
		f.Close()
	}
	if h.file != nil {
		h.file.Close()
	}
	if h.loop != nil {
		h.loop.Close()
	}
	if h.run != nil {
		h.run.Close()
	}
}
