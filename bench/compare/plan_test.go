package compare

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"bootprof/bench"
)

// TestPlanFits holds the matrix to its budgets: baselines, bootprof and its trained peer with all their rounds.
func TestPlanFits(t *testing.T) {
	for _, c := range []struct {
		name   string
		cells  []Cell
		parts  Parts
		budget time.Duration
		rounds int
	}{
		{"make bench", Full("x", 5), StandardParts("x", false, 50, true), 48 * time.Minute, 5},
		{"make bench-quick", Quick("x", 2), StandardParts("x", true, 20, true), 7 * time.Minute, 2},
	} {
		rest := c.budget
		for _, p := range c.parts.list() {
			rest -= p.takes
		}
		total, err := share(c.cells, rest)
		if err != nil || total > rest || total < rest/2 && c.rounds == 5 {
			t.Errorf("%s: %v of %v: %v", c.name, total, rest, err)
		}
		for _, cell := range c.cells {
			for i, w := range cell.ways {
				if n := cell.rounds[i]; n < minRounds || n > c.rounds || isKept(w) && n != cell.wanted {
					t.Errorf("%s: %s has %d rounds of %s", c.name, cell.Name, n, w.name)
				}
			}
			if cell.ways[0].name != wayLocal {
				t.Errorf("%s: %s begins with %s, not with its baseline", c.name, cell.Name, cell.ways[0].name)
			}
		}
	}
}

// A mirror that lies brings no byte that the boot can use.
func TestLyingMirrorCell(t *testing.T) {
	cells := Only(Full("x", 5), regexp.MustCompile(":zone"))
	if len(cells) != 1 || cells[0].Name != "debian 100mbit/20ms:zone + 100mbit/20ms" || len(cells[0].right()) != 1 {
		t.Fatalf("%+v", cells)
	}
	if got := fileName(cells[0].Name); got != "debian-100mbit-20ms-zone-100mbit-20ms" {
		t.Errorf("its plot is %s", got)
	}
}

func TestShareSaysWhatDoesNotFit(t *testing.T) {
	_, err := share(Full("x", 5), time.Minute)
	if err == nil || !strings.Contains(err.Error(), "the budget is 1m0s") {
		t.Errorf("%v", err)
	}
}

func TestOnly(t *testing.T) {
	cells := Only(Full("x", 5), regexp.MustCompile("^debian 1gbit/0.5ms (nbdkit|boot.*)$"))
	if len(cells) != 1 || len(cells[0].ways) != 3 {
		t.Fatalf("%+v", cells)
	}
	for i, want := range []string{wayLocal, "nbdkit", wayBootprof} {
		if got := cells[0].ways[i].name; got != want {
			t.Errorf("way %d is %s, want %s", i, got, want)
		}
	}
}

// TestWays makes every way: the binaries and images are only named.
func TestWays(t *testing.T) {
	for _, cell := range append(Full("x", 5), Quick("x", 2)...) {
		if _, err := share([]Cell{cell}, time.Hour*10); err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, w := range cell.ways {
			made := w.make(programs{"b", "d"}, cell.Images)
			if made.Name != w.name || made.Open == nil || made.Close == nil || names[w.name] {
				t.Errorf("%s: way %s: %+v", cell.Name, w.name, made)
			}
			names[w.name] = true
			if w.cost[cell.Images.Kind] == (cost{}) && w.name != wayLocal {
				t.Errorf("%s: way %s has no cost for %s", cell.Name, w.name, cell.Images.Kind)
			}
			if mirrors := len(made.Mirrors) > 0; mirrors != (len(cell.Links) > 1 && (w.ours || w.name == wayTrained)) {
				t.Errorf("%s: way %s has mirrors %v", cell.Name, w.name, made.Mirrors)
			}
			if len(made.Mirrors) > 0 && !slices.Equal(made.Mirrors, cell.Links) {
				t.Errorf("%s: way %s has mirrors %v", cell.Name, w.name, made.Mirrors)
			}
		}
	}
}

// sample is a comparison with one of each.
func sample() *Comparison {
	results := []bench.Result{
		{Way: wayLocal, Round: 1, Total: 1}, {Way: wayFetchAll, Round: 1, Total: 15, LinkBytes: 177e6, GETs: 1},
		{Way: wayTrained, Round: 1, Total: 1.2, LinkBytes: 3e6, GETs: 300}, {Way: "rclone", Round: 1, Error: "exit status 1: no | luck"},
		{Way: wayBootprof, Round: 1, Total: 1.25, LinkBytes: 4e6, GETs: 9, HasMisses: true, ClientRSS: 30e6},
	}
	report := bench.Report{Link: "100mbit/20ms", Rounds: 1, Baseline: wayLocal, Results: results, Summary: bench.Summarize(results, wayLocal),
		Bound: &bench.Bound{Seconds: 1.1, By: "link"}}
	herd := &HerdReport{Clients: 2, Link: "1gbit/0.5ms", Runs: []HerdRun{{Way: wayBootprof, Clients: 2, Last: 3}, {Way: wayBootprof, Clients: 2, Last: 1},
		{Way: wayBootprof, Clients: 2, Last: 2}}, Simulated: simulations(wayBootprof, 2, 4e6, 0.3, 1e9)}
	return &Comparison{Date: "2026-01-02", Machine: "m", Kernel: "k", Versions: [][2]string{{"nginx", "1"}}, Herd: herd,
		Cells: []CellReport{{Name: "debian 100mbit/20ms/1%", Work: "work", Report: report}, {Name: "empty", Error: "no link"}}}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := sample().WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| debian 100mbit/20ms/1% | 1.10 | 1.00 | 1.25 | 1.25 | 1.14 | desync-trained (one run) | 1.20 | 1.20 | 15.00 |",
		"desync-trained (one run) takes 1.20 s, bootprof 1.25 s", "desync-trained (one run) moves 3.00 MB, bootprof 4.00 MB",
		"| rclone | 0 | failed |", "rclone: 1 runs failed: exit status 1: no | luck", "Not (wholly) measured: no link",
		"| bootprof | 1 | 1.25 | 1.25-1.25 | 1.25 | 1.14 | 0.00 | 4.0 | 9 | 30 | 0.00 | 0 |", "debian-100mbit-20ms-1.svg", "| bootprof | 10000 |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestWriteAndRead renders a comparison again from its JSON: all files must be the same.
func TestWriteAndRead(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	if err := sample().Write(one); err != nil {
		t.Fatal(err)
	}
	back, err := Read(one + "/" + resultsJSON)
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Write(two); err != nil {
		t.Fatal(err)
	}
	files := sameFiles(t, one, two)
	for _, want := range []string{"results.json", "results.md", "overview.svg", "herd.svg", "debian-100mbit-20ms-1.svg"} {
		if !files[want] {
			t.Errorf("no %s in %v", want, files)
		}
	}
	if m := back.Herd.medians(); len(m) != 1 || m[0].Last != 2 {
		t.Errorf("medians of the herd: %+v", m)
	}
}
