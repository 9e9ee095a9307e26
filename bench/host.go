package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/bench/link"
)

// prepareCaches empties the page cache and then loads what is not to be measured: the host's programs and the files and
// directories that the web server sends.
func prepareCaches(served, programs []string) error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("dropping the page cache: %w", err)
	}
	files := append([]string{"/proc/self/exe"}, served...)
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		files = append(files, path)
		// Run for its libraries; that some programs know no --version does not matter.
		_ = exec.Command(path, "--version").Run()
	}
	for _, f := range files {
		err := filepath.WalkDir(f, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			return readAll(path)
		})
		if err != nil {
			return fmt.Errorf("loading %s into the page cache: %w", f, err)
		}
	}
	return nil
}

func readAll(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return err
}

// leftovers lists what a run that has ended still holds: mounts below its directory, loop devices over files in it,
// processes in the client's namespace.
func leftovers(r *Run) (left []string, err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], r.Work) {
			left = append(left, "mount "+f[4])
		}
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, file := range backing {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), r.Work) {
			left = append(left, "loop device "+strings.Split(file, "/")[3]+" over "+strings.TrimSpace(string(b)))
		}
	}
	pids, err := r.Link.Client.PIDs()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue // it has just ended
		}
		left = append(left, fmt.Sprintf("process %d %s", pid, strings.TrimSpace(string(comm))))
	}
	return left, nil
}

// mount and unmount are mount(8) and umount(8): what a user runs.
func mount(args ...string) error { return command(exec.Command("mount", args...)) }

func unmount(dir string) error { return command(exec.Command("umount", dir)) }

// command runs cmd; the error has what it said.
func command(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// peakRSS is the largest resident memory of a process so far, in bytes.
func peakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}

// cpuTime is the processor time of a process with its threads, from its CPU clock (the clock id is computed as in
// clock_getcpuclockid).
func cpuTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("reading the processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// awaitEnd waits until the process behind a pidfd has ended.
func awaitEnd(pidfd int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		rest := time.Until(deadline)
		if rest <= 0 {
			return fmt.Errorf("still running after %v", timeout)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(rest.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// Describe notes what machine and kernel it was.
func (r *Report) Describe() {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		gib := float64(info.Totalram) * float64(info.Unit) / (1 << 30)
		r.Machine = fmt.Sprintf("%s, %d cpus, %.0f GiB", unix.ByteSliceToString(u.Machine[:]), runtime.NumCPU(), gib)
	}
}

// CheckLink measures an idle link; one that is not what it says would make every figure wrong.
func CheckLink(ctx context.Context, p link.Params) (link.CheckResult, error) {
	l, err := link.Open(p)
	if err != nil {
		return link.CheckResult{}, err
	}
	defer l.Close()
	r, err := l.Check(ctx, max(2*time.Second, 60*p.RTT))
	return r, errors.Join(err, r.Err())
}

// WarmFile reads a file into the page cache.
func WarmFile(path string) error { return readAll(path) }
