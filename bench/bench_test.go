package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/bench/lab"
	"bootprof/bench/link"
	"bootprof/internal/testrig"
)

func TestMain(m *testing.M) {
	lab.RunStage()
	testrig.Private()
	os.Exit(m.Run())
}

// makeImage makes a squashfs of a root directory that has the host's shell and an init that "boots".
func makeImage(t *testing.T) string {
	t.Helper()
	testrig.NeedDevices(t, "/dev/net/tun", "/dev/loop-control")
	testrig.NeedProgram(t, "mksquashfs", "nginx", "curl", "ip")
	root := t.TempDir()
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "etc", "sbin", "bin"} {
		testrig.Must(t, os.Mkdir(filepath.Join(root, d), 0o755))
	}
	files := []string{"/bin/sh", "/bin/sleep"}
	for word := range strings.FieldsSeq(testrig.Run(t, "ldd", "/bin/sh", "/bin/sleep")) {
		if strings.HasPrefix(word, "/") && !strings.HasSuffix(word, ":") {
			files = append(files, word)
		}
	}
	for _, f := range files {
		to := filepath.Join(root, f)
		testrig.WriteFile(t, to, testrig.ReadFile(t, f))
		testrig.Must(t, os.Chmod(to, 0o755))
	}
	init := filepath.Join(root, "sbin/init")
	testrig.WriteFile(t, init, "#!/bin/sh\necho booted >/run/bench-booted\nsleep 1000\n")
	testrig.Must(t, os.Chmod(init, 0o755))
	image := filepath.Join(t.TempDir(), "image.sqfs")
	testrig.Run(t, "mksquashfs", root, image, "-comp", "zstd", "-quiet", "-no-progress")
	return image
}

// standIn is a bootprof of a few lines: it fetches the image and mounts it, with a daemon that ends with the mount. With
// STAY=1 the daemon stays.
const standIn = `#!/bin/sh
case $1 in
mount)
	work=$(dirname "$3")
	curl -sS -o "$work/fetched" "$2" && mount -o loop,ro "$work/fetched" "$3" || exit 1
	# PPid and output are given up as a daemon does; the mount's device number tells when it is gone.
	setsid sh -c 'while mountpoint -q "$0"; do sleep 0.01; done; while [ -n "$STAY" ]; do sleep 0.05; done' "$3" &
	echo $! >"$work/pid" ;;
status)
	echo "{\"pid\": $(cat "$(dirname "$2")/pid"), \"misses\": 7}" ;;
esac
`

func writeStandIn(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bootprof")
	testrig.Must(t, os.WriteFile(path, []byte(standIn), 0o755))
	return path
}

func TestMeasure(t *testing.T) {
	testrig.Slow(t)
	image := makeImage(t)
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Link:   link.Params{Bits: 100e6, RTT: 4 * time.Millisecond},
		Rounds: 2,
		Lab:    lab.Options{Init: "/sbin/init", Timeout: testrig.Patience},
		Ways:   []Way{Local("local", image), FetchAll("fetch-all", image), Mounted("bootprof", writeStandIn(t), image)},
	}
	results, err := Measure(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 6 {
		t.Fatalf("%d results", len(results))
	}
	for i, r := range results {
		if want := c.Ways[i%3].Name; r.Way != want || r.Round != i/3+1 {
			t.Errorf("result %d is of %s, round %d: ways must alternate", i, r.Way, r.Round)
		}
		if r.Total <= 0 || r.Ready > r.Total || r.HTTPErrors > 0 {
			t.Errorf("%+v", r)
		}
		if r.Way == "local" {
			if r.LinkBytes != 0 || r.GETs != 0 {
				t.Errorf("local used the link: %+v", r)
			}
			continue
		}
		if r.GETs != 1 || r.BodyBytes != info.Size() || r.LinkBytes < info.Size() || r.LinkBytes > info.Size()*11/10 {
			t.Errorf("%s of %d bytes: %+v", r.Way, info.Size(), r)
		}
		if r.ClientRSS <= 0 || r.ClientCPU < 0 {
			t.Errorf("client figures: %+v", r)
		}
		if r.Way == "bootprof" && (!r.HasMisses || r.Misses != 7) {
			t.Errorf("misses: %+v", r)
		}
	}
}

// TestLeftoversAreErrors runs a client whose daemon outlives its mount.
func TestLeftoversAreErrors(t *testing.T) {
	image := makeImage(t)
	binary := writeStandIn(t)
	r := &Run{Work: t.TempDir()}
	r.Dir = filepath.Join(r.Work, "root")
	if err := os.Mkdir(r.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.Link, err = link.Open(link.Params{Bits: 100e6}); err != nil {
		t.Fatal(err)
	}
	defer r.Link.Close()
	root, err := servedDir(r, Way{Served: image}, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	server, err := serveFile(r, r.Link, root, filepath.Base(image))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	t.Setenv("STAY", "1")
	w := Mounted("bootprof", binary, image)
	if err := w.Open(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	left, err := leftovers(r)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(left, "\n")
	for _, want := range []string{"mount " + r.Dir, "loop device", "process "} {
		if !strings.Contains(said, want) {
			t.Errorf("leftovers of a mounted image lack %q:\n%s", want, said)
		}
	}
	if err := w.Sample(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	if err := unmount(r.Dir); err != nil {
		t.Fatal(err)
	}
	if err := awaitEnd(r.client.pidfd, 50*time.Millisecond); err == nil {
		t.Error("a daemon that stays was not noticed")
	}
	daemon, err := os.FindProcess(r.client.pid)
	if err == nil {
		err = daemon.Kill()
	}
	if err == nil {
		err = awaitEnd(r.client.pidfd, testrig.Patience)
	}
	if err != nil {
		t.Error(err)
	}
}

// ownTemp gives the test a directory for temporary files that no other program has mounts in.
func ownTemp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func noMountBelow(t *testing.T, dir string) {
	t.Helper()
	for _, m := range testrig.Mounts() {
		if strings.HasPrefix(m.Path, dir) {
			t.Errorf("a mount below %s is left: %+v", dir, m)
		}
	}
}

func TestOpenFails(t *testing.T) {
	image, temp := makeImage(t), ownTemp(t)
	notImage := filepath.Join(t.TempDir(), "text")
	testrig.WriteFile(t, notImage, strings.Repeat("no file system\n", 1000))
	for _, w := range []Way{
		Local("local", notImage),
		FetchAll("fetch-all", notImage),
		Mounted("bootprof", "/nonexistent/bootprof", image),
	} {
		c := Config{Link: link.Params{Bits: 100e6}, Rounds: 1, Ways: []Way{w}}
		if _, err := Measure(context.Background(), c); err == nil || !strings.Contains(err.Error(), "round 1 of "+w.Name) {
			t.Errorf("%s: error %v", w.Name, err)
		}
		noMountBelow(t, temp)
	}
}

func TestSummarize(t *testing.T) {
	var results []Result
	for _, total := range []float64{1, 3, 2, 9} {
		results = append(results, Result{Way: "local", Total: total})
		results = append(results, Result{Way: "other", Total: 2 * total, GETs: int(total), ClientRSS: int64(total)})
	}
	sums := Summarize(results, "local")
	if len(sums) != 2 || sums[0].Way != "local" || sums[0].Total != 2.5 || sums[0].Ratio != 1 {
		t.Errorf("%+v", sums)
	}
	if s := sums[1]; s.Total != 5 || s.TotalMin != 2 || s.TotalMax != 18 || s.Ratio != 2 || s.RSS != 9 || s.Runs != 4 {
		t.Errorf("%+v", s)
	}
}

func TestReport(t *testing.T) {
	r := Report{Link: "100mbit/20ms", Rounds: 1, Baseline: "local", Kernel: "6.1", Machine: "x86_64, 2 cpus, 4 GiB"}
	r.Results = []Result{{Way: "local", Total: 1}, {Way: "bootprof", Total: 1.25, LinkBytes: 4.5e6, GETs: 8, ClientRSS: 36e6,
		ClientCPU: 0.2, HasMisses: true, Misses: 3, Failed: []string{"[FAILED] Failed to start x.service"}}}
	r.Summary = Summarize(r.Results, "local")
	r.Bound = &Bound{Seconds: 0.9, By: "cpu", SizesAre: "compressed", WorkingSetBytes: 13e6, CompressedBytes: 4e6, Pages: 3179}
	var text, md, js bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteMarkdown(&md); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteJSON(&js); err != nil {
		t.Fatal(err)
	}
	const row = "| bootprof | 1.25 | 1.25-1.25 | 1.25 | 0.00 | 4.5 | 8 | 36 | 0.20 | 3 |"
	if !strings.Contains(md.String(), row) {
		t.Errorf("Markdown lacks %s:\n%s", row, &md)
	}
	for _, want := range []string{"T_lb 0.90 s", "4.00 MB", "x.service", "1 rounds"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text lacks %q:\n%s", want, &text)
		}
	}
	var back Report
	if err := json.Unmarshal(js.Bytes(), &back); err != nil || len(back.Results) != 2 || back.Results[1].GETs != 8 {
		t.Errorf("JSON: %v %+v", err, back)
	}
}

func TestParseBound(t *testing.T) {
	b, err := parseBound([]byte(`{"working_set_bytes": 13000000, "compressed_bytes": 4000000, "pages": 3179,
		"link_sizes_are": "compressed", "links": [{"bound_seconds": 0.84, "bound_by": "link"}]}`))
	want := Bound{Seconds: 0.84, By: "link", SizesAre: "compressed", WorkingSetBytes: 13e6, CompressedBytes: 4e6, Pages: 3179}
	if err != nil || b != want {
		t.Errorf("%+v, %v", b, err)
	}
	for _, bad := range []string{"", "{}", `{"links": []}`, `{"links": [{"bound_seconds": 0}]}`} {
		if _, err := parseBound([]byte(bad)); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestOneLine(t *testing.T) {
	for _, c := range []struct{ said, want string }{
		{"short\n  enough", "short enough"},
		{"one two three four five six", "one two ... five six"},
		{"onetwothreefourfivesixseveneight", "..."},
		{"one twothreefourfivesixseveneight", "one ..."},
	} {
		if got := OneLine(errors.New(c.said), 10, 10); got != c.want {
			t.Errorf("%q: %q, want %q", c.said, got, c.want)
		}
	}
}
