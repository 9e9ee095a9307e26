package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever the form, a pack that is killed at any moment leaves the old output or the new one, both whole. A squashfs may
// be left without its manifest, never with that of another image.
func TestKilledForms(t *testing.T) {
	dir := t.TempDir()
	for v := range 2 {
		r := rand.New(rand.NewPCG(1, 1))
		for i := range 30 {
			b := make([]byte, 1+r.IntN(100_000))
			for k := range b {
				b[k] = byte(r.IntN(30))
			}
			if v == 1 && i%3 == 0 {
				b[0] = 99
			}
			path := filepath.Join(dir, fmt.Sprintf("v%d/d%d/f%d", v, i%4, i))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	bootprof := func(args ...string) *exec.Cmd {
		c := exec.Command("bootprof", args...)
		c.Dir = dir
		return c
	}
	must := func(args ...string) string {
		t.Helper()
		var stderr bytes.Buffer
		c := bootprof(args...)
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("bootprof %q: %v: %s", args, err, stderr.Bytes())
		}
		return string(out)
	}
	for _, form := range []string{"split", "squashfs"} {
		t.Run(form, func(t *testing.T) {
			out := form + "/out"
			if err := os.Mkdir(filepath.Join(dir, form), 0o755); err != nil {
				t.Fatal(err)
			}
			pack := func(v int) []string {
				return []string{"pack", fmt.Sprintf("v%d", v), "-o", out, "--format", form}
			}
			began := time.Now()
			digests := map[string]bool{must(pack(1)...): true}
			took := time.Since(began)
			digests[must(pack(0)...)] = true
			killed, alone := 0, 0
			for i := range 12 {
				c := bootprof(pack(i % 2)...)
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				timer := time.AfterFunc(time.Duration(rand.Int64N(int64(took))), func() { c.Process.Kill() })
				if c.Wait() != nil {
					killed++
				}
				timer.Stop()
				if _, err := os.Stat(filepath.Join(dir, out+".bpm")); form == "squashfs" && err != nil {
					alone++
					if b, err := exec.Command("unsquashfs", "-n", "-d", filepath.Join(t.TempDir(), "x"), filepath.Join(dir, out)).CombinedOutput(); err != nil {
						t.Fatalf("a squashfs left without a manifest is not whole: %s", b)
					}
					continue
				}
				if got := must("verify", out); !digests[got] {
					t.Fatalf("a killed pack left something else: %s", got)
				}
			}
			t.Logf("%d killed, %d of them left no manifest", killed, alone)
			if killed == 0 {
				t.Error("no pack was killed")
			}
			must(pack(0)...)
			names, err := os.ReadDir(filepath.Join(dir, form))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				if strings.HasPrefix(n.Name(), ".") {
					t.Errorf("left behind: %s", n.Name())
				}
			}
		})
	}
}
