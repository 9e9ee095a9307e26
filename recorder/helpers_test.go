package recorder

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/internal/testrig"
	"bootprof/profiles"
)

const page = profiles.PageSize

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// openImage opens an image file; its SHA-256 is computed here, apart from the recorder.
func openImage(t *testing.T, path string) (Options, []byte) {
	t.Helper()
	f, size := testrig.OpenFile(t, path)
	return Options{Image: f, Size: size}, testrig.ReadFile(t, path)
}

func randomImage(t *testing.T, size int) (Options, []byte) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk")
	testrig.WriteFile(t, p, random(1, size))
	return openImage(t, p)
}

// record runs Record in a directory of its own and fails the test if anything is left behind. The command
// has all the time it needs to end, unless o.Grace says otherwise.
func record(t *testing.T, ctx context.Context, o Options) (*profiles.Run, error) {
	t.Helper()
	testrig.NeedMounts(t)
	ctx, cancel := context.WithTimeout(ctx, testrig.Patience)
	defer cancel()
	if o.TempDir == "" {
		o.TempDir = t.TempDir()
	}
	o.Grace = cmp.Or(o.Grace, testrig.Patience)
	run, err := Record(ctx, o)
	assertNothingLeft(t, o.TempDir)
	if run != nil {
		if err := run.Validate(); err != nil {
			t.Errorf("the run is not valid: %v", err)
		}
	}
	return run, err
}

// recordUntilTime records until o.Duration is over. On a busy machine that time may end before anything
// was read; then it is doubled.
func recordUntilTime(t *testing.T, ctx context.Context, o Options) (*profiles.Run, error) {
	t.Helper()
	for {
		run, err := record(t, ctx, o)
		if !errors.Is(err, ErrNothingRead) || o.Duration == 0 || o.Duration > testrig.Patience {
			if run != nil && time.Duration(run.Header.Duration) < o.Duration {
				t.Errorf("lasted %v, less than %v", time.Duration(run.Header.Duration), o.Duration)
			}
			return run, err
		}
		o.Duration *= 2
	}
}

func assertNothingLeft(t *testing.T, tempDir string) {
	t.Helper()
	if ents, err := os.ReadDir(tempDir); err != nil || len(ents) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", ents, err)
	}
	for _, m := range testrig.Mounts() {
		if strings.HasPrefix(m.Path, tempDir) {
			t.Errorf("left mounted: %+v", m)
		}
	}
	if out := testrig.Run(t, "losetup", "-a"); strings.Contains(out, tempDir) {
		t.Errorf("left attached:\n%s", out)
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
