package zopt

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/internal/testrig"
)

func TestRoundTrip(t *testing.T) {
	for _, in := range inputs() {
		t.Run(in.name, func(t *testing.T) {
			if len(in.data) > 100_000 {
				testrig.Slow(t)
			}
			for _, effort := range []Effort{Best, Fast} {
				out := encode(t, in.data, Options{WindowSize: 1 << 20, Effort: effort})
				if limit := len(in.data) + len(in.data)/1000 + 16; len(out) > limit {
					t.Errorf("effort %d: %d bytes became %d", effort, len(in.data), len(out))
				}
			}
		})
	}
}

// All inputs in one zstd stream: frames one after the other are a valid stream, and one process is
// quicker than hundreds.
func TestRoundTripCLI(t *testing.T) {
	testrig.Slow(t)
	options := []Options{{}, {WindowSize: 1 << 10}, {WindowSize: 33 << 10, Effort: Good}}
	var frames, want []byte
	for i, in := range inputs() {
		use := options
		if len(in.data) > 20_000 { // one of the options, another for the next input of this kind
			use = options[i%3:][:1]
		}
		for _, o := range use {
			out, err := EncodeAll(nil, in.data, o)
			if err != nil {
				t.Fatal(err)
			}
			frames = append(frames, out...)
			want = append(want, in.data...)
		}
	}
	if got := zstdCLI(t, frames, "-d"); !bytes.Equal(got, want) {
		t.Fatalf("zstd decodes %d bytes to %d, want %d equal ones", len(frames), len(got), len(want))
	}
}

func TestChunks(t *testing.T) {
	data := bytes.Join([][]byte{machineCode(120_000, 1), text(70_000, 2), randomBytes(3_000, 3), machineCode(60_000, 1), make([]byte, 200_000)}, nil)
	for _, chunks := range [][]int{
		{1 << 10, 3, 0, 1, 16 << 10, 64 << 10, 128 << 10},
		{128 << 10},
		{128<<10 + 1},
		{300_000},
		{0, 0, 5000},
		{16<<10 - 1},
	} {
		t.Run(fmt.Sprint(chunks), func(t *testing.T) {
			out := encode(t, data, Options{}, chunks...)
			if got := zstdCLI(t, out, "-d"); !bytes.Equal(got, data) {
				t.Fatal("zstd decodes it to other bytes")
			}
		})
	}
}

// Chunks of a few bytes: nearly everything is pending in the match finder.
func TestTinyChunks(t *testing.T) {
	data := append(text(3_000, 1), make([]byte, 100)...)
	for _, n := range []int{1, 2, 3, 5, 15, 16, 17, 40} {
		encode(t, data, Options{WindowSize: 4 << 10}, n)
	}
}

// With a window much smaller than the data, offsets beyond it must not occur and the buffer slides often.
// Both decoders check offsets against the declared window.
func TestSmallWindows(t *testing.T) {
	data := bytes.Join([][]byte{text(40_000, 2), repeated(20_000, 1024), repeated(20_000, 1025), repeated(20_000, 1023), machineCode(80_000, 4), text(40_000, 2)}, nil)
	for _, w := range []int{1 << 10, 1<<10 + 1, 1100, 1 << 11, 3000, 4 << 10, 5 << 10, 20_000, 32 << 10, 64 << 10} {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			if w != 1<<10 && w != 32<<10 {
				testrig.Slow(t)
			}
			for _, chunk := range []int{len(data), 10_000, 900} {
				out := encode(t, data, Options{WindowSize: w, Effort: Effort(chunk % 3)}, chunk)
				var h zstd.Header
				if err := h.Decode(out); err != nil {
					t.Fatal(err)
				}
				if h.WindowSize < uint64(w) || h.WindowSize > uint64(w+w/8+1) {
					t.Errorf("declared window %d, want %d or little more", h.WindowSize, w)
				}
				if got := zstdCLI(t, out, "-d"); !bytes.Equal(got, data) {
					t.Fatal("zstd decodes it to other bytes")
				}
			}
		})
	}
}

// Every offset and match length of the sequences is inside the exact window, declared or not.
func TestOffsetsInWindow(t *testing.T) {
	const w = 3000
	data := bytes.Join([][]byte{repeated(30_000, w), repeated(30_000, w+1), repeated(30_000, w-1), text(30_000, 1)}, nil)
	e, err := NewEncoder(Options{WindowSize: w})
	if err != nil {
		t.Fatal(err)
	}
	atWindow := 0
	for at := 0; at < len(data); at += w {
		if _, err := e.Chunk(nil, data[at:min(at+w, len(data))], false); err != nil {
			t.Fatal(err)
		}
		for _, s := range e.parser.seqs {
			if s.off == 0 || s.off > w {
				t.Fatalf("offset %d in a window of %d", s.off, w)
			}
			if s.off == w {
				atWindow++
			}
		}
	}
	if atWindow == 0 {
		t.Error("no match at exactly the window's length, though the data has many")
	}
}

// The match finder forgets its history rather than let positions overflow.
func TestRebase(t *testing.T) {
	data := machineCode(500_000, 1)
	e, err := NewEncoder(Options{WindowSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	e.finder.base = rebaseAt - 200_000
	e.finder.pending = e.finder.base
	out, err := e.Chunk(nil, data, true)
	if err != nil {
		t.Fatal(err)
	}
	if e.finder.base > 500_000 {
		t.Fatal("positions did not start again")
	}
	if got := zstdCLI(t, out, "-d"); !bytes.Equal(got, data) {
		t.Fatal("zstd decodes it to other bytes")
	}
}

func TestDeterministic(t *testing.T) {
	data := bytes.Join([][]byte{machineCode(200_000, 1), text(50_000, 1)}, nil)
	first := encode(t, data, Options{}, 100_000)
	if again := encode(t, data, Options{}, 100_000); !bytes.Equal(first, again) {
		t.Fatal("the same input gave other bytes")
	}
	// What dst held, and how much room it had, must not show either.
	one, _ := EncodeAll(nil, data, Options{})
	two, _ := EncodeAll(append(make([]byte, 0, 1<<20), "before"...), data, Options{})
	if !bytes.Equal(append([]byte("before"), one...), two) {
		t.Fatal("the output depends on dst")
	}
}

func TestErrors(t *testing.T) {
	for _, o := range []Options{{WindowSize: -1}, {WindowSize: 1023}, {WindowSize: MaxWindowSize + 1}, {Effort: 9}, {Effort: -1}} {
		if _, err := NewEncoder(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
		if _, err := EncodeAll(nil, []byte("x"), o); err == nil {
			t.Errorf("EncodeAll with %+v: no error", o)
		}
	}
	e, err := NewEncoder(Options{WindowSize: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Chunk(nil, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.Chunk(out, []byte("x"), true); !errors.Is(err, ErrClosed) || len(again) != len(out) {
		t.Errorf("a chunk after the last: %d bytes, %v; want ErrClosed and none", len(again)-len(out), err)
	}
}

// Random mixes of literals, runs and copies from all distances, above all those around the window's end.
func TestMixes(t *testing.T) {
	for seed := range uint64(60) {
		r := rng(seed)
		window := 1<<10 + r.IntN(1<<(10+r.IntN(7)))
		var data []byte
		for n := r.IntN(1 << (10 + r.IntN(9))); len(data) < n; {
			switch k := 1 + r.IntN(1<<r.IntN(14)); r.IntN(5) {
			case 0:
				data = append(data, randomBytes(k/16, r.Uint64())...)
			case 1:
				data = append(data, bytes.Repeat([]byte{byte(k)}, k)...)
			default:
				dist := 1 + r.IntN(1<<r.IntN(18))
				if r.IntN(3) == 0 {
					dist = window - 2 + r.IntN(5)
				}
				for ; k > 0 && dist <= len(data); k-- {
					data = append(data, data[len(data)-dist])
				}
			}
		}
		encode(t, data, Options{WindowSize: window, Effort: Effort(seed % 3)}, 1+r.IntN(1<<(7+r.IntN(11))))
	}
}

// A block with more sequences than a two-byte count can say.
func TestManySequences(t *testing.T) {
	for _, n := range []int{127, 128, 0x7eff, 0x7f00, 0x7f01, 43_000} {
		src := bytes.Repeat([]byte("abc"), n+1)
		seqs := []sequence{{3, 3, 3}}
		for range n - 1 {
			seqs = append(seqs, sequence{0, 3, 3})
		}
		var w blockWriter
		w.state.reps = firstReps
		out := w.append(appendFrameHeader(nil, maxBlockSize), src, seqs, true)
		dec, err := zstd.NewReader(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dec.DecodeAll(out, nil); err != nil || !bytes.Equal(got, src) {
			t.Errorf("%d sequences: decodes to %d bytes, want %d: %v", n, len(got), len(src), err)
		}
		dec.Close()
	}
}

// Run it with -fuzzminimizetime 10x: otherwise most of the time goes into making inputs smaller.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte(nil), uint16(0), uint16(0), false)
	f.Add([]byte("abracadabra abracadabra"), uint16(5), uint16(0), true)
	f.Add(text(3000, 1), uint16(700), uint16(1), false)
	f.Add(machineCode(5000, 1), uint16(4096), uint16(900), false)
	f.Add(repeated(4000, 1024), uint16(1000), uint16(0), true)
	f.Add(make([]byte, 3000), uint16(1), uint16(3), false)
	f.Fuzz(func(t *testing.T, data []byte, chunk, window uint16, fast bool) {
		o := Options{WindowSize: MinWindowSize + int(window)}
		if fast {
			o.Effort = Fast
		}
		encode(t, data, o, max(1, int(chunk), len(data)/50))
	})
}
