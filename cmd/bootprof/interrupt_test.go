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
)

// A pack that is interrupted ends soon, even while a boot frame is compressed, and leaves nothing.
func TestInterruptedPack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("recording needs root")
	}
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
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// One frame of the boot zone, which takes ten seconds and more.
	words, r := strings.Fields("boot pages of an image in the order in which they are touched lie first"), rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < 15<<20 {
		text.WriteString(words[r.IntN(len(words))])
		text.WriteByte(byte(r.IntN(256)))
	}
	if err := os.WriteFile(filepath.Join(dir, "tree/hot"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	must("pack", "tree", "-o", "first.bpk", "--level", "fastest")
	must("record", "--image", "first.bpk", "-o", "run.bprof", "--", "sh", "-c", "cat {dir}/hot >/dev/null")
	for _, form := range []string{"bpk", "split", "sparse"} {
		t.Run(form, func(t *testing.T) {
			var said strings.Builder
			c := exec.Command("bootprof", "pack", "tree", "-o", "out/x", "--format", form, "--profile", "run.bprof", "--boot-level", "best", "--level", "fastest")
			c.Dir, c.Stderr, c.Env = dir, &said, append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"))
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(800 * time.Millisecond) // into the frame; if it is too early, the test is only easier
			if err := c.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err := c.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 7 || said.String() != "bootprof: interrupted\n" {
				t.Errorf("%v, said %q", err, said.String())
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("ended %v after the signal", took)
			}
			for _, name := range []string{"out", "tmp"} {
				if left, err := os.ReadDir(filepath.Join(dir, name)); err != nil || len(left) > 0 {
					t.Errorf("left in %s: %v, %v", name, left, err)
				}
			}
		})
	}
}
