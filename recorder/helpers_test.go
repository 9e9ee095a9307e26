package recorder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/profiles"
)

const page = profiles.PageSize

// needRig skips where nothing can be mounted.
func needRig(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("recording needs root")
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			t.Skipf("recording needs %s: %v", dev, err)
		}
	}
}

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// openImage opens an image file; its SHA-256 is computed here, apart from the recorder.
func openImage(t *testing.T, path string) (Options, []byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Image: f, Size: int64(len(b))}, b
}

func randomImage(t *testing.T, size int) (Options, []byte) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, random(1, size), 0o644); err != nil {
		t.Fatal(err)
	}
	return openImage(t, p)
}

// record runs Record in a directory of its own and fails the test if anything is left behind.
func record(t *testing.T, ctx context.Context, o Options) (*profiles.Run, error) {
	t.Helper()
	needRig(t)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if o.TempDir == "" {
		o.TempDir = t.TempDir()
	}
	run, err := Record(ctx, o)
	assertNothingLeft(t, o.TempDir)
	if run != nil {
		if err := run.Validate(); err != nil {
			t.Errorf("the run is not valid: %v", err)
		}
	}
	return run, err
}

func assertNothingLeft(t *testing.T, tempDir string) {
	t.Helper()
	if ents, err := os.ReadDir(tempDir); err != nil || len(ents) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", ents, err)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), tempDir) {
		t.Errorf("left mounted:\n%s%v", b, err)
	}
	out, err := exec.Command("losetup", "-a").Output()
	if err != nil || strings.Contains(string(out), tempDir) {
		t.Errorf("left attached:\n%s%v", out, err)
	}
	// A process of the command would have the directory's name among its words.
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(tempDir)) {
			t.Errorf("left running: %s %q", p, b)
		}
	}
}

func mustRecord(t *testing.T, o Options) *profiles.Run {
	t.Helper()
	run, err := record(t, t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// pages lists the page numbers that a run touched, in image order.
func pages(run *profiles.Run) []int64 {
	out := []int64{}
	for _, x := range run.Touches {
		for p := x.ImageOff; p < x.ImageOff+x.Len; p += page {
			out = append(out, p/page)
		}
	}
	slices.Sort(out)
	return out
}

func wantPages(t *testing.T, run *profiles.Run, want ...int64) {
	t.Helper()
	if got := pages(run); !slices.Equal(got, want) {
		t.Errorf("touched pages %v, want %v", got, want)
	}
}

func markNames(run *profiles.Run) string {
	var names []string
	for _, m := range run.Marks {
		names = append(names, m.Name)
	}
	return strings.Join(names, " ")
}

// wantEnd checks how the run says it ended, and its marks.
func wantEnd(t *testing.T, run *profiles.Run, end, marks string) {
	t.Helper()
	if run.Header.End != end || markNames(run) != marks {
		t.Errorf("ended by %q with the marks %q, want %q with %q", run.Header.End, markNames(run), end, marks)
	}
}

// pagesOf finds where content lies in an image, by its bytes: the pages that hold any 512 bytes of it.
func pagesOf(t *testing.T, image, content []byte) map[int64]bool {
	t.Helper()
	out := make(map[int64]bool)
	for i := 0; i+512 <= len(content); i += 512 {
		at := bytes.Index(image, content[i:i+512])
		if at < 0 {
			t.Fatal("the content is not in the image as it is")
		}
		out[int64(at)/page], out[int64(at+511)/page] = true, true
	}
	return out
}

// A notifyWriter closes seen once text was written to it.
type notifyWriter struct {
	text string
	mu   sync.Mutex
	buf  bytes.Buffer
	once sync.Once
	seen chan struct{}
}

func newNotifyWriter(text string) *notifyWriter {
	return &notifyWriter{text: text, seen: make(chan struct{})}
}

func (w *notifyWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if strings.Contains(w.buf.String(), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(p), nil
}

func (w *notifyWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func sum(b []byte) [32]byte { return sha256.Sum256(b) }
