package compare

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// sameFiles compares two directories and returns their files.
func sameFiles(t *testing.T, a, b string) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(a)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
		x, err := os.ReadFile(filepath.Join(a, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(b, e.Name()))
		if err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs: %v", e.Name(), err)
		}
	}
	return names
}

func TestReadFails(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results.json")
	if _, err := Read(name); err == nil {
		t.Error("no error for a file that is missing")
	}
	if err := os.WriteFile(name, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(name); err == nil {
		t.Error("no error for half a file")
	}
}
