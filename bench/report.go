package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// Trained is the name of the way that boots from a pack made with profiles.
const Trained = "bootprof"

// A Report is a whole measurement.
type Report struct {
	Link     string    `json:"link"`
	Check    string    `json:"link_check"` // what the self-check of the link said
	Kernel   string    `json:"kernel"`
	Machine  string    `json:"machine"`
	Image    string    `json:"image"`
	Rounds   int       `json:"rounds"`
	Bound    *Bound    `json:"bound,omitempty"`
	Summary  []Summary `json:"ways"`
	Results  []Result  `json:"runs"` // every run, in the order they were made
	Baseline string    `json:"baseline"`
}

// A Summary has the medians of one way.
type Summary struct {
	Way       string  `json:"way"`
	Runs      int     `json:"runs"`
	Total     float64 `json:"total_s"`
	TotalMin  float64 `json:"total_min_s"`
	TotalMax  float64 `json:"total_max_s"`
	Ready     float64 `json:"ready_s"`
	Ratio     float64 `json:"ratio"` // of Total to that of the baseline; 0 without one
	LinkBytes int64   `json:"link_bytes"`
	BodyBytes int64   `json:"body_bytes"`
	GETs      int64   `json:"gets"`
	RSS       int64   `json:"client_rss"` // the largest of all runs
	CPU       float64 `json:"client_cpu_s"`
	LinkCPU   float64 `json:"link_cpu_s"`
	Misses    int64   `json:"misses"`
	HasMisses bool    `json:"has_misses"`
	Failures  int     `json:"failures,omitempty"` // runs that failed; no figure counts them
	Error     string  `json:"error,omitempty"`    // of the last run that failed
}

// Summarize computes the medians, in the order in which the ways first appear. Ratios are to the way named baseline.
func Summarize(results []Result, baseline string) []Summary {
	var names []string
	byWay := map[string][]Result{}
	for _, r := range results {
		if byWay[r.Way] == nil {
			names = append(names, r.Way)
		}
		byWay[r.Way] = append(byWay[r.Way], r)
	}
	var sums []Summary
	for _, name := range names {
		s := Summary{Way: name}
		var runs []Result
		for _, r := range byWay[name] {
			if r.Error != "" {
				s.Failures++
				s.Error = r.Error
				continue
			}
			runs = append(runs, r)
		}
		if len(runs) == 0 {
			sums = append(sums, s)
			continue
		}
		total := sorted(runs, func(r Result) float64 { return r.Total })
		s = Summary{
			Way: name, Runs: len(runs), Failures: s.Failures, Error: s.Error,
			Total: median(total), TotalMin: total[0], TotalMax: total[len(total)-1],
			Ready:     median(sorted(runs, func(r Result) float64 { return r.Ready })),
			LinkBytes: int64(median(sorted(runs, func(r Result) float64 { return float64(r.LinkBytes) }))),
			BodyBytes: int64(median(sorted(runs, func(r Result) float64 { return float64(r.BodyBytes) }))),
			GETs:      int64(median(sorted(runs, func(r Result) float64 { return float64(r.GETs) }))),
			CPU:       median(sorted(runs, func(r Result) float64 { return r.ClientCPU })),
			LinkCPU:   median(sorted(runs, func(r Result) float64 { return r.LinkCPU })),
			Misses:    int64(median(sorted(runs, func(r Result) float64 { return float64(r.Misses) }))),
		}
		for _, r := range runs {
			s.RSS = max(s.RSS, r.ClientRSS)
			s.HasMisses = s.HasMisses || r.HasMisses
		}
		sums = append(sums, s)
	}
	for i := range sums {
		for _, b := range sums {
			if b.Way == baseline && b.Total > 0 {
				sums[i].Ratio = sums[i].Total / b.Total
			}
		}
	}
	return sums
}

func sorted(runs []Result, figure func(Result) float64) []float64 {
	var v []float64
	for _, r := range runs {
		v = append(v, figure(r))
	}
	slices.Sort(v)
	return v
}

// median of sorted values; of an even number of them the mean of the middle two.
func median(v []float64) float64 {
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

var columns = []string{"way", "total s", "min-max", "ratio", "ready s", "MB over link", "GETs", "client MB", "client CPU s", "misses"}

// rows are the table's cells.
func (r Report) rows() [][]string {
	var rows [][]string
	for _, s := range r.Summary {
		row := []string{
			s.Way, fmt.Sprintf("%.2f", s.Total), fmt.Sprintf("%.2f-%.2f", s.TotalMin, s.TotalMax), "-",
			fmt.Sprintf("%.2f", s.Ready), fmt.Sprintf("%.1f", float64(s.LinkBytes)/1e6), fmt.Sprint(s.GETs), "-", "-", "-",
		}
		if s.Ratio > 0 {
			row[3] = fmt.Sprintf("%.2f", s.Ratio)
		}
		if s.RSS > 0 {
			row[7], row[8] = fmt.Sprintf("%.0f", float64(s.RSS)/1e6), fmt.Sprintf("%.2f", s.CPU)
		}
		if s.HasMisses {
			row[9] = fmt.Sprint(s.Misses)
		}
		rows = append(rows, row)
	}
	return rows
}

// boundNotes compare the trained way with what no client can beat.
func (r Report) boundNotes() []string {
	b := r.Bound
	note := fmt.Sprintf("lower bound T_lb %.2f s (by %s; %s bytes", b.Seconds, b.By, b.SizesAre)
	if b.LocalSeconds > 0 {
		note += fmt.Sprintf("; recorded times scaled to a boot of %.2f s", b.LocalSeconds)
	}
	notes := []string{note + ")"}
	note = fmt.Sprintf("the boot touches %d pages, %.1f MB", b.Pages, float64(b.WorkingSetBytes)/1e6)
	if b.CompressedBytes > 0 {
		note += fmt.Sprintf(", %.2f MB in the boot zone", float64(b.CompressedBytes)/1e6)
	}
	if b.Zstd19Bytes > 0 {
		note += fmt.Sprintf(", %.2f MB as one stream of zstd -19", float64(b.Zstd19Bytes)/1e6)
	}
	notes = append(notes, note)
	for _, s := range r.Summary {
		if s.Way != Trained {
			continue
		}
		note := fmt.Sprintf("%s: %.2f x T_lb, %.2f x max(%s, T_lb)", s.Way, s.Total/b.Seconds, s.Total/max(b.Seconds, b.LocalSeconds), r.Baseline)
		if b.Zstd19Bytes > 0 {
			note += fmt.Sprintf("; %.2f x the bytes of the zstd -19 stream over the link, headers of all protocols included", float64(s.LinkBytes)/float64(b.Zstd19Bytes))
		}
		note += fmt.Sprintf("; %.1f %% of the touched pages missed", 100*float64(s.Misses)/float64(b.Pages))
		notes = append(notes, note)
	}
	return notes
}

// Notes are the lines below the table.
func (r Report) Notes() []string {
	var notes []string
	if r.Bound != nil {
		notes = append(notes, r.boundNotes()...)
	}
	notes = append(notes, fmt.Sprintf("medians of %d rounds, ways alternating; ratio to %s; link %s", r.Rounds, r.Baseline, r.Link))
	for _, s := range r.Summary {
		if s.Runs != r.Rounds {
			notes = append(notes, fmt.Sprintf("%s: %d rounds only", s.Way, s.Runs))
		}
	}
	if r.Check != "" {
		notes = append(notes, "link check: "+r.Check)
	}
	notes = append(notes, r.Machine+", Linux "+r.Kernel)
	failed := map[string]bool{}
	for _, run := range r.Results {
		for _, unit := range run.Failed {
			failed[unit] = true
		}
		if run.HTTPErrors > 0 {
			notes = append(notes, fmt.Sprintf("%s, round %d: %d requests were answered with an error", run.Way, run.Round, run.HTTPErrors))
		}
	}
	for unit := range failed {
		notes = append(notes, "unit failed in the guest: "+unit)
	}
	slices.Sort(notes[len(notes)-len(failed):])
	return notes
}

// WriteText writes the table with aligned columns.
func (r Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([][]string{columns}, r.rows()...) {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, strings.Join(r.Notes(), "\n"))
	return err
}

// WriteMarkdown writes the table as GitHub's Markdown.
func (r Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(columns)
	rule := []string{"---"}
	for range columns[1:] {
		rule = append(rule, "---:")
	}
	line(rule)
	for _, row := range r.rows() {
		line(row)
	}
	b.WriteString("\n")
	for _, n := range r.Notes() {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON writes everything, with every single run.
func (r Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteFile writes a result file, whole or not at all. "" is no file.
func WriteFile(name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".tmp*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
