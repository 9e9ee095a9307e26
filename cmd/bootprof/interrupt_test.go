package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// A pack that is interrupted ends soon, even while a boot frame is compressed, and leaves nothing. How
// soon is told by the processor time that it spends after the signal: seconds depend on what else the
// machine does.
func TestInterruptedPack(t *testing.T) {
	testrig.Slow(t)
	testrig.NeedMounts(t)
	t.Parallel()
	dir := t.TempDir()
	must := func(args ...string) {
		t.Helper()
		c := exec.Command("bootprof", args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("bootprof %q: %v: %s", args, err, out)
		}
	}
	for _, name := range []string{"tree", "out", "tmp"} {
		testrig.Must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	// One frame of the boot zone, which takes ten seconds and more.
	words, r := strings.Fields("boot pages of an image in the order in which they are touched lie first"), rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < 15<<20 {
		text.WriteString(words[r.IntN(len(words))])
		text.WriteByte(byte(r.IntN(256)))
	}
	testrig.WriteFile(t, filepath.Join(dir, "tree/hot"), text.String())
	must("pack", "tree", "-o", "first.bpk", "--level", "fastest")
	must("record", "--image", "first.bpk", "-o", "run.bprof", "--", "sh", "-c", "cat {dir}/hot >/dev/null")
	limit := 4 * time.Second // of a processor, where the whole frame takes ten and more
	if testrig.Raced {
		limit *= 10
	}
	for _, form := range []string{"bpk", "split", "sparse"} {
		t.Run(form, func(t *testing.T) {
			var said strings.Builder
			c := exec.Command("bootprof", "pack", "tree", "-o", "out/x", "--format", form, "--profile", "run.bprof", "--boot-level", "best", "--level", "fastest")
			c.Dir, c.Stderr, c.Env = dir, &said, append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"))
			c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			testrig.Must(t, c.Start())
			var spent time.Duration
			testrig.Eventually(t, "the pack to come into the frame", func() bool { // if it is too early, the test is only easier
				spent = cpuTime(t, c.Process.Pid)
				return spent > 400*time.Millisecond
			})
			testrig.Must(t, c.Process.Signal(syscall.SIGINT))
			err := c.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 7 || said.String() != "bootprof: interrupted\n" {
				t.Errorf("%v, said %q", err, said.String())
			}
			if more := c.ProcessState.UserTime() + c.ProcessState.SystemTime() - spent; more > limit {
				t.Errorf("spent %v of processor time after the signal", more)
			}
			for _, name := range []string{"out", "tmp"} {
				if left, err := os.ReadDir(filepath.Join(dir, name)); err != nil || len(left) > 0 {
					t.Errorf("left in %s: %v, %v", name, left, err)
				}
			}
		})
	}
}

// cpuTime is the processor time of a process so far, from its CPU clock (the clock id is computed as in
// clock_getcpuclockid).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	var ts unix.Timespec
	testrig.Must(t, unix.ClockGettime(int32(^pid<<3|2), &ts))
	return time.Duration(ts.Nano())
}
