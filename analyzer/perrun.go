package analyzer

import (
	"cmp"
	"math"
	"slices"
	"time"

	"bootprof/profiles"
)

// until returns the CPU time of the boot: the mark "until" or "login", else the mark "end", else the end of recording,
// else the last touch. The second result tells whether it was a mark of the boot's end.
func until(r *profiles.Run) (time.Duration, bool) {
	for _, name := range []string{"until", "login", "end"} {
		for _, m := range r.Marks {
			if m.Name == name && m.At > 0 && m.At <= maxTime {
				return m.At, name != "end"
			}
		}
	}
	if d := r.Header.Duration; d > 0 && d <= maxTime {
		return time.Duration(d), false
	}
	var last time.Duration
	for _, t := range r.Touches {
		last = max(last, t.At)
	}
	return last, false
}

func medianUntil(runs []*profiles.Run) time.Duration {
	times := make([]float64, len(runs))
	for i, r := range runs {
		t, _ := until(r)
		times[i] = float64(t)
	}
	return median(times)
}

func perRun(runs []*profiles.Run, over *overlap, opts MergeOptions) []RunReport {
	out := make([]RunReport, len(runs))
	for i, r := range runs {
		end, mark := until(r)
		out[i] = RunReport{
			Name:          opts.name(i),
			Pages:         over.run[i],
			OnlyHerePages: over.only[i],
			// All pages are the union of this run and the others; those it shares are their intersection.
			Overlap:    share(over.run[i]-over.only[i], over.union),
			CPUSeconds: round(end.Seconds()),
			UntilMark:  mark,
			Ended:      r.Header.End,
			Kernel:     r.Header.Kernel,
			Machine:    r.Header.Machine,
		}
		if len(runs) == 1 {
			out[i].Overlap = 1
		}
		for _, t := range r.Touches {
			out[i].WorkingSetBytes += t.Len
		}
	}
	return out
}

// topFiles returns the n files of which a single run touched most, largest first. Touches of one run do
// not overlap, so a sum per run is exact and no list of ranges per file is needed.
func topFiles(runs []*profiles.Run, n int) []FileReport {
	most := make(map[string]int64)
	for _, r := range runs {
		sums := make(map[string]int64)
		for _, t := range r.FileTouches {
			if t.Kind == profiles.KindData && t.Len > 0 {
				// A hostile run may claim more than an int64 holds.
				sums[t.Path] += min(t.Len, math.MaxInt64-sums[t.Path])
			}
		}
		for path, sum := range sums {
			most[path] = max(most[path], sum)
		}
	}
	out := make([]FileReport, 0, len(most))
	for path, sum := range most {
		out = append(out, FileReport{path, sum})
	}
	slices.SortFunc(out, func(a, b FileReport) int {
		return cmp.Or(cmp.Compare(b.TouchedBytes, a.TouchedBytes), cmp.Compare(a.Path, b.Path))
	})
	return out[:min(len(out), max(n, 0))]
}

// scaleTo returns run with all its times multiplied such that the boot ends at bootTime.
func scaleTo(run *profiles.Run, bootTime time.Duration) *profiles.Run {
	end, _ := until(run)
	if end <= 0 {
		return run
	}
	f := float64(bootTime) / float64(end)
	out := *run
	out.Touches = slices.Clone(run.Touches)
	for i := range out.Touches {
		out.Touches[i].At = time.Duration(float64(out.Touches[i].At) * f)
	}
	out.Marks = slices.Clone(run.Marks)
	for i := range out.Marks {
		out.Marks[i].At = time.Duration(float64(out.Marks[i].At) * f)
	}
	out.Header.Duration = int64(float64(run.Header.Duration) * f)
	return &out
}
