package zopt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// pages returns size bytes of random runs of 1 to 16 pages of the files, as a boot touches them.
func pages(files []string, size int) []byte {
	r := rng(3)
	var out []byte
	for tries := 0; len(out) < size && tries < 100_000 && len(files) > 0; tries++ {
		f, err := os.Open(files[r.IntN(len(files))])
		if err != nil {
			continue
		}
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() > 1<<16 {
			buf := make([]byte, (1+r.IntN(16))*4096)
			n, _ := f.ReadAt(buf, r.Int64N(st.Size()/4096)*4096)
			out = append(out, buf[:n]...)
		}
		f.Close()
	}
	return out[:min(len(out), size)]
}

// corpora are made from what the machine has.
func corpora(size int) []input {
	var list []input
	if self, err := os.Executable(); err == nil {
		list = append(list, input{"own program", pages([]string{self}, size)})
	}
	for name, pattern := range map[string]string{"/usr/bin": "/usr/bin/*", "libraries": "/usr/lib/*/*.so*"} {
		files, _ := filepath.Glob(pattern)
		list = append(list, input{name, pages(files, size)})
	}
	var source []byte
	if root, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		names, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(root)), "src/go/*/*.go"))
		for _, name := range names {
			b, _ := os.ReadFile(name)
			source = append(source, b...)
		}
	}
	list = append(list, input{"source", source[:min(len(source), size)]})
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list
}

// With flush points every 128 KiB the output is not larger than that of zstd -19 without any, give or
// take a percent; Good is allowed three, Fast ten.
func TestRatio(t *testing.T) {
	testrig.Slow(t)
	for _, in := range corpora(1 << 19) {
		if len(in.data) < 200_000 {
			t.Logf("%s: not enough data here", in.name)
			continue
		}
		t.Run(in.name, func(t *testing.T) {
			want := len(zstdCLI(t, in.data, "-19"))
			for effort, limit := range map[Effort]float64{Best: 1.01, Good: 1.03, Fast: 1.10} {
				got := len(encode(t, in.data, Options{Effort: effort}, 128<<10))
				ratio := float64(got) / float64(want)
				t.Logf("effort %d: %d bytes to %d, %.4f x zstd -19", effort, len(in.data), got, ratio)
				if ratio > limit {
					t.Errorf("effort %d: %d bytes, zstd -19 needs %d: %.4f x, want <= %.2f", effort, got, want, ratio, limit)
				}
			}
		})
	}
}

// Data that takes a naive match finder or parser forever takes at most ten times the processor time of text.
func TestWorstCases(t *testing.T) {
	testrig.Slow(t)
	const size = 1 << 19
	spent := func(data []byte) time.Duration {
		before := processorTime(t)
		encode(t, data, Options{WindowSize: size}, 128<<10)
		return processorTime(t) - before
	}
	control := spent(text(size, 1))
	for _, in := range []input{
		{"zeros", make([]byte, size)},
		{"period 3000", repeated(size, 3000)},
		{"fibonacci", fibonacci(size)},
		{"near copies", nearCopies(size)},
		{"two values", skewed(size, 2, 1)},
	} {
		d := spent(in.data)
		t.Logf("%s: %v, text %v", in.name, d, control)
		if d > 10*control {
			t.Errorf("%s: %d KiB took %v, text %v", in.name, size>>10, d, control)
		}
	}
}

// processorTime is how long this process has computed.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	testrig.Must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEncode reports the ratio, too. Set ZOPT_BENCH to a file to measure that instead of pages of
// /usr/bin.
func BenchmarkEncode(b *testing.B) {
	files, _ := filepath.Glob("/usr/bin/*")
	data := pages(files, 4<<20)
	if name := os.Getenv("ZOPT_BENCH"); name != "" {
		var err error
		if data, err = os.ReadFile(name); err != nil {
			b.Fatal(err)
		}
	}
	for _, effort := range []Effort{Best, Good, Fast} {
		b.Run(fmt.Sprint(effort), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				e, err := NewEncoder(Options{Effort: effort})
				if err != nil {
					b.Fatal(err)
				}
				total := 0
				var out []byte
				for at := 0; at < len(data); at += 128 << 10 {
					end := min(at+128<<10, len(data))
					if out, err = e.Chunk(out[:0], data[at:end], end == len(data)); err != nil {
						b.Fatal(err)
					}
					total += len(out)
				}
				b.ReportMetric(float64(total), "bytes")
			}
		})
	}
}
