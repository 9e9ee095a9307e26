package analyzer

import (
	"fmt"
	"strings"
)

// When a report says something about the profile.
const (
	fewRuns      = 3    // runs from which what differs is mostly covered
	poorOverlap  = 0.90 // least share of pages in every run that needs no word
	tinyShare    = 0.002
	largeShare   = 0.60
	slowRun      = 1.5  // times the median CPU time
	worthWaiting = 0.05 // share by which another order must lose before it is named
)

// hints says in plain words what a sysadmin should know or do, most important first.
func hints(r *Report) []string {
	out := make([]string, 0, 4)
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }

	if r.TouchedPages == 0 {
		add("nothing was touched: was the recording image what booted? Record again with {} in the command")
		return out
	}
	if r.Coarse {
		add("coarse: recorded on a compressed %s, whole blocks are seen instead of pages; pack it, record that pack, pack again", orUnknown(r.Filesystem))
	}
	if r.ReadaheadBytes > 0 {
		add("recorded with %s of readahead: pages that nobody asked for are in the profile", bytesText(r.ReadaheadBytes))
	}
	if r.TimeScaled {
		add("times are those of an emulated CPU: the order is good, the seconds are not")
	}
	for _, run := range r.PerRun {
		switch {
		case run.Pages == 0:
			add("%s touched nothing: leave it out or record it again", run.Name)
		case run.Ended == "interrupted" || run.Ended == "failed" || strings.HasPrefix(run.Ended, "exit ") && run.Ended != "exit 0":
			add("%s ended by %q: was the boot through by then?", run.Name, run.Ended)
		case run.CPUSeconds > slowRun*r.CPUSeconds && r.CPUSeconds > 0:
			add("%s took %.1f times the median: the machine was busy, record it again", run.Name, run.CPUSeconds/r.CPUSeconds)
		}
	}
	if n := countUnmarked(r.PerRun); n > 0 {
		add("%s no mark \"until\" or \"login\": the boot is taken to last until the end of recording", has(n, len(r.PerRun)))
	}
	switch {
	case r.Runs == 1:
		add("one run only: record %d to cover what differs from boot to boot; each page missed costs a round trip", fewRuns)
	case r.Overlap < poorOverlap:
		add("%.0f %% of the pages are not in every run: more runs cover more of what differs", 100*(1-r.Overlap))
	}
	if r.ImageSizeBytes > 0 {
		switch part := float64(r.WorkingSetBytes) / float64(r.ImageSizeBytes); {
		case part < tinyShare:
			add("the profile covers %s of the image: if the boot should have got further, check --until", percent(part))
		case part > largeShare:
			add("the profile covers %s of the image: fetching the whole image is nearly as good", percent(part))
		}
	}
	if dropped := r.TouchedPages - r.Pages; dropped > 0 {
		add("%s touched pages are left out of the plan as too rare", count(dropped))
	}
	for _, l := range r.Links {
		if l.OffsetOrderSeconds > l.TimeOrderSeconds*(1+worthWaiting) {
			add("at %s time order saves %.0f %% against image order", l.Link, 100*(1-l.TimeOrderSeconds/l.OffsetOrderSeconds))
			break
		}
	}
	return out
}

func countUnmarked(runs []RunReport) int {
	n := 0
	for _, r := range runs {
		if !r.UntilMark {
			n++
		}
	}
	return n
}

func has(n, of int) string {
	switch {
	case of == 1:
		return "the run has"
	case n == of:
		return "the runs have"
	case n == 1:
		return "1 run has"
	}
	return fmt.Sprintf("%d runs have", n)
}

func orUnknown(filesystem string) string {
	if filesystem == "" {
		return "image"
	}
	return filesystem
}
