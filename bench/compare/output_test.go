package compare

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"bootprof/bench/faults"
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

// What programs say of the machine's directories is shortened, in whatever message it is.
func TestWithoutPaths(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(t.TempDir(), "a \"quoted\" <name>")
	t.Setenv("TMPDIR", temp)
	build := filepath.Join(wd, "made")
	said := build + "/peers/desync mount-index " + temp + "/bench-run-123/peer: " + wd + "/x"
	const want = "build/peers/desync mount-index WORK/peer: x"
	r := sample()
	r.Cells[0].Error = said
	r.Cells[0].Report.Results[0].Error = said
	r.Cells[0].Report.Summary[0].Error = said
	r.Faults = []FaultRow{{Peer: "p", Outcomes: []faults.Outcome{{Client: said}}}}
	short, err := r.WithoutPaths(build)
	if err != nil {
		t.Fatal(err)
	}
	report := short.Cells[0].Report
	for _, got := range []string{short.Cells[0].Error, report.Results[0].Error, report.Summary[0].Error, short.Faults[0].Outcomes[0].Client} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	r.Cells[0].Error, short.Cells[0].Error = "", ""
	if short.Cells[0].Name != r.Cells[0].Name || len(report.Results) != len(r.Cells[0].Report.Results) || short.Herd.Runs[0] != r.Herd.Runs[0] {
		t.Errorf("more than messages differs: %+v", short)
	}
}
