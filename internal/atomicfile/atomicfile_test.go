package atomicfile

import (
	"os"
	"path/filepath"
	"testing"

	"bootprof/internal/testrig"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	testrig.Must(t, err)
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func TestCommitReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	testrig.WriteFile(t, path, "old")
	f, err := Create(path, 0o644)
	testrig.Must(t, err)
	if _, err := f.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Fatalf("before Commit the name shows %q", b)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Fatalf("before Commit the directory holds %q", got)
	}
	testrig.Must(t, f.Commit())
	if err := f.Close(); err != nil {
		t.Fatalf("Close after Commit: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "new" {
		t.Fatalf("after Commit the name shows %q", b)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Fatalf("after Commit the directory holds %q", got)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 0o644)
	testrig.Must(t, err)
	f.WriteString("half")
	f.Close()
	if got := names(t, dir); len(got) != 0 {
		t.Fatalf("left behind: %q", got)
	}
}

func TestCreateRefusesADirectory(t *testing.T) {
	if f, err := Create(t.TempDir(), 0o644); err == nil {
		f.Close()
		t.Fatal("a directory was accepted as the file to replace")
	}
}
