package packing

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMeasure(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	builders := []Builder{
		{"one", []string{"sh", "-c", "head -c 1000 /dev/zero >" + Out + "; head -c 24 /dev/zero >" + Out + ".bpm"}},
		{"two", []string{"dd", "if=/dev/zero", "of=" + Out, "bs=64M", "count=1"}},
	}
	var order []string
	results, err := Measure(context.Background(), builders, out, 3, func(name string, _ Run) { order = append(order, name) })
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "one two one two one two" {
		t.Errorf("ran %s", got)
	}
	if one := results[0].median(); one.Size != 1024 || one.Wall <= 0 || len(results[0].Runs) != 3 {
		t.Errorf("%+v", results[0])
	}
	if two := results[1].median(); two.Size != 64<<20 || two.PeakRSS < 64<<20 || two.PeakRSS > 1<<30 {
		t.Errorf("%+v", results[1])
	}
	if left, _ := filepath.Glob(out + "*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	_, err = Measure(context.Background(), []Builder{{"bad", []string{"sh", "-c", "echo first; echo why >&2; exit 3"}}}, out, 1, nil)
	if err == nil || !strings.Contains(err.Error(), "bad: ") || !strings.HasSuffix(err.Error(), "why") {
		t.Errorf("a builder that fails: %v", err)
	}
}

func TestTable(t *testing.T) {
	got := Table([]Result{
		{"a", []Run{{3 * time.Second, time.Second, 5 << 20, 3e6}, {time.Second, time.Second, 7 << 20, 3e6}, {2 * time.Second, time.Second, 6 << 20, 3e6}}},
		{"b", []Run{{4 * time.Second, 2 * time.Second, 1 << 20, 6e6}}},
	}, "b")
	want := `| builder | s | min-max | ratio | CPU s | peak MB | size MB | ratio |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| a | 2.0 | 1.0-3.0 | 0.50 | 1.0 | 6 | 3.0 | 0.500 |
| b | 4.0 | 4.0-4.0 | 1.00 | 2.0 | 1 | 6.0 | 1.000 |
`
	if got != want {
		t.Errorf("%s", got)
	}
}
