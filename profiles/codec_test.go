package profiles

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"bootprof/internal/testrig"
)

var update = flag.Bool("update", false, "write the golden files and the dumps in docs/profile.md anew")

// exampleRun is the run of the worked example in docs/profile.md.
func exampleRun() *Run {
	return &Run{
		Header: Header{
			ImageSize: 10*PageSize + 100, ImageSHA256: sha256.Sum256([]byte("image")), Filesystem: "erofs",
			Method: "fuse-direct", Kernel: "6.1.0-28-amd64", Machine: "x86_64, 2 cpus, 4 GiB", End: "until",
			RecordedAt: 1732320000, Duration: 1_500_000, Command: []string{"cat", "{dir}/etc/fstab"},
		},
		Touches: []Touch{
			{At: 1000, ImageOff: 0, Len: PageSize},
			{At: 250_000, ImageOff: 4 * PageSize, Len: 2 * PageSize},
			{At: 900_000, ImageOff: 10 * PageSize, Len: 100},
		},
		Marks: []Mark{{0, "start"}, {1_400_000, "until"}, {1_500_000, "end"}},
		FileTouches: []FileTouch{
			{At: 1000, Kind: KindMeta},
			{At: 250_000, Path: "etc", Kind: KindDir, FileOff: 0, Len: 57},
			{At: 250_000, Path: "etc/fstab", Kind: KindInode},
			{At: 900_000, Path: "etc/fstab", Kind: KindData, FileOff: 4096, Len: 100},
		},
	}
}

// madeRun is a run as large as a real small boot, from a seed.
func madeRun(seed uint64, touches int) *Run {
	rng := rand.New(rand.NewPCG(seed, 1))
	run := &Run{Header: Header{
		ImageSize: 1<<30 + rng.Int64N(PageSize), ImageSHA256: sha256.Sum256([]byte{byte(seed)}), Method: "fuse-direct",
		Filesystem: "squashfs", Readahead: 128 << 10, Kernel: "6.18.0", Machine: "x86_64, 2 cpus, 24 GiB", Coarse: true,
		TimeScaled: seed%2 == 1, End: "exit 3", RecordedAt: -5, Duration: math.MaxInt64, Command: []string{"", "a\x00\xff"},
	}}
	var seen PageSet
	var at time.Duration
	for i := range touches {
		at += time.Duration(rng.ExpFloat64() * 300_000)
		off := rng.Int64N(run.Header.ImageSize/PageSize+1) * PageSize
		for _, r := range seen.Add(off, 1+rng.Int64N(32*PageSize)) {
			if r.ImageOff < run.Header.ImageSize {
				r.Len = min(r.Len, run.Header.ImageSize-r.ImageOff)
				run.Touches = append(run.Touches, Touch{at, r.ImageOff, r.Len})
			}
		}
		p := fmt.Sprintf("usr/lib/x86_64-linux-gnu/lib%d.so.%d", rng.IntN(300), i%7)
		run.FileTouches = append(run.FileTouches, FileTouch{At: at, Path: p, Kind: KindInode})
		run.FileTouches = append(run.FileTouches, FileTouch{At: at, Path: p, Kind: KindData, FileOff: rng.Int64N(1 << 20), Len: 1 + rng.Int64N(1<<17)})
	}
	run.Marks = []Mark{{0, "start"}, {at, "end"}}
	return run
}

func mustWrite(t testing.TB, run *Run) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, run); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// seal makes a profile of a payload, right in everything around it; change may damage its head.
func seal(payload []byte, change func(head []byte)) []byte {
	enc, _ := zstd.NewWriter(nil)
	frame := enc.EncodeAll(payload, nil)
	b := make([]byte, headLen)
	copy(b, magic)
	b[versionOff] = Major
	binary.LittleEndian.PutUint64(b[payloadOff:], uint64(len(payload)))
	binary.LittleEndian.PutUint64(b[frameOff:], uint64(len(frame)))
	if change != nil {
		change(b)
	}
	b = append(b, frame...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func TestRoundTrip(t *testing.T) {
	for name, run := range map[string]*Run{
		"zero":    {},
		"example": exampleRun(),
		"seed 1":  madeRun(1, 3000),
		"seed 2":  madeRun(2, 200),
		"limits": {
			Header:      Header{ImageSize: math.MaxInt64, RecordedAt: math.MinInt64, Readahead: math.MaxInt64},
			Touches:     []Touch{{math.MaxInt64, math.MaxInt64 &^ (PageSize - 1), PageSize - 1}},
			Marks:       []Mark{{math.MaxInt64, ""}},
			FileTouches: []FileTouch{{math.MaxInt64, strings.Repeat("\xff", MaxPathLen), KindDir, math.MaxInt64 - 1, 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustWrite(t, run)
			got, err := Read(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, run) {
				t.Errorf("read\n%+v\nwant\n%+v", got, run)
			}
			if again := mustWrite(t, run); !bytes.Equal(again, b) {
				t.Error("a second Write gives other bytes")
			}
		})
	}
}

// TestSize holds the format to its purpose: a boot's 3,000 touches with two file touches each.
func TestSize(t *testing.T) {
	run := madeRun(3, 3000)
	b := mustWrite(t, run)
	per := float64(len(b)) / float64(len(run.Touches)+len(run.FileTouches))
	t.Logf("%d touches and %d file touches in %d bytes, %.1f each", len(run.Touches), len(run.FileTouches), len(b), per)
	if per > 8 {
		t.Errorf("%.1f bytes for a touch, want at most 8", per)
	}
}

func TestDamage(t *testing.T) {
	b := mustWrite(t, exampleRun())
	for n := range b {
		_, err := Read(bytes.NewReader(b[:n]))
		if want := ErrCorrupt; n < len(magic) {
			want = ErrNotProfile
			if !errors.Is(err, want) {
				t.Fatalf("cut to %d bytes: %v, want %v", n, err, want)
			}
		} else if !errors.Is(err, want) {
			t.Fatalf("cut to %d bytes: %v, want %v", n, err, want)
		}
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x40
		_, err := Read(bytes.NewReader(c))
		var v *VersionError
		// A version made larger cannot be told from a newer profile.
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotProfile) && !(errors.As(err, &v) && i >= versionOff && i < featuresOff) {
			t.Fatalf("byte %d altered: %v", i, err)
		}
	}
	if _, err := Read(bytes.NewReader(append(b, 0))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
	for _, s := range []string{"", "<!DOCTYPE html>\n<html>", "BPROF\r\n\x1a"} {
		if _, err := Read(strings.NewReader(s)); !errors.Is(err, ErrNotProfile) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestVersions(t *testing.T) {
	payload, err := encodePayload(exampleRun())
	if err != nil {
		t.Fatal(err)
	}
	optional := appendSection(bytes.Clone(payload), firstOptional, []byte("later"))
	mandatory := appendSection(bytes.Clone(payload), firstOptional-1, []byte("later"))
	longer := encodeHeader(&exampleRun().Header)
	longer = appendSection(nil, secHeader, append(longer, "later"...))
	for _, c := range []struct {
		name    string
		file    []byte
		wantErr string // "" means it reads
	}{
		{"newer minor version", seal(payload, func(h []byte) { h[versionOff+2] = 9 }), ""},
		{"unknown optional section", seal(optional, nil), ""},
		{"longer header", seal(longer, nil), ""},
		{"newer major version", seal(payload, func(h []byte) { h[versionOff] = 7 }),
			"profile format 7: this bootprof reads up to 1: update bootprof"},
		{"unknown feature", seal(payload, func(h []byte) { h[featuresOff+1] = 1 }),
			"profile format 1.0 uses features 0x100, which this bootprof does not know: update bootprof"},
		{"unknown mandatory section", seal(mandatory, nil),
			"profile format 1.0 uses section 63, which this bootprof does not know: update bootprof"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run, err := Read(bytes.NewReader(c.file))
			var v *VersionError
			if c.wantErr == "" {
				if err != nil || run.Header.Kernel != exampleRun().Header.Kernel {
					t.Errorf("read %+v, %v", run, err)
				}
			} else if !errors.As(err, &v) || err.Error() != c.wantErr {
				t.Errorf("error %q, want the VersionError %q", err, c.wantErr)
			}
		})
	}
}

// TestUnknownKind: a file touch of a later kind is left out, and those after it keep their offsets.
func TestUnknownKind(t *testing.T) {
	ts := exampleRun().FileTouches
	ts[2].Kind = 9
	paths, _ := pathTable(ts)
	body := encodeFileTouches(ts, paths)
	got, err := decodeFileTouches(&reader{b: body}, paths)
	want := append(ts[:2:2], ts[3])
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

// TestHostile reads profiles with a right checksum and wrong content: each is refused, with little memory.
func TestHostile(t *testing.T) {
	uv := func(vs ...uint64) (b []byte) {
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	header := appendSection(nil, secHeader, encodeHeader(&Header{ImageSize: 1 << 20}))
	with := func(id uint64, body []byte) []byte { return appendSection(bytes.Clone(header), id, body) }
	huge := uint64(1) << 62
	for name, payload := range map[string][]byte{
		"nothing":                   {},
		"no header":                 appendSection(nil, secMarks, uv(0)),
		"short header":              appendSection(nil, secHeader, uv(5)),
		"header twice":              append(bytes.Clone(header), header...),
		"section over the end":      append(bytes.Clone(header), uv(secTouches, 99)...),
		"endless varint":            bytes.Repeat([]byte{0xff}, 99),
		"touch count":               with(secTouches, uv(huge)),
		"touch count over bytes":    with(secTouches, uv(4, 0, 0, 0)),
		"touch before the image":    with(secTouches, append(binary.AppendVarint(uv(1, 0), -1), 1)),
		"touch after the image":     with(secTouches, append(binary.AppendVarint(uv(1, 0), 256), 1)),
		"touch far after the image": with(secTouches, append(binary.AppendVarint(uv(1, 0), math.MaxInt64), 1)),
		"touch over the image":      with(secTouches, uv(1, 0, 0, huge)),
		"touch of no page":          with(secTouches, uv(1, 0, 0, 0)),
		"touches overlap":           with(secTouches, uv(2, 0, 0, 0, 1, 2, 1)),
		"times overflow":            with(secTouches, uv(2, math.MaxInt64, 1, 0, 0, 1, 1)),
		"bytes after the touches":   with(secTouches, uv(1, 0, 0, 1, 7)),
		"mark count":                with(secMarks, uv(huge)),
		"mark name":                 with(secMarks, append(uv(1, 0, 9), "ab"...)),
		"path count":                with(secPaths, uv(huge)),
		"path shares too much":      with(secPaths, append(uv(1, 1, 1), 'a')),
		"paths out of order":        with(secPaths, append(append(uv(2, 0, 1), 'b'), append(uv(0, 1), 'a')...)),
		"path twice":                with(secPaths, append(append(uv(2, 0, 1), 'b'), uv(1, 0)...)),
		"path too long":             with(secPaths, append(uv(1, 0, MaxPathLen+1), make([]byte, MaxPathLen+1)...)),
		"file touch of no path":     with(secFileTouches, uv(1, 0, 0, 0, 0, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			if run, err := Read(bytes.NewReader(seal(payload, nil))); !errors.Is(err, ErrCorrupt) {
				t.Errorf("read %+v, %v, want ErrCorrupt", run, err)
			}
		})
	}
}

// TestBombs: files of a few KB that claim or hold far more must not cost much memory.
func TestBombs(t *testing.T) {
	zeros := make([]byte, maxPayload+1)
	longPaths := binary.AppendUvarint(nil, MaxTouches)
	longPaths = append(longPaths, binary.AppendUvarint([]byte{0}, MaxPathLen-8)...)
	longPaths = append(longPaths, bytes.Repeat([]byte{'a'}, MaxPathLen-8)...)
	for i := range 1 << 17 { // each path takes 10 bytes here and 4 KiB in memory
		longPaths = binary.AppendUvarint(longPaths, MaxPathLen-8)
		longPaths = append(longPaths, 8)
		longPaths = binary.BigEndian.AppendUint64(longPaths, uint64(i)+1)
	}
	longPaths = append(longPaths, make([]byte, 2*MaxTouches)...) // lets the count pass
	header := appendSection(nil, secHeader, encodeHeader(&Header{}))
	for name, file := range map[string][]byte{
		"payload over the limit": seal(zeros, nil),
		"payload longer than its head says": seal(zeros[:maxPayload], func(h []byte) {
			binary.LittleEndian.PutUint64(h[payloadOff:], 100)
		}),
		"payload shorter than its head says": seal(zeros[:100], func(h []byte) {
			binary.LittleEndian.PutUint64(h[payloadOff:], maxPayload)
		}),
		"paths that share prefixes": seal(appendSection(header, secPaths, longPaths), nil),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Read(bytes.NewReader(file))
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 512<<20 {
				t.Errorf("a file of %d bytes took %d MiB", len(file), used>>20)
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, change := range map[string]func(*Run){
		"unsorted":             func(r *Run) { r.Touches[2].At = 0 },
		"negative time":        func(r *Run) { r.Touches[0].At = -1 },
		"unaligned":            func(r *Run) { r.Touches[1].ImageOff += 512 },
		"part of a page":       func(r *Run) { r.Touches[1].Len = 100 },
		"empty touch":          func(r *Run) { r.Touches[1].Len = 0 },
		"outside":              func(r *Run) { r.Touches[1].ImageOff = 1 << 40 },
		"overflow":             func(r *Run) { r.Touches[1].Len = math.MaxInt64 &^ (PageSize - 1) },
		"overlap":              func(r *Run) { r.Touches[1].ImageOff = 0 },
		"unsorted marks":       func(r *Run) { r.Marks[2].At = 1 },
		"unsorted files":       func(r *Run) { r.FileTouches[3].At = 0 },
		"leading slash":        func(r *Run) { r.FileTouches[1].Path = "/etc" },
		"NUL":                  func(r *Run) { r.FileTouches[1].Path = "e\x00tc" },
		"long path":            func(r *Run) { r.FileTouches[1].Path = strings.Repeat("p", MaxPathLen+1) },
		"inode with a range":   func(r *Run) { r.FileTouches[2].Len = 4 },
		"data without a range": func(r *Run) { r.FileTouches[3].Len = 0 },
		"unknown kind":         func(r *Run) { r.FileTouches[3].Kind = 9 },
		"negative size":        func(r *Run) { r.Header.ImageSize = -1 },
		"long argument":        func(r *Run) { r.Header.Command[0] = strings.Repeat("x", maxString+1) },
	} {
		t.Run(name, func(t *testing.T) {
			run := exampleRun()
			change(run)
			var b bytes.Buffer
			if err := Write(&b, run); err == nil || b.Len() != 0 {
				t.Errorf("Write wrote %d bytes, %v", b.Len(), err)
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
		})
	}
}

// TestGolden reads the profile that the first release of format 1 wrote. The file stays as it is for good; -update
// is for adding one. What Write makes today may differ from it in the zstd frame only.
func TestGolden(t *testing.T) {
	path := testrig.Testdata(t, "profiles/v1.bprof")
	want := madeRun(1, 300)
	if *update {
		if err := WriteFile(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("the golden profile reads as another run")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := decompress(b[headLen:len(b)-trailerLen], int(binary.LittleEndian.Uint64(b[payloadOff:])))
	if err != nil {
		t.Fatal(err)
	}
	now, err := encodePayload(want)
	if err != nil || !bytes.Equal(now, payload) {
		t.Errorf("the payload written today differs from the golden one (%v): a change of format needs a new version", err)
	}
}
