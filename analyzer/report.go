package analyzer

import (
	"encoding/hex"
	"fmt"
	"math"
	"time"

	"bootprof/profiles"
)

// DefaultLink is the link a report is made for when none is given.
var DefaultLink = Link{BitsPerSecond: 100e6, RTT: 20 * time.Millisecond}

// AnalyzeOptions are the inputs of Analyze besides runs and links. The zero value works.
type AnalyzeOptions struct {
	Merge       MergeOptions
	ConnectRTTs int // ConnectTCP or ConnectTLS; default ConnectTCP
	Parallel    int // n, requests in flight, for coalescing and segment size; default DefaultParallel
	TopFiles    int // how many files to list; default 10, negative none

	// BootTime is what the boot takes from a local disk, if that is known. Recording answers every page by
	// itself and makes the boot slower; the times of every run are scaled so that it ends then. 0: as
	// recorded.
	BootTime time.Duration

	// CompressedSize, if set, measures the image: wire bytes up to and including each range, compressed in
	// the order given. It is called once, with the touches of the plan. Without it sizes are image bytes.
	CompressedSize func(ranges []profiles.Range) (cumulative []int64, err error)
}

// A Report says what boots of an image touch and what that costs over links. Its JSON names are stable:
// names are added, none is changed. Sizes are bytes, times seconds.
type Report struct {
	ImageSizeBytes int64  `json:"image_size_bytes"`
	ImageSHA256    string `json:"image_sha256"`
	Filesystem     string `json:"filesystem"`
	Method         string `json:"method"`
	ReadaheadBytes int64  `json:"readahead_bytes"`
	Coarse         bool   `json:"coarse"`
	TimeScaled     bool   `json:"time_scaled"`

	Runs            int     `json:"runs"`
	CPUSeconds      float64 `json:"cpu_seconds"`       // median of the runs, to the mark "until" or the end
	WorkingSetBytes int64   `json:"working_set_bytes"` // of the plan
	UntilBytes      int64   `json:"until_bytes"`       // the part of it that is touched before CPUSeconds
	Pages           int64   `json:"pages"`             // of the plan
	Ranges          int     `json:"ranges"`            // of the plan
	TouchedPages    int64   `json:"touched_pages"`     // in any run; more than Pages if the plan leaves some out
	PagesInEveryRun int64   `json:"pages_in_every_run"`
	Overlap         float64 `json:"overlap_jaccard"`            // pages in every run by pages in any run
	CompressedBytes *int64  `json:"compressed_bytes,omitempty"` // of the plan; absent if not measured
	SizesAre        string  `json:"link_sizes_are"`             // what the link figures count: "compressed" or "raw"

	PerRun   []RunReport  `json:"per_run"`
	Links    []LinkReport `json:"links"`
	TopFiles []FileReport `json:"top_files"`
	Hints    []string     `json:"hints"` // for people; their wording changes

	Plan *Plan `json:"-"`
}

// A RunReport says how a run stands among the others.
type RunReport struct {
	Name            string  `json:"name"`
	Pages           int64   `json:"pages"`
	OnlyHerePages   int64   `json:"only_here_pages"` // in no other run
	Overlap         float64 `json:"overlap_jaccard"` // with the other runs together
	WorkingSetBytes int64   `json:"working_set_bytes"`
	CPUSeconds      float64 `json:"cpu_seconds"`
	UntilMark       bool    `json:"until_mark"` // CPUSeconds is that of the mark, not of the end of recording
	Ended           string  `json:"ended"`
	Kernel          string  `json:"kernel"`
	Machine         string  `json:"machine"`
}

// A LinkReport says what a boot over a link takes. Seconds are from the start of connecting.
type LinkReport struct {
	Link               string  `json:"link"`
	BitsPerSecond      float64 `json:"bits_per_second"`
	RTTSeconds         float64 `json:"rtt_seconds"`
	BoundSeconds       float64 `json:"bound_seconds"`
	BoundBy            BoundBy `json:"bound_by"`
	BoundAtSeconds     float64 `json:"bound_at_seconds"` // "link": CPU time of the touch that decides; "cpu": cpu_seconds
	TimeOrderSeconds   float64 `json:"time_order_seconds"`
	OffsetOrderSeconds float64 `json:"offset_order_seconds"`
	LoadAllSeconds     float64 `json:"load_all_seconds"`
	OnDemandSeconds    float64 `json:"on_demand_seconds"`   // raw image, a request for each touch
	FetchImageSeconds  float64 `json:"fetch_image_seconds"` // the whole image as it lies, then boot

	// For this image if nobody packs it: ranges to ask for, joined over holes that are cheaper than requests.
	CoalesceGapBytes int64 `json:"coalesce_gap_bytes"`
	CoalescedRanges  int   `json:"coalesced_ranges"`
	CoalescedBytes   int64 `json:"coalesced_bytes"`
	SegmentBytes     int64 `json:"segment_bytes"` // size of a request that keeps the link full
	Parallel         int   `json:"parallel"`      // requests in flight
}

// A FileReport is a file and the most bytes of it that a single run touched.
type FileReport struct {
	Path         string `json:"path"` // no leading slash
	TouchedBytes int64  `json:"touched_bytes"`
}

// Analyze merges the runs and prices the plan for each link; without a link, for DefaultLink. Errors are
// those of Merge, of CompressedSize and of links that cannot be calculated with.
func Analyze(runs []*profiles.Run, links []Link, opts AnalyzeOptions) (*Report, error) {
	if len(links) == 0 {
		links = []Link{DefaultLink}
	}
	if opts.ConnectRTTs == 0 {
		opts.ConnectRTTs = ConnectTCP
	}
	if opts.Parallel <= 0 {
		opts.Parallel = DefaultParallel
	}
	if opts.TopFiles == 0 {
		opts.TopFiles = 10
	}
	if opts.BootTime > 0 {
		scaled := make([]*profiles.Run, len(runs))
		for i, r := range runs {
			scaled[i] = scaleTo(r, opts.BootTime)
		}
		runs = scaled
	}
	plan, over, err := merge(runs, opts.Merge)
	if err != nil {
		return nil, err
	}
	h := &runs[0].Header
	r := &Report{
		ImageSizeBytes: h.ImageSize,
		ImageSHA256:    hex.EncodeToString(h.ImageSHA256[:]),
		Filesystem:     h.Filesystem,
		Method:         h.Method,
		ReadaheadBytes: h.Readahead,
		Coarse:         h.Coarse,
		TimeScaled:     h.TimeScaled,

		Runs:            len(runs),
		WorkingSetBytes: plan.Bytes(),
		Pages:           plan.Pages(),
		Ranges:          len(plan.Ranges),
		TouchedPages:    over.union,
		PagesInEveryRun: over.every,
		Overlap:         share(over.every, over.union),
		SizesAre:        "raw",
		PerRun:          perRun(runs, over, opts.Merge),
		TopFiles:        topFiles(runs, opts.TopFiles),
		Plan:            plan,
	}
	until := medianUntil(runs)
	r.CPUSeconds = round(until.Seconds())
	in := BoundInput{Until: until, ConnectRTTs: opts.ConnectRTTs}
	var prob []float64
	in.Touches, prob = plan.Touches()
	in.Probability = func(k int) float64 { return prob[k] }
	for _, t := range in.Touches {
		if t.At <= until {
			r.UntilBytes += t.Len
		}
	}
	if opts.CompressedSize != nil {
		upTo, err := compressed(in.Touches, opts.CompressedSize)
		if err != nil {
			return nil, err
		}
		in.Compressed = func(k int) int64 { return upTo[k] }
		total := int64(0)
		if n := len(upTo); n > 0 {
			total = upTo[n-1]
		}
		r.CompressedBytes, r.SizesAre = &total, "compressed"
	}
	for _, l := range links {
		in.Link = l
		lr, err := linkReport(in, plan, opts.Parallel)
		if err != nil {
			return nil, fmt.Errorf("link %v: %w", l, err)
		}
		r.Links = append(r.Links, lr)
	}
	r.Hints = hints(r)
	return r, nil
}

// compressed measures the touches and checks what comes back.
func compressed(touches []profiles.Touch, measure func([]profiles.Range) ([]int64, error)) ([]int64, error) {
	ranges := make([]profiles.Range, len(touches))
	for k, t := range touches {
		ranges[k] = profiles.Range{ImageOff: t.ImageOff, Len: t.Len}
	}
	upTo, err := measure(ranges)
	if err != nil {
		return nil, fmt.Errorf("measuring the compressed size of %d ranges: %w", len(ranges), err)
	}
	if len(upTo) != len(ranges) {
		return nil, fmt.Errorf("measuring the compressed size of %d ranges: got %d sizes", len(ranges), len(upTo))
	}
	return upTo, nil
}

func linkReport(in BoundInput, plan *Plan, n int) (LinkReport, error) {
	b, err := Bound(in)
	if err != nil {
		return LinkReport{}, err
	}
	r := LinkReport{
		Link:           in.Link.String(),
		BitsPerSecond:  in.Link.BitsPerSecond,
		RTTSeconds:     in.Link.RTT.Seconds(),
		BoundSeconds:   round(b.Total.Seconds()),
		BoundBy:        b.By,
		BoundAtSeconds: round(in.Until.Seconds()),
		SegmentBytes:   SegmentFor(in.Link, n),
		Parallel:       n,
	}
	if b.By == ByLink {
		r.BoundAtSeconds = round(in.Touches[b.Touch].At.Seconds())
	}
	raw := in
	raw.Compressed = nil
	whole := raw
	whole.Touches = []profiles.Touch{{Len: plan.ImageSize}}
	for _, s := range []struct {
		in    BoundInput
		order Order
		out   *float64
	}{
		{in, TimeOrder, &r.TimeOrderSeconds},
		{in, OffsetOrder, &r.OffsetOrderSeconds},
		{in, LoadAll, &r.LoadAllSeconds},
		{raw, OnDemand, &r.OnDemandSeconds},
		{whole, LoadAll, &r.FetchImageSeconds},
	} {
		total, err := Simulate(s.in, s.order)
		if err != nil {
			return LinkReport{}, err
		}
		*s.out = round(total.Seconds())
	}
	r.CoalesceGapBytes = GapFor(in.Link, n)
	joined := Coalesce(plan.Order(), r.CoalesceGapBytes)
	r.CoalescedRanges = len(joined)
	for _, j := range joined {
		r.CoalescedBytes += j.Len
	}
	return r, nil
}

// round keeps microseconds: below lies noise that would change reports from machine to machine.
func round(s float64) float64 { return math.Round(s*1e6) / 1e6 }

// share returns part/whole; nothing of nothing is all of it.
func share(part, whole int64) float64 {
	if whole == 0 {
		return 1
	}
	return math.Round(float64(part)/float64(whole)*1e4) / 1e4
}
