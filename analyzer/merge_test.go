package analyzer

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"bootprof/profiles"
)

const page = profiles.PageSize

const ms = time.Millisecond

// touch makes a touch of n pages.
func touch(at time.Duration, firstPage, n int64) profiles.Touch {
	return profiles.Touch{At: at, ImageOff: firstPage * page, Len: n * page}
}

func run(touches ...profiles.Touch) *profiles.Run {
	return &profiles.Run{
		Header:  profiles.Header{ImageSize: 1000*page + 100, Method: "fuse-direct", End: "until"},
		Touches: touches,
	}
}

func mustMerge(t testing.TB, runs []*profiles.Run, opts MergeOptions) *Plan {
	t.Helper()
	p, err := Merge(runs, opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMerge(t *testing.T) {
	sure := func(at time.Duration, first, n int64) PlannedRange {
		return PlannedRange{first * page, n * page, at, 1, TierSure}
	}
	tail := func(at time.Duration, first, n int64, p float64) PlannedRange {
		return PlannedRange{first * page, n * page, at, p, TierTail}
	}
	three := []*profiles.Run{
		run(touch(1*ms, 10, 2), touch(5*ms, 20, 1), touch(9*ms, 12, 1)),
		run(touch(2*ms, 20, 1), touch(3*ms, 10, 1), touch(4*ms, 11, 1), touch(7*ms, 40, 1)),
		run(touch(2*ms, 10, 2), touch(8*ms, 20, 1), touch(9*ms, 40, 1)),
	}
	for _, c := range []struct {
		name string
		runs []*profiles.Run
		opts MergeOptions
		want []PlannedRange
	}{
		{"no touch", []*profiles.Run{run()}, MergeOptions{}, nil},
		{"one run", []*profiles.Run{run(touch(1*ms, 5, 1), touch(2*ms, 6, 2), touch(3*ms, 1, 1))}, MergeOptions{},
			[]PlannedRange{sure(1*ms, 5, 3), sure(3*ms, 1, 1)}},
		{"a tie goes by image", []*profiles.Run{run(touch(1*ms, 9, 1), touch(1*ms, 3, 1))}, MergeOptions{},
			[]PlannedRange{sure(1*ms, 3, 1), sure(1*ms, 9, 1)}},
		{"neighbours in the image but not in order", []*profiles.Run{run(touch(1*ms, 3, 1), touch(2*ms, 9, 1), touch(3*ms, 4, 1))},
			MergeOptions{}, []PlannedRange{sure(1*ms, 3, 1), sure(2*ms, 9, 1), sure(3*ms, 4, 1)}},
		{"two runs: the earlier moment", []*profiles.Run{run(touch(1*ms, 3, 1)), run(touch(5*ms, 3, 1))}, MergeOptions{},
			[]PlannedRange{sure(1*ms, 3, 1)}},
		// Page 10: 1, 3, 2; 11: 1, 4, 2; 12: 9; 20: 5, 2, 8; 40: 7, 9.
		{"three runs", three, MergeOptions{},
			[]PlannedRange{sure(2*ms, 10, 2), sure(5*ms, 20, 1), tail(7*ms, 40, 1, 2.0/3), tail(9*ms, 12, 1, 1.0/3)}},
		{"three runs, in two at least", three, MergeOptions{MinRuns: 2},
			[]PlannedRange{sure(2*ms, 10, 2), sure(5*ms, 20, 1), tail(7*ms, 40, 1, 2.0/3)}},
		{"three runs, surely", three, MergeOptions{MinProbability: 0.7},
			[]PlannedRange{sure(2*ms, 10, 2), sure(5*ms, 20, 1)}},
		{"tail among the sure", []*profiles.Run{run(touch(1*ms, 1, 1), touch(2*ms, 2, 1), touch(3*ms, 3, 1)),
			run(touch(1*ms, 1, 1), touch(3*ms, 3, 1))}, MergeOptions{},
			[]PlannedRange{sure(1*ms, 1, 1), tail(2*ms, 2, 1, 0.5), sure(3*ms, 3, 1)}},
		{"short last page", []*profiles.Run{run(profiles.Touch{At: 1, ImageOff: 1000 * page, Len: 100})}, MergeOptions{},
			[]PlannedRange{{1000 * page, 100, 1, 1, TierSure}}},
	} {
		p := mustMerge(t, c.runs, c.opts)
		if !slices.Equal(p.Ranges, c.want) {
			t.Errorf("%s:\n got %v\nwant %v", c.name, p.Ranges, c.want)
		}
		if p.Runs != len(c.runs) || p.ImageSize != 1000*page+100 {
			t.Errorf("%s: plan of %d runs, image of %d bytes", c.name, p.Runs, p.ImageSize)
		}
	}
}

func TestMergeMismatch(t *testing.T) {
	for _, c := range []struct {
		change func(h *profiles.Header)
		field  string
		text   string
	}{
		{func(h *profiles.Header) { h.ImageSize = 8 }, "image size", "b.bprof cannot be merged with a.bprof: its image size is 8, not 4096100"},
		{func(h *profiles.Header) { h.ImageSHA256[0] = 0xab }, "image SHA-256", "ab0000000000..."},
		{func(h *profiles.Header) { h.Method = "trace" }, "method", `is "trace", not "fuse-direct"`},
		{func(h *profiles.Header) { h.Readahead = 131072 }, "readahead", "is 131072, not 0"},
		{func(h *profiles.Header) { h.Coarse = true }, "coarse", "is true, not false"},
		{func(h *profiles.Header) { h.TimeScaled = true }, "time_scaled", "is true, not false"},
	} {
		other := run()
		c.change(&other.Header)
		_, err := Merge([]*profiles.Run{run(), other}, MergeOptions{Names: []string{"a.bprof", "b.bprof"}})
		var m *MismatchError
		if !errors.As(err, &m) {
			t.Errorf("%s: got %v, want a MismatchError", c.field, err)
			continue
		}
		if m.Field != c.field || m.Run != "b.bprof" || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %+v: %v", c.field, m, err)
		}
	}
}

func TestMergeInvalid(t *testing.T) {
	huge := run(profiles.Touch{Len: math.MaxInt64 - math.MaxInt64%page})
	huge.Header.ImageSize = math.MaxInt64
	if p := mustMerge(t, []*profiles.Run{huge, huge}, MergeOptions{}); len(p.Ranges) != 1 || p.Pages() != math.MaxInt64/page {
		t.Errorf("a touch of the largest image: %v", p.Ranges)
	}
	end := run(profiles.Touch{ImageOff: page, Len: math.MaxInt64 - page})
	end.Header.ImageSize = math.MaxInt64
	if p := mustMerge(t, []*profiles.Run{end}, MergeOptions{}); len(p.Ranges) != 1 || p.Bytes() != math.MaxInt64-page {
		t.Errorf("a touch up to the last offset there is: %v", p.Ranges)
	}
	for _, c := range []struct {
		run  *profiles.Run
		text string
	}{
		{nil, "run 1 is not valid: it is nil"},
		{run(profiles.Touch{ImageOff: -page, Len: page}), "not inside the image"},
		{run(profiles.Touch{ImageOff: 0, Len: 0}), "not inside the image"},
		{run(touch(0, 1000, 1)), "touch 0, [4096000 +4096), is not inside the image of 4096100 bytes"},
		{run(profiles.Touch{ImageOff: math.MaxInt64 - 4095, Len: page}), "not inside the image"},
		{run(profiles.Touch{ImageOff: 5, Len: page}), "not made of whole pages"},
		{run(profiles.Touch{ImageOff: 0, Len: 100}), "not made of whole pages"},
		{run(touch(-1, 0, 1)), "impossible time"},
		{run(touch(math.MaxInt64, 0, 1)), "impossible time"},
		{run(touch(1, 3, 4), touch(2, 6, 1)), "image offset 24576 is touched twice"},
	} {
		_, err := Merge([]*profiles.Run{c.run}, MergeOptions{})
		var inv *InvalidRunError
		if !errors.As(err, &inv) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("got %v, want an InvalidRunError with %q", err, c.text)
		}
	}
	if _, err := Merge(nil, MergeOptions{}); !errors.Is(err, ErrNoRuns) {
		t.Errorf("no runs: %v", err)
	}
	for _, o := range []MergeOptions{{MinRuns: 2}, {MinProbability: 1.1}, {MinProbability: -1}, {MinProbability: math.NaN()}} {
		if _, err := Merge([]*profiles.Run{run()}, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// randomRun makes a run of disjoint touches within pages pages, in no particular order of offsets.
func randomRun(rnd *rand.Rand, pages int64) *profiles.Run {
	var touches []profiles.Touch
	for p := rnd.Int64N(4); p < pages; p += rnd.Int64N(4) {
		n := min(1+rnd.Int64N(4), pages-p)
		touches = append(touches, touch(time.Duration(rnd.IntN(20))*ms, p, n))
		p += n
	}
	slices.SortStableFunc(touches, func(a, b profiles.Touch) int { return cmp.Compare(a.At, b.At) })
	return run(touches...)
}

// A planned page is what the page-by-page oracle makes of the runs.
type plannedPage struct {
	at    time.Duration
	page  int64
	count int
}

func mergeByPage(runs []*profiles.Run, minRuns int) []plannedPage {
	times := make(map[int64][]time.Duration)
	for _, r := range runs {
		for _, t := range r.Touches {
			for p := t.ImageOff / page; p < (t.ImageOff+t.Len)/page; p++ {
				times[p] = append(times[p], t.At)
			}
		}
	}
	var out []plannedPage
	for p, ts := range times {
		slices.Sort(ts)
		if len(ts) >= minRuns {
			out = append(out, plannedPage{ts[(len(ts)-1)/2], p, len(ts)})
		}
	}
	slices.SortFunc(out, func(a, b plannedPage) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.page, b.page))
	})
	return out
}

func TestMergeAgainstPages(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	for round := range 1500 {
		runs := make([]*profiles.Run, 1+rnd.IntN(5))
		for i := range runs {
			runs[i] = randomRun(rnd, 60)
		}
		minRuns := 1 + rnd.IntN(len(runs))
		p := mustMerge(t, runs, MergeOptions{MinRuns: minRuns})
		want := mergeByPage(runs, minRuns)

		var got []plannedPage
		touches, prob := p.Touches()
		for i, tt := range touches {
			count := int(math.Round(prob[i] * float64(len(runs))))
			for q := tt.ImageOff / page; q < (tt.ImageOff+tt.Len)/page; q++ {
				got = append(got, plannedPage{tt.At, q, count})
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("round %d, %d runs:\n got %v\nwant %v", round, len(runs), got, want)
		}

		// The ranges are the same pages in the same order, each as long as it can be.
		i := 0
		for n, r := range p.Ranges {
			for q := r.ImageOff / page; q < (r.ImageOff+r.Len)/page; q, i = q+1, i+1 {
				w := want[i]
				if w.page != q || float64(w.count)/float64(len(runs)) != r.Probability || w.at < r.At ||
					(w.count == len(runs)) != (r.Tier == TierSure) {
					t.Fatalf("round %d: range %+v holds page %+v", round, r, w)
				}
			}
			if n > 0 {
				if q := p.Ranges[n-1]; q.ImageOff+q.Len == r.ImageOff && q.Probability == r.Probability {
					t.Fatalf("round %d: ranges %v and %v are one", round, q, r)
				}
			}
		}
		if i != len(want) || p.Pages() != int64(len(want)) {
			t.Fatalf("round %d: ranges hold %d pages, Pages says %d, want %d", round, i, p.Pages(), len(want))
		}

		rnd.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
		if again := mustMerge(t, runs, MergeOptions{MinRuns: minRuns}); !reflect.DeepEqual(again, p) {
			t.Fatalf("round %d: another order of the runs gives another plan", round)
		}
	}
}

func TestMergeIdentical(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	for n := 1; n <= 6; n++ {
		r := randomRun(rnd, 200)
		one := mustMerge(t, []*profiles.Run{r}, MergeOptions{})
		many := mustMerge(t, slices.Repeat([]*profiles.Run{r}, n), MergeOptions{MinRuns: n, MinProbability: 1})
		if !slices.Equal(many.Ranges, one.Ranges) {
			t.Errorf("%d times the same run:\n got %v\nwant %v", n, many.Ranges, one.Ranges)
		}
		byPage := mergeByPage([]*profiles.Run{r}, 1)
		if many.Pages() != int64(len(byPage)) {
			t.Errorf("%d times the same run: %d pages, want %d", n, many.Pages(), len(byPage))
		}
	}
}

func TestOverlapCounts(t *testing.T) {
	_, o, err := merge([]*profiles.Run{
		run(touch(1, 0, 10), touch(2, 50, 5)),
		run(touch(1, 5, 10)),
		run(touch(1, 8, 1), touch(2, 52, 1), profiles.Touch{At: 3, ImageOff: 1000 * page, Len: 100}),
	}, MergeOptions{MinRuns: 3})
	if err != nil {
		t.Fatal(err)
	}
	want := &overlap{union: 21, every: 1, run: []int64{15, 10, 3}, only: []int64{9, 5, 1}}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got %+v, want %+v", o, want)
	}
}

func TestPlanByHand(t *testing.T) {
	p := &Plan{Ranges: []PlannedRange{{page, page, 5, 0.5, TierTail}, {0, page, 7, 1, TierSure}}}
	touches, prob := p.Touches()
	if !slices.Equal(touches, []profiles.Touch{touch(5, 1, 1), touch(7, 0, 1)}) || !slices.Equal(prob, []float64{0.5, 1}) {
		t.Errorf("got %v %v", touches, prob)
	}
	if want := []profiles.Range{{ImageOff: page, Len: page}, {ImageOff: 0, Len: page}}; !slices.Equal(p.Order(), want) {
		t.Errorf("got %v", p.Order())
	}
	if s := fmt.Sprint(p.Ranges[0].Tier, p.Ranges[1].Tier); s != "tail sure" {
		t.Errorf("tiers print as %s", s)
	}
}

// BenchmarkMerge merges 20 runs of 200,000 touches each of a 10 GB image, 2 % of which differ.
func BenchmarkMerge(b *testing.B) {
	rnd := rand.New(rand.NewPCG(6, 6))
	const size, n = 10_000_000_000 / page, 200_000
	common := rnd.Perm(size)[:n]
	runs := make([]*profiles.Run, 20)
	for i := range runs {
		touches := make([]profiles.Touch, n)
		seen := make(map[int]bool, n)
		for _, p := range common {
			seen[p] = true
		}
		for k := range touches {
			p := common[k]
			if rnd.IntN(50) == 0 {
				for seen[p] {
					p = rnd.IntN(size)
				}
			}
			seen[p] = true
			touches[k] = touch(time.Duration(k)*20*time.Microsecond, int64(p), 1)
		}
		runs[i] = run(touches...)
		runs[i].Header.ImageSize = size * page
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Merge(runs, MergeOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
