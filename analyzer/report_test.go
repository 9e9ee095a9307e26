package analyzer

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/profiles"
)

var update = flag.Bool("update", false, "write the golden reports anew")

// sampleRuns are three boots of one image: 300 pages in every run, some in one or two, in an order that is
// not the image's.
func sampleRuns() []*profiles.Run {
	runs := make([]*profiles.Run, 3)
	for i := range runs {
		r := &profiles.Run{Header: profiles.Header{
			ImageSize: 40000 * page, Filesystem: "erofs", Method: "fuse-direct", Kernel: "6.18.0",
			Machine: "x86_64, 2 cpus, 24 GiB", End: "until", Duration: int64(2 * time.Second),
		}}
		for b := range r.Header.ImageSHA256 {
			r.Header.ImageSHA256[b] = byte(b)
		}
		for k := range int64(300) {
			at := time.Duration(k)*3*ms + time.Duration(i)*100*time.Microsecond
			r.Touches = append(r.Touches, touch(at, (k/10*7919)%4000*10+k%10, 1))
		}
		for k := range int64(5 + 5*i) {
			r.Touches = append(r.Touches, touch(time.Duration(950+k)*ms, 39990-k, 1))
		}
		r.FileTouches = []profiles.FileTouch{
			{Path: "usr/lib/x86_64-linux-gnu/libc.so.6", Len: 400 * page},
			{Path: "usr/lib/systemd/systemd", Len: int64(100+i*(2-i)) * page},
			{Path: "usr/lib", Kind: profiles.KindDir, Len: 900 * page},
			{Path: "etc/odd\x1b[31mname", Len: page},
			{Path: "usr/lib/systemd/systemd", FileOff: 1 << 20, Len: page},
		}
		r.Marks = []profiles.Mark{{Name: "start"}, {At: time.Duration(955+i) * ms, Name: "until"}, {At: 2 * time.Second, Name: "end"}}
		runs[i] = r
	}
	return runs
}

func sampleReport(t *testing.T) *Report {
	t.Helper()
	r, err := Analyze(sampleRuns(), []Link{mustLink(t, "100mbit/20ms"), mustLink(t, "5mbit/50ms"), mustLink(t, "1gbit/0.5ms")}, AnalyzeOptions{
		Merge:          MergeOptions{Names: []string{"a.bprof", "b.bprof", "c.bprof"}},
		CompressedSize: thirdOf,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func thirdOf(ranges []profiles.Range) ([]int64, error) {
	var out []int64
	var sum int64
	for _, r := range ranges {
		sum += r.Len
		out = append(out, sum/3)
	}
	return out, nil
}

func TestReportGolden(t *testing.T) {
	r := sampleReport(t)
	for _, c := range []struct {
		file  string
		write func(io.Writer) error
	}{
		{"report.json", r.WriteJSON},
		{"report.txt", r.WriteText},
	} {
		var got bytes.Buffer
		if err := c.write(&got); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", c.file)
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s differs from the golden (go test -update writes it anew); got\n%s", c.file, got.Bytes())
		}
	}
}

// The golden's figures, by hand.
func TestReportFigures(t *testing.T) {
	r := sampleReport(t)
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"pages", r.Pages, int64(315)},
		{"bytes", r.WorkingSetBytes, int64(315 * page)},
		{"compressed", *r.CompressedBytes, int64(315 * page / 3)},
		{"in every run", r.PagesInEveryRun, int64(305)},
		{"overlap", r.Overlap, 0.9683}, // 305/315
		{"cpu", r.CPUSeconds, 0.956},
		{"until", r.UntilBytes, int64(307 * page)}, // the tail up to 956 ms: 950 to 956
		{"only in the last run", r.PerRun[2].OnlyHerePages, int64(5)},
		{"overlap of the last run", r.PerRun[2].Overlap, 0.9841},  // 310/315
		{"overlap of the first run", r.PerRun[0].Overlap, 0.9683}, // 305/315
		{"first file", r.TopFiles[0], FileReport{"usr/lib/x86_64-linux-gnu/libc.so.6", 400 * page}},
		{"second file", r.TopFiles[1], FileReport{"usr/lib/systemd/systemd", 102 * page}},
		{"files", len(r.TopFiles), 3},
		// The first touch, at 0.1 ms, costs the connect, the answer and its own 1365 bytes: 20 + 20 + 0.109 + 955.9.
		{"bound", r.Links[0].BoundSeconds, 0.996009},
		{"bound by", r.Links[0].BoundBy, ByLink},
		{"bound at", r.Links[0].BoundAtSeconds, 0.0001},
		// 40,000 pages at 12.5 MB/s after two round trips: 0.04 + 13.1072 + 0.956.
		{"whole image", r.Links[0].FetchImageSeconds, 14.1032},
		// 315 pages / 3 at 12.5 MB/s: 0.04 + 0.034406 + 0.956.
		{"load all", r.Links[0].LoadAllSeconds, 1.030406},
		{"gap", r.Links[0].CoalesceGapBytes, int64(512 + 31250)},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
	if b, o := r.Links[1].BoundSeconds, r.Links[1].TimeOrderSeconds; o < b || o > b*1.01 {
		t.Errorf("time order %g s against a bound of %g s", o, b)
	}
}

func TestReportDefaults(t *testing.T) {
	r, err := Analyze(sampleRuns()[:1], nil, AnalyzeOptions{TopFiles: -1})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Links) != 1 || r.Links[0].Link != "100mbit/20ms" || r.SizesAre != "raw" || r.CompressedBytes != nil {
		t.Errorf("got %+v", r)
	}
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	if _, ok := m["compressed_bytes"]; ok {
		t.Error("a compressed size is in the JSON that nobody measured")
	}
	for _, name := range []string{"top_files", "hints", "links", "per_run"} {
		if _, ok := m[name].([]any); !ok {
			t.Errorf("%s is %v, not a list", name, m[name])
		}
	}
	b.Reset()
	if err := r.WriteText(&b); err != nil || !strings.Contains(b.String(), "raw: nothing is known of compression") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

func TestHints(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(runs []*profiles.Run) []*profiles.Run
		want   string // "" for no hint of the kind not
		not    string
	}{
		{"three good runs", func(r []*profiles.Run) []*profiles.Run { return r }, "", "note"},
		{"one run", func(r []*profiles.Run) []*profiles.Run { return r[:1] }, "one run only: record 3", ""},
		{"coarse", each(func(r *profiles.Run) { r.Header.Coarse, r.Header.Filesystem = true, "squashfs" }), "coarse: recorded on a compressed squashfs", ""},
		{"readahead", each(func(r *profiles.Run) { r.Header.Readahead = 131072 }), "131.1 kB of readahead", ""},
		{"emulated", each(func(r *profiles.Run) { r.Header.TimeScaled = true }), "emulated CPU", ""},
		{"tiny", each(func(r *profiles.Run) { r.Header.ImageSize = 300000 * page }), "covers 0.1 % of the image", ""},
		{"tinier", each(func(r *profiles.Run) { r.Header.ImageSize = 3000000 * page }), "covers 0.011 % of the image", ""},
		{"large", each(func(r *profiles.Run) { r.Header.ImageSize, r.Touches = 400*page, []profiles.Touch{touch(0, 0, 300)} }), "covers 75.0 % of the image", ""},
		{"failed", func(r []*profiles.Run) []*profiles.Run { r[1].Header.End = "exit 3"; return r }, `run 2 ended by "exit 3"`, "run 1 ended"},
		{"ended well", func(r []*profiles.Run) []*profiles.Run { r[1].Header.End = "exit 0"; return r }, "", "ended by"},
		{"slow", func(r []*profiles.Run) []*profiles.Run { r[2].Marks[1].At = 2 * time.Second; return r }, "run 3 took 2.1 times the median", ""},
		{"empty run", func(r []*profiles.Run) []*profiles.Run { r[0].Touches = nil; return r }, "run 1 touched nothing", ""},
		{"no touch at all", each(func(r *profiles.Run) { r.Touches = nil }), "nothing was touched", ""},
		{"no mark", func(r []*profiles.Run) []*profiles.Run { r[0].Marks = nil; return r }, `1 run has no mark "until"`, ""},
		{"no marks", each(func(r *profiles.Run) { r.Marks = nil }), `the runs have no mark "until"`, ""},
		{"differing", func(r []*profiles.Run) []*profiles.Run { r[0].Touches = r[0].Touches[:200]; return r }, "37 % of the pages are not in every run", ""},
	} {
		r, err := Analyze(c.change(sampleRuns()), []Link{mustLink(t, "1gbit/0ms")}, AnalyzeOptions{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var b bytes.Buffer
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), c.want) || c.not != "" && strings.Contains(b.String(), c.not) {
			t.Errorf("%s: want %q, not %q in\n%s", c.name, c.want, c.not, b.String())
		}
	}
	r, err := Analyze(sampleRuns(), nil, AnalyzeOptions{Merge: MergeOptions{MinRuns: 2}})
	if err != nil || !strings.Contains(strings.Join(r.Hints, "\n"), "5 touched pages are left out") {
		t.Errorf("%v: %q", err, r.Hints)
	}
}

func each(f func(*profiles.Run)) func([]*profiles.Run) []*profiles.Run {
	return func(runs []*profiles.Run) []*profiles.Run {
		for _, r := range runs {
			f(r)
		}
		return runs
	}
}

// However much there is to say, the text stays on a screen, and no name reaches the terminal raw.
func TestTextFits(t *testing.T) {
	var runs []*profiles.Run
	var names []string
	for i := range 30 {
		runs = append(runs, sampleRuns()[i%3])
		runs[i].Header.Coarse, runs[i].Header.TimeScaled, runs[i].Header.End = true, true, "exit 9"
		runs[i].Header.Kernel = "6.18\n\x1b]0;owned\a"
		names = append(names, fmt.Sprintf("run\n%d.bprof", i))
	}
	var links []Link
	for i := range 10 {
		links = append(links, Link{BitsPerSecond: 1e6 * float64(i+1), RTT: 100 * ms})
	}
	r, err := Analyze(runs, links, AnalyzeOptions{Merge: MergeOptions{Names: names}})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) > 44 || strings.ContainsAny(b.String(), "\x1b\a") {
		t.Errorf("%d lines:\n%q", len(lines), b.String())
	}
	if err := new(Report).WriteText(io.Discard); err != nil {
		t.Errorf("an empty report: %v", err)
	}
}

func TestAnalyzeErrors(t *testing.T) {
	boom := errors.New("image is gone")
	for _, c := range []struct {
		links []Link
		opts  AnalyzeOptions
		want  string
	}{
		{[]Link{{}}, AnalyzeOptions{}, "bandwidth"},
		{nil, AnalyzeOptions{ConnectRTTs: -1}, "connect"},
		{nil, AnalyzeOptions{CompressedSize: func([]profiles.Range) ([]int64, error) { return nil, boom }}, "ranges: image is gone"},
		{nil, AnalyzeOptions{CompressedSize: func([]profiles.Range) ([]int64, error) { return make([]int64, 3), nil }}, "got 3 sizes"},
	} {
		if _, err := Analyze(sampleRuns(), c.links, c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
	if _, err := Analyze(nil, nil, AnalyzeOptions{}); !errors.Is(err, ErrNoRuns) {
		t.Errorf("no runs: %v", err)
	}
	mixed := sampleRuns()
	mixed[1].Header.Method = "trace"
	var m *MismatchError
	if _, err := Analyze(mixed, nil, AnalyzeOptions{}); !errors.As(err, &m) || m.Run != "run 2" {
		t.Errorf("mixed runs: %v", err)
	}
}

// Scaled to another boot time, the bound keeps its distance from the boot's end where the link does not bind.
func TestAnalyzeBootTime(t *testing.T) {
	run := func() []*profiles.Run {
		r := &profiles.Run{Header: profiles.Header{ImageSize: 100 * page, Method: "fuse-direct", End: "until"}}
		r.Touches = []profiles.Touch{{At: 0, ImageOff: 0, Len: page}, {At: 2 * time.Second, ImageOff: 50 * page, Len: page}}
		r.Marks = []profiles.Mark{{At: 4 * time.Second, Name: "until"}}
		return []*profiles.Run{r}
	}
	link := Link{BitsPerSecond: 1e9, RTT: 10 * time.Millisecond}
	for _, boot := range []time.Duration{0, time.Second, 8 * time.Second} {
		runs := run()
		rep, err := Analyze(runs, []Link{link}, AnalyzeOptions{BootTime: boot})
		if err != nil {
			t.Fatal(err)
		}
		want := boot
		if boot == 0 {
			want = 4 * time.Second
		}
		if got := rep.CPUSeconds; got != want.Seconds() {
			t.Errorf("boot time %v: %v s of CPU, want %v", boot, got, want)
		}
		if over := rep.Links[0].BoundSeconds - want.Seconds(); over < 0.019 || over > 0.021 {
			t.Errorf("boot time %v: bound %v s, want two round trips more than the boot", boot, rep.Links[0].BoundSeconds)
		}
		if runs[0].Marks[0].At != 4*time.Second {
			t.Error("the caller's run was changed")
		}
	}
}
