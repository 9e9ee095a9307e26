package compare

import (
	"fmt"
	"slices"
	"strings"

	"bootprof/bench"
	"bootprof/bench/plot"
)

// plots draws all plots, by their file names.
func (r *Comparison) plots() map[string]plot.Dots {
	all := map[string]plot.Dots{}
	for _, c := range r.Cells {
		if len(c.Report.Summary) > 0 {
			all[fileName(c.Name)] = c.plot()
		}
	}
	if len(all) > 0 {
		all["overview"] = r.overview()
	}
	if r.Herd != nil && len(r.Herd.Runs) > 0 {
		all["herd"] = r.Herd.plot()
	}
	return all
}

// fileName is a cell's name as that of a file.
func fileName(cell string) string {
	return strings.Trim(strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-':
			return c
		case c == '%':
			return -1
		}
		return '-'
	}, strings.ReplaceAll(cell, " + ", "+")), "-")
}

// colours of the ways in a cell's plot.
const (
	seriesOurs = iota
	seriesPeer
	seriesLocal
)

func seriesOf(way string) int {
	switch {
	case way == wayLocal:
		return seriesLocal
	case slices.ContainsFunc(append(cold(), warm(nil)...), func(c candidate) bool { return c.name == way && c.ours }):
		return seriesOurs
	}
	return seriesPeer
}

// plot of a cell has the ways by their times, with what they moved.
func (c CellReport) plot() plot.Dots {
	ways := slices.Clone(c.Report.Summary)
	slices.SortStableFunc(ways, func(a, b bench.Summary) int {
		return compareFigures(a.Total, b.Total)
	})
	d := plot.Dots{
		Title: "Time to booted: " + c.Name, Subtitle: c.Work + "; median and spread of the rounds",
		Series: []string{"bootprof", "others", "local disk"},
		Panels: []plot.Panel{{Label: "seconds"}, {Label: "MB over the link"}},
	}
	if b := c.Report.Bound; b != nil {
		d.Panels[0].Lines = []plot.Line{{X: b.Seconds, Label: "T_lb"}}
	}
	for i, s := range ways {
		d.Rows = append(d.Rows, s.Way)
		if s.Runs == 0 {
			d.Panels[0].Points = append(d.Panels[0].Points, plot.Point{Row: i, Failed: true, Label: "failed"})
			continue
		}
		d.Panels[0].Points = append(d.Panels[0].Points, plot.Point{Row: i, Series: seriesOf(s.Way), X: s.Total, Min: s.TotalMin, Max: s.TotalMax,
			Label: fmt.Sprintf("%.2f s, %.1f x local", s.Total, s.Ratio)})
		if s.LinkBytes > 0 {
			d.Panels[1].Points = append(d.Panels[1].Points, plot.Point{Row: i, Series: seriesOf(s.Way), X: float64(s.LinkBytes) / 1e6,
				Label: fmt.Sprintf("%.1f MB, %d GETs", float64(s.LinkBytes)/1e6, s.GETs)})
		}
	}
	return d
}

// compareFigures puts what is missing last.
func compareFigures(a, b float64) int {
	switch {
	case a == b:
		return 0
	case a == 0:
		return 1
	case b == 0 || a < b:
		return -1
	}
	return 1
}

// overview has all cells, as ratios to the local disk.
func (r *Comparison) overview() plot.Dots {
	shown := []string{wayBootprof, wayTrained, "desync-cache", "nbdkit", "rclone", wayFetchAll}
	d := plot.Dots{
		Title: "Time to booted, as a multiple of the same boot from the local disk", Subtitle: "medians; a row is an image and a link",
		Series: shown, Panels: []plot.Panel{{Label: "x local disk", Lines: []plot.Line{{X: 1, Label: "local"}}}},
	}
	for i, c := range r.Cells {
		d.Rows = append(d.Rows, c.Name)
		for _, s := range c.Report.Summary {
			if k := slices.Index(shown, s.Way); k >= 0 && s.Ratio > 0 {
				d.Panels[0].Points = append(d.Panels[0].Points, plot.Point{Row: i, Series: k, X: s.Ratio})
			}
		}
	}
	return d
}

// plot of the herd: measured and simulated.
func (h *HerdReport) plot() plot.Dots {
	ways := []string{wayBootprof, wayFetchAll}
	d := plot.Dots{Title: "Many clients at once: until the last one has read what a boot reads", Subtitle: "measured behind " + h.Link + "; simulated where said",
		Series: ways, Panels: []plot.Panel{{Label: "seconds"}, {Label: "GB over the server's link"}}}
	add := func(row, way string, last, bytes float64) {
		i := slices.Index(d.Rows, row)
		if i < 0 {
			i = len(d.Rows)
			d.Rows = append(d.Rows, row)
		}
		k := slices.Index(ways, way)
		d.Panels[0].Points = append(d.Panels[0].Points, plot.Point{Row: i, Series: k, X: last, Label: seconds(last)})
		d.Panels[1].Points = append(d.Panels[1].Points, plot.Point{Row: i, Series: k, X: bytes / 1e9, Label: gigabytes(bytes)})
	}
	for _, m := range h.medians() {
		if m.Clients == 1 { // no herd, and what the simulation begins with
			continue
		}
		add(fmt.Sprintf("%d measured", m.Clients), m.Way, m.Last, float64(m.Bytes))
	}
	for _, s := range h.Simulated {
		if s.Window == 0 {
			add(fmt.Sprintf("%d simulated, %.0f Gbit/s", s.Clients, s.ServerBits/1e9), s.Way, s.Last, s.TotalBytes)
		}
	}
	return d
}

func seconds(s float64) string {
	if s >= 120 {
		return fmt.Sprintf("%.0f min", s/60)
	}
	return fmt.Sprintf("%.3g s", s)
}

func gigabytes(bytes float64) string {
	if bytes >= 100e9 {
		return fmt.Sprintf("%.0f GB", bytes/1e9)
	}
	return fmt.Sprintf("%.2g GB", bytes/1e9)
}
