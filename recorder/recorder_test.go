package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// sh is a command that runs a script whose $1, $2, $3 are the placeholders asked for.
func sh(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

func TestExactPages(t *testing.T) {
	for _, c := range []struct {
		name string
		cmd  []string
		want []int64
	}{
		{"pages of the file", []string{"dd", "if={}", "of=/dev/null", "bs=4096", "skip=10", "count=3"}, []int64{10, 11, 12}},
		{"one large read", []string{"dd", "if={}", "of=/dev/null", "bs=1M", "skip=1", "count=1", "iflag=fullblock"}, seq(256, 512)},
		{"a part of a page", []string{"dd", "if={}", "of=/dev/null", "bs=512", "skip=85", "count=2"}, []int64{10}},
		{"over a page border", []string{"dd", "if={}", "of=/dev/null", "bs=1000", "skip=12", "count=1"}, []int64{2, 3}},
		{"the short last page", []string{"tail", "-c", "50", "{}"}, []int64{768}},
		{"pages of the device", []string{"dd", "if={dev}", "of=/dev/null", "bs=4096", "skip=100", "count=2"}, []int64{100, 101}},
		{"in order, once each", sh(`for s in 7 3 7 5 3; do dd if=$1 of=/dev/null bs=4096 count=1 skip=$s; done`, "{}"), []int64{3, 5, 7}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _ := randomImage(t, 3<<20+100)
			o.Command = c.cmd
			run := mustRecord(t, o)
			wantPages(t, run, c.want...)
			wantEnd(t, run, "exit 0", "start end")
			if c.name == "in order, once each" {
				var order []int64
				for _, x := range run.Touches {
					order = append(order, x.ImageOff/page)
				}
				if fmt.Sprint(order) != "[7 3 5]" {
					t.Errorf("touched in the order %v", order)
				}
			}
		})
	}
}

func seq(from, to int64) (out []int64) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// TestSameBytes: what the command reads is the image, at both levels, and the run holds every page once.
func TestSameBytes(t *testing.T) {
	o, image := randomImage(t, 5<<20)
	var out bytes.Buffer
	o.Stdout = &out
	o.Command = sh(`sha256sum <$1; sha256sum <$2`, "{}", "{dev}")
	run := mustRecord(t, o)
	want := fmt.Sprintf("%x", sum(image))
	if strings.Count(out.String(), want) != 2 {
		t.Errorf("the command read\n%swant %s twice", out.String(), want)
	}
	wantPages(t, run, seq(0, 5<<20/page)...)
}

func TestHeader(t *testing.T) {
	o, image := randomImage(t, 1<<20)
	o.Command = []string{"cat", "{}"}
	o.Coarse = true
	before := time.Now()
	run := mustRecord(t, o)
	h := run.Header
	kernel, arch := testrig.Run(t, "uname", "-r"), testrig.Run(t, "uname", "-m")
	if h.ImageSHA256 != sum(image) || h.ImageSize != 1<<20 || h.Method != "fuse-direct" || h.Readahead != 0 ||
		h.Kernel != strings.TrimSpace(kernel) || !h.Coarse || h.Filesystem != "" || len(h.Command) != 2 || h.Command[1] != "{}" {
		t.Errorf("header %+v", h)
	}
	if want := fmt.Sprintf("%s, %d cpus, ", strings.TrimSpace(arch), runtime.NumCPU()); !strings.HasPrefix(h.Machine, want) {
		t.Errorf("machine %q, want %q...", h.Machine, want)
	}
	if h.RecordedAt < before.Unix() || h.Duration <= 0 || h.Duration > int64(time.Since(before)) {
		t.Errorf("recorded at %d for %d ns", h.RecordedAt, h.Duration)
	}
	last := run.Touches[len(run.Touches)-1]
	if end := run.Marks[len(run.Marks)-1]; end.At != time.Duration(h.Duration) || last.At > end.At {
		t.Errorf("ends at %v, last touch at %v, duration %d", end.At, last.At, h.Duration)
	}
	o.SHA256 = [32]byte{1} // is believed
	if run := mustRecord(t, o); run.Header.ImageSHA256 != o.SHA256 {
		t.Error("a given SHA-256 was not kept")
	}
}

// TestChildFds: the command must not inherit the FUSE connection or any file of the recorder.
func TestChildFds(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	var out bytes.Buffer
	o.Stdout = &out
	o.Command = sh(`head -c 1 $2 >/dev/null; exec ls -l /proc/self/fd`, "{}", "{dev}")
	mustRecord(t, o)
	for _, bad := range []string{"/dev/fuse", "/dev/loop", "bootprof-record"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("the command has %s open:\n%s", bad, out.String())
		}
	}
}

// TestAtOnce records two images at the same time.
func TestAtOnce(t *testing.T) {
	testrig.NeedMounts(t)
	var wg sync.WaitGroup
	for i := range 3 {
		o, _ := randomImage(t, 2<<20)
		o.TempDir = t.TempDir()
		o.Command = []string{"dd", "if={dev}", "of=/dev/null", "bs=4096", "count=1", "skip=" + strconv.Itoa(i)}
		wg.Go(func() {
			run, err := Record(t.Context(), o)
			if err != nil {
				t.Error(err)
				return
			}
			wantPages(t, run, int64(i))
			assertNothingLeft(t, o.TempDir)
		})
	}
	wg.Wait()
}

// A brokenImage fails from an offset on, by an error or a panic.
type brokenImage struct {
	io.ReaderAt
	from   int64
	panics bool
}

func (b brokenImage) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.from {
		if b.panics {
			panic("broken image")
		}
		return 0, errors.New("broken image")
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestBrokenImage: the command sees an I/O error, the caller is told why and gets what was read before.
func TestBrokenImage(t *testing.T) {
	for _, panics := range []bool{false, true} {
		t.Run(fmt.Sprintf("panics %v", panics), func(t *testing.T) {
			o, image := randomImage(t, 1<<20)
			o.Image, o.SHA256 = brokenImage{o.Image, 20 * page, panics}, sum(image)
			o.Command = sh(`dd if=$1 of=/dev/null bs=4096 skip=18 count=9; test $? = 1`, "{}")
			run, err := record(t, t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), "broken image") {
				t.Errorf("error %v, want the image's", err)
			}
			if got := fmt.Sprint(pages(run)); !strings.HasPrefix(got, "[18 19") {
				t.Errorf("touched %s", got)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	o.Command = []string{"true", "{}"}
	exists := t.TempDir()
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no image", func(o *Options) { o.Image = nil }, "image"},
		{"no size", func(o *Options) { o.Size = 0 }, "image"},
		{"no command", func(o *Options) { o.Command = nil }, "command"},
		{"negative duration", func(o *Options) { o.Duration = -1 }, "negative"},
		{"size too large", func(o *Options) { o.Size++ }, strconv.Itoa(1<<20 + 1)},
		{"until-file is there", func(o *Options) { o.UntilFile = exists }, exists},
		{"no file system", func(o *Options) { o.Command = []string{"ls", "{dir}"} }, "{dir}"},
		{"not that file system", func(o *Options) { o.Command, o.Filesystem = []string{"ls", "{dir}"}, "erofs" }, "erofs"},
		{"no such file system", func(o *Options) { o.Command, o.Filesystem = []string{"ls", "{dir}"}, "nosuchfs" }, "nosuchfs"},
		{"no such program", func(o *Options) { o.Command = []string{"no-such-program", "{}"} }, "no-such-program"},
		{"no temporary directory", func(o *Options) { o.TempDir = exists + "/none" }, exists},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := o
			o.TempDir = t.TempDir()
			c.change(&o)
			run, err := Record(t.Context(), o)
			if run != nil || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("run %v, error %v, want one line with %q", run, err, c.want)
			}
			if c.name != "no temporary directory" {
				assertNothingLeft(t, o.TempDir)
			}
		})
	}
}

// TestMachineClass: the form that analyze compares.
func TestMachineClass(t *testing.T) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		t.Fatal(err)
	}
	got := machineClass(2)
	var arch string
	var gib int
	if n, err := fmt.Sscanf(got, "%s 2 cpus, %d GiB", &arch, &gib); n != 2 || err != nil {
		t.Errorf("machine class %q: %v", got, err)
	}
	if availableMemory() <= 0 || availableMemory() > int64(si.Totalram)*int64(si.Unit) {
		t.Errorf("available memory %d of %d", availableMemory(), si.Totalram)
	}
}
