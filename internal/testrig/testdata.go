package testrig

import (
	"os"
	"path/filepath"
	"testing"
)

// Testdata returns where a file or a folder of the module's own testdata lies, such as "packs/v1.0/root.bpk". The
// path may be a pattern of filepath.Glob. testdata/README.md lists what there is.
func Testdata(t testing.TB, path string) string {
	t.Helper()
	start, err := os.Getwd() // the package's directory
	Must(t, err)
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "testdata", path)
		}
		if dir == filepath.Dir(dir) {
			t.Fatalf("no go.mod in or above %s", start)
		}
	}
}
