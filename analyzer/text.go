package analyzer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Rows of the text form, which is to fit on one screen; JSON has everything.
const (
	textRuns  = 6
	textLinks = 4
	textFiles = 5
	textHints = 8
)

// WriteJSON writes the report as one indented JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteText writes the report for people, about 40 lines of up to 110 columns at most. Names from the
// recording are quoted where they would disturb a terminal.
func (r *Report) WriteText(w io.Writer) error {
	var b bytes.Buffer
	r.writeHead(&b)
	r.writeRuns(&b)
	r.writeLinks(&b)
	if len(r.TopFiles) > 0 {
		fmt.Fprintf(&b, "\nmost touched files\n")
		for _, f := range r.TopFiles[:min(len(r.TopFiles), textFiles)] {
			fmt.Fprintf(&b, "%12s  %s\n", bytesText(f.TouchedBytes), printable("/"+f.Path))
		}
	}
	if len(r.Hints) > 0 {
		b.WriteByte('\n')
		for _, h := range r.Hints[:min(len(r.Hints), textHints)] {
			fmt.Fprintf(&b, "note: %s\n", printable(h))
		}
		if more := len(r.Hints) - textHints; more > 0 {
			fmt.Fprintf(&b, "note: %d more with --json\n", more)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) writeHead(b *bytes.Buffer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("image", "%s %s, sha256 %.12s", bytesText(r.ImageSizeBytes), printable(orUnknown(r.Filesystem)), r.ImageSHA256)
	var first RunReport
	if len(r.PerRun) > 0 {
		first = r.PerRun[0]
	}
	line("recorded", "%s by %s, readahead %s, on %s, %s", plural(r.Runs, "run"), printable(orNone(r.Method)),
		bytesText(r.ReadaheadBytes), printable(orNone(first.Machine)), printable(orNone(first.Kernel)))
	line("boot", "%.2f s of CPU time", r.CPUSeconds)
	part := 0.0
	if r.ImageSizeBytes > 0 {
		part = float64(r.WorkingSetBytes) / float64(r.ImageSizeBytes)
	}
	line("plan", "%s = %s pages in %s ranges, %s of the image", bytesText(r.WorkingSetBytes), count(r.Pages),
		count(int64(r.Ranges)), percent(part))
	if r.UntilBytes < r.WorkingSetBytes {
		line("", "%s of it until the boot is done (%s)", bytesText(r.UntilBytes),
			percent(float64(r.UntilBytes)/float64(r.WorkingSetBytes)))
	}
	if r.Runs > 1 {
		line("", "%s pages in every run, %s in some (overlap %.2f)", count(r.PagesInEveryRun),
			count(r.TouchedPages-r.PagesInEveryRun), r.Overlap)
	}
	if r.CompressedBytes != nil {
		line("on the wire", "%s compressed", bytesText(*r.CompressedBytes))
	} else {
		line("on the wire", "%s raw: nothing is known of compression, a pack sends less", bytesText(r.WorkingSetBytes))
	}
}

func (r *Report) writeRuns(b *bytes.Buffer) {
	if len(r.PerRun) < 2 {
		return
	}
	fmt.Fprintf(b, "\n%10s %10s %8s %9s  %-12s %s\n", "pages", "only here", "overlap", "boot", "ended", "run")
	for _, run := range r.PerRun[:min(len(r.PerRun), textRuns)] {
		fmt.Fprintf(b, "%10s %10s %8.2f %7.2f s  %-12s %s\n", count(run.Pages), count(run.OnlyHerePages),
			run.Overlap, run.CPUSeconds, printable(orNone(run.Ended)), printable(run.Name))
	}
	if more := len(r.PerRun) - textRuns; more > 0 {
		fmt.Fprintf(b, "%10s %s\n", "...", plural(more, "more run"))
	}
}

func (r *Report) writeLinks(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n%-16s %10s %-5s %10s %10s %10s %10s %11s\n", "seconds to boot", "least", "by",
		"time order", "offset", "load first", "on demand", "whole image")
	links := r.Links[:min(len(r.Links), textLinks)]
	for _, l := range links {
		fmt.Fprintf(b, "%-16s %10.2f %-5s %10.2f %10.2f %10.2f %10.2f %11.2f\n", l.Link, l.BoundSeconds, l.BoundBy,
			l.TimeOrderSeconds, l.OffsetOrderSeconds, l.LoadAllSeconds, l.OnDemandSeconds, l.FetchImageSeconds)
	}
	fmt.Fprintf(b, "\n%-16s %10s %10s %10s %10s %10s\n", "if not packed", "join gap", "ranges", "fetched", "in flight", "segment")
	for _, l := range links {
		fmt.Fprintf(b, "%-16s %10s %10s %10s %10d %10s\n", l.Link, bytesText(l.CoalesceGapBytes),
			count(int64(l.CoalescedRanges)), bytesText(l.CoalescedBytes), l.Parallel, bytesText(l.SegmentBytes))
	}
	if more := len(r.Links) - textLinks; more > 0 {
		fmt.Fprintf(b, "%s with --json\n", plural(more, "more link"))
	}
}

// bytesText writes n in decimal units, as the sizes in the documents are.
func bytesText(n int64) string {
	switch v := float64(n); {
	case n >= 1e9:
		return strconv.FormatFloat(v/1e9, 'f', 2, 64) + " GB"
	case n >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', 1, 64) + " MB"
	case n >= 1e3:
		return strconv.FormatFloat(v/1e3, 'f', 1, 64) + " kB"
	}
	return strconv.FormatInt(n, 10) + " B"
}

// count writes n >= 0 with separators: 3,179.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// percent writes a share with one digit, or two significant ones below a tenth of a percent.
func percent(part float64) string {
	if p := part * 100; p >= 0.1 || p == 0 {
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(part*100, 'g', 2, 64) + " %"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// printable returns s, quoted if it holds what a terminal would act on.
func printable(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool { return !strconv.IsPrint(c) }) || strings.ContainsRune(s, '\uFFFD') {
		return strconv.Quote(s)
	}
	return s
}
