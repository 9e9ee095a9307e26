package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   []float64
	}{
		{0.3, 7, []float64{0.5, 1, 2, 5}},
		{1, 100, []float64{1, 2, 5, 10, 20, 50, 100}},
		{0.05, 900, []float64{0.1, 1, 10, 100}},
	} {
		if got := ticks(c.lo, c.hi); !slices.Equal(got, c.want) {
			t.Errorf("ticks(%g, %g) = %v, want %v", c.lo, c.hi, got, c.want)
		}
	}
}

func TestLimits(t *testing.T) {
	lo, hi := Panel{Points: []Point{{X: 2, Min: 1, Max: 4}, {Label: "failed", Failed: true}}, Lines: []Line{{X: 0.5}}}.limits()
	if lo > 0.5 || hi < 4 || hi/lo < 10 {
		t.Errorf("limits %g, %g", lo, hi)
	}
	if lo, hi := (Panel{}).limits(); lo <= 0 || hi <= lo {
		t.Errorf("limits of nothing %g, %g", lo, hi)
	}
}

// TestSVG parses the plot as XML and looks for what it must show, and that no coordinate is senseless.
func TestSVG(t *testing.T) {
	svg := Dots{
		Title: "a < b & c", Rows: []string{"one", "two"}, Series: []string{"s"},
		Panels: []Panel{{Label: "seconds", Points: []Point{{Row: 0, X: 1, Min: 0.5, Max: 2, Label: "1.00"}, {Row: 1, Failed: true, Label: "failed"}},
			Lines: []Line{{0.8, "T_lb"}}}, {Label: "nothing"}},
	}.SVG()
	dec := xml.NewDecoder(strings.NewReader(svg))
	var texts []string
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := tok.(xml.CharData); ok && strings.TrimSpace(string(s)) != "" {
			texts = append(texts, string(s))
		}
	}
	for _, want := range []string{"a < b & c", "one", "two", "s", "seconds", "1.00", "failed", "T_lb"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no %q in %q", want, texts)
		}
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error(svg)
	}
	if n := strings.Count(svg, "<circle"); n != 2 { // the legend's and one point
		t.Errorf("%d circles", n)
	}
}
