package mountclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/loopdev"
)

// When the whole image is in the cache's file, the loop device is put on that file, and the client is not needed any
// more: the FUSE connection ends with its last user, and the process with it. It leaves a note in the run directory, by
// which `status` tells of the mount for as long as there is one.

// noteSuffix ends the name of a note of a client that has handed over.
const noteSuffix = ".local"

// A note is what a client leaves behind.
type note struct {
	Status Status `json:"status"`
	Loop   int    `json:"loop"`  // number of the loop device
	Device uint64 `json:"dev"`   // of the file system that the file is on
	Inode  uint64 `json:"inode"` // of the file
}

// fill fills the cache, if that is asked for, while alive says so. It returns nil when the whole image is there.
func (m *Mounted) fill(ctx context.Context, alive func() bool) error {
	c := m.Client
	if c.opts.FillRate == 0 || c.cache == nil {
		return errors.New("no fill")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	c.running.Go(func() { done <- c.fill(ctx) }) // what it waits for of the network ends with the client only
	look := time.NewTicker(aliveEvery)
	defer look.Stop()
	for {
		select {
		case err := <-done:
			switch {
			case err == nil:
				c.filling.Store(fillLocal)
			case ctx.Err() == nil:
				m.opts.Log.Warn("the image does not become local", "error", err)
			}
			return err
		case <-look.C:
			if !alive() {
				return errors.New("unmounted")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave fills the cache and puts the loop device on its file instead of held, the FUSE file. No READ waits for the
// goroutine that calls it, as the switch waits for them.
func (m *Mounted) leave(ctx context.Context, loop int, held *os.File) {
	if m.fill(ctx, func() bool { return loopdev.Backs(loop, held) }) != nil {
		return
	}
	file := m.Client.cache.local
	path, err := m.leaveNote(loop, file)
	if err != nil {
		m.opts.Log.Warn("status will not know of the mount", "error", err)
	}
	if err := loopdev.ChangeFD(loop, held, file); err != nil {
		if path != "" {
			os.Remove(path)
		}
		if loopdev.Backs(loop, held) {
			m.opts.Log.Warn("the client goes on serving the mount", "error", err)
		}
		return
	}
	m.opts.Log.Info("the image is local: the kernel serves the mount, the client ends", "dir", m.opts.Dir, "file", file.Name())
}

// leaveNote writes the note of a hand-over to file and returns its path.
func (m *Mounted) leaveNote(loop int, file *os.File) (string, error) {
	n, err := m.noteOf(loop, file)
	if err != nil {
		return "", err
	}
	dir, err := os.Open(m.runDir())
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return filepath.Join(m.runDir(), noteName()), n.leaveIn(dir)
}

// noteName is that of this process's note.
func noteName() string { return strconv.Itoa(os.Getpid()) + noteSuffix }

func (n *note) leaveIn(dir *os.File) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return writeIn(dir, noteName(), b)
}

func (m *Mounted) noteOf(loop int, file *os.File) (note, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return note{}, err
	}
	n := note{Status: m.Status(), Loop: loop, Device: st.Dev, Inode: st.Ino}
	n.Status.LocalFile = file.Name()
	return n, nil
}

// tempDir returns where the FUSE file system is mounted at the start. An initramfs need not have /tmp.
func (m *Mounted) tempDir() string {
	if !m.opts.Root || os.MkdirAll(m.runDir(), 0o755) != nil {
		return ""
	}
	return m.runDir()
}

func (m *Mounted) runDir() string {
	if m.opts.RunDir == "" {
		return DefaultRunDir
	}
	return m.opts.RunDir
}

// readLocal returns what the notes in runDir tell of mounts that are still there. It removes the others. Notes of clients
// in running are passed over: those have not ended yet.
func readLocal(runDir string, entries []os.DirEntry, running []Status) (out []Status, err error) {
	for _, e := range entries {
		pid, isNote := strings.CutSuffix(e.Name(), noteSuffix)
		if n, err := strconv.Atoi(pid); err != nil || !isNote || runs(running, n) {
			continue
		}
		path := filepath.Join(runDir, e.Name())
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || os.IsPermission(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var n note
		if json.Unmarshal(b, &n) != nil || !n.isMounted() {
			os.Remove(path)
			continue
		}
		n.Status.PID = 0
		out = append(out, n.Status)
	}
	return out, nil
}

func runs(running []Status, pid int) bool {
	for _, s := range running {
		if s.PID == pid {
			return true
		}
	}
	return false
}

// isMounted tells whether the loop device is mounted and still on the file.
func (n note) isMounted() bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !bytes.Contains(mounts, fmt.Appendf(nil, " 7:%d ", n.Loop)) {
		return false
	}
	return loopdev.BacksInode(n.Loop, n.Device, n.Inode)
}
