package analyzer

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"bootprof/profiles"
)

// ErrNoRuns is returned where at least one run is needed.
var ErrNoRuns = errors.New("no run given: record one first")

// MergeOptions says which pages a plan keeps. The zero value keeps every page that any run touched, which
// is right unless the link is slow and the runs differ much: see Threshold.
type MergeOptions struct {
	MinRuns        int     // keep pages that at least so many runs touched; default 1
	MinProbability float64 // keep pages that at least this share of the runs touched; 0 to 1, default 0

	// Names of the runs for errors and reports, file names as a rule; default "run 1", "run 2", ...
	Names []string
}

// A MismatchError says that two runs cannot be merged, because they were recorded on different images or
// in different modes. A run of another image can be rebased first.
type MismatchError struct {
	Run, First string // names of the run that differs and of the one it was compared with
	Field      string // "image size", "image SHA-256", "method", "readahead", "coarse", "time_scaled"
	Got, Want  string // the values of Run and of First
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s cannot be merged with %s: its %s is %s, not %s", e.Run, e.First, e.Field, e.Got, e.Want)
}

// An InvalidRunError says that a run breaks the rules of profiles.Run.
type InvalidRunError struct {
	Run    string // its name
	Reason string
}

func (e *InvalidRunError) Error() string { return fmt.Sprintf("%s is not valid: %s", e.Run, e.Reason) }

// Merge makes one plan of runs of the same image and mode. The order of the runs does not matter. Memory
// goes with the number of touches, not with the image.
func Merge(runs []*profiles.Run, opts MergeOptions) (*Plan, error) {
	plan, _, err := merge(runs, opts)
	return plan, err
}

func merge(runs []*profiles.Run, opts MergeOptions) (*Plan, *overlap, error) {
	if len(runs) == 0 {
		return nil, nil, ErrNoRuns
	}
	if p := opts.MinProbability; !(p >= 0 && p <= 1) {
		return nil, nil, fmt.Errorf("least probability %g is not between 0 and 1", p)
	}
	if opts.MinRuns > len(runs) {
		return nil, nil, fmt.Errorf("pages of at least %d runs are asked for, but only %d runs given", opts.MinRuns, len(runs))
	}
	cursors := make([]cursor, len(runs))
	for i, r := range runs {
		name := opts.name(i)
		if r == nil {
			return nil, nil, &InvalidRunError{name, "it is nil"}
		}
		if err := compare(r, runs[0], name, opts.name(0)); err != nil {
			return nil, nil, err
		}
		byOff, err := byOffset(r, name)
		if err != nil {
			return nil, nil, err
		}
		cursors[i] = cursor{touches: r.Touches, byOff: byOff}
	}
	keep := func(count int) bool {
		return count >= opts.MinRuns && float64(count)/float64(len(runs)) >= opts.MinProbability
	}
	steps, over := sweep(cursors, keep)
	slices.SortFunc(steps, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.imageOff, b.imageOff))
	})
	h := &runs[0].Header
	return &Plan{
		ImageSize:   h.ImageSize,
		ImageSHA256: h.ImageSHA256,
		Runs:        len(runs),
		Ranges:      ranges(steps, len(runs)),
		steps:       steps,
	}, over, nil
}

func (o *MergeOptions) name(i int) string {
	if i < len(o.Names) && o.Names[i] != "" {
		return o.Names[i]
	}
	return "run " + strconv.Itoa(i+1)
}

// compare returns a *MismatchError for the first field in which r differs from first. Times of an emulated
// CPU are compared as well: their median with real times says nothing.
func compare(r, first *profiles.Run, name, firstName string) error {
	a, b := &r.Header, &first.Header
	short := func(sum [32]byte) string { return hex.EncodeToString(sum[:6]) + "..." }
	for _, f := range []struct {
		field     string
		same      bool
		got, want string
	}{
		{"image size", a.ImageSize == b.ImageSize, fmt.Sprint(a.ImageSize), fmt.Sprint(b.ImageSize)},
		{"image SHA-256", a.ImageSHA256 == b.ImageSHA256, short(a.ImageSHA256), short(b.ImageSHA256)},
		{"method", a.Method == b.Method, strconv.Quote(a.Method), strconv.Quote(b.Method)},
		{"readahead", a.Readahead == b.Readahead, fmt.Sprint(a.Readahead), fmt.Sprint(b.Readahead)},
		{"coarse", a.Coarse == b.Coarse, fmt.Sprint(a.Coarse), fmt.Sprint(b.Coarse)},
		{"time_scaled", a.TimeScaled == b.TimeScaled, fmt.Sprint(a.TimeScaled), fmt.Sprint(b.TimeScaled)},
	} {
		if !f.same {
			return &MismatchError{Run: name, First: firstName, Field: f.field, Got: f.got, Want: f.want}
		}
	}
	return nil
}

// maxTime is the latest time of a touch: up to here a float64 holds every nanosecond. It is 104 days.
const maxTime = 1 << 53

// byOffset checks the run's touches and returns their indices in image order.
func byOffset(r *profiles.Run, name string) ([]int32, error) {
	size := r.Header.ImageSize
	if len(r.Touches) > math.MaxInt32 {
		return nil, &InvalidRunError{name, fmt.Sprintf("it has %d touches", len(r.Touches))}
	}
	byOff := make([]int32, len(r.Touches))
	for i, t := range r.Touches {
		var reason string
		switch {
		case t.ImageOff < 0 || t.Len <= 0 || t.Len > size || t.ImageOff > size-t.Len:
			reason = fmt.Sprintf("is not inside the image of %d bytes", size)
		case t.ImageOff%profiles.PageSize != 0 || t.Len%profiles.PageSize != 0 && t.ImageOff+t.Len != size:
			reason = "is not made of whole pages"
		case t.At < 0 || t.At > maxTime:
			reason = fmt.Sprintf("has the impossible time %v", t.At)
		}
		if reason != "" {
			return nil, &InvalidRunError{name, fmt.Sprintf("touch %d, [%d +%d), %s", i, t.ImageOff, t.Len, reason)}
		}
		byOff[i] = int32(i)
	}
	slices.SortFunc(byOff, func(a, b int32) int { return cmp.Compare(r.Touches[a].ImageOff, r.Touches[b].ImageOff) })
	for j := 1; j < len(byOff); j++ {
		a, b := r.Touches[byOff[j-1]], r.Touches[byOff[j]]
		if a.ImageOff+a.Len > b.ImageOff {
			return nil, &InvalidRunError{name, fmt.Sprintf("image offset %d is touched twice", b.ImageOff)}
		}
	}
	return byOff, nil
}
