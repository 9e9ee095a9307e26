package mountclient

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/loopdev"
)

// While booting, readahead would ask for cold pages beside those that the boot needs, and make them as urgent:
// it is 0 then. Afterwards a copy of a large file wants it.
const (
	bootWindow = 20 * time.Second // from ready, and from the last boot page on: readahead stays 0 at least so long,
	quietPart  = 8                // then until nothing was asked of us for this part of the window,
	maxWindows = 6                // for so many windows at most: a slow machine boots for minutes
	calmKB     = 512
	aliveEvery = 200 * time.Millisecond // between two looks whether a loop device lives
)

// booted waits until the boot is over, and tells so; it tells false if ctx ends or alive says no before.
func (m *Mounted) booted(ctx context.Context, alive func() bool) bool {
	begin, window := time.Now(), m.opts.window
	quietSince, reads := begin, int64(0)
	for sleep(ctx, aliveEvery) {
		if !alive() {
			return false
		}
		if n := m.Client.reads.Load(); n != reads {
			quietSince, reads = time.Now(), n
		}
		up := time.Since(begin)
		quiet := time.Since(quietSince) >= window/quietPart || up >= maxWindows*window
		// With all boot pages there nothing is asked of us, though the boot goes on.
		hot := time.Duration(m.Client.hot.Load())
		isOver := hot > 0 && time.Since(m.Client.started.Add(hot)) >= window || up >= maxWindows*window
		if up >= window && quiet && isOver && hot > 0 {
			m.report()
			if m.opts.Record { // readahead would touch what nobody asked for
				<-ctx.Done()
				return false
			}
			return true
		}
	}
	return false
}

// calmLoop raises the readahead of a loop device and of the image file behind it. The kernel may make it wait
// until the device's requests are answered: it runs in a goroutine that none of them needs.
func (m *Mounted) calmLoop(loop int, file *os.File) {
	if bdi := readaheadOf(file); writeReadahead(bdi, calmKB) {
		if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_NORMAL); err != nil {
			m.opts.Log.Debug("raising the readahead of the image file", "error", err)
		}
	}
	if err := loopdev.SetReadahead(loop, calmKB); err != nil {
		m.opts.Log.Debug("raising the readahead of the loop device", "error", err)
	}
}

// lowerReadahead sets the readahead of the FUSE file system that file lies on to 0, and returns the name of
// the setting, "" if the kernel offers none.
func lowerReadahead(file *os.File) string {
	path := readaheadOf(file)
	if !writeReadahead(path, 0) {
		return ""
	}
	// The file was opened before; it takes the new value over like this.
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_NORMAL)
	return path
}

// readaheadOf returns the name of the readahead setting of the file system that file lies on.
func readaheadOf(file *os.File) string {
	var st unix.Stat_t
	if unix.Fstat(int(file.Fd()), &st) != nil {
		return ""
	}
	return fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
}

// erofsReadaheads returns the names of the readahead settings of all EROFS mounts without a block device.
func erofsReadaheads() map[string]bool {
	names, _ := filepath.Glob("/sys/class/bdi/erofs-*/read_ahead_kb")
	out := make(map[string]bool)
	for _, n := range names {
		out[n] = true
	}
	return out
}

func writeReadahead(path string, kb int) bool {
	if path == "" {
		return false
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Write(strconv.AppendInt(nil, int64(kb), 10))
	return err == nil
}
