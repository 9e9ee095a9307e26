package zopt

import (
	"bytes"
	"container/heap"
	"fmt"
	"math"
	"testing"

	"github.com/klauspost/compress/fse"
	"github.com/klauspost/compress/huff0"
)

func TestLog2(t *testing.T) {
	for x := uint32(1); x != 0; x += x/1000 + 1 {
		if got, want := float64(log2(x))/bitCost, math.Log2(float64(x)); math.Abs(got-want) > 0.004 {
			t.Fatalf("log2(%d) = %.4f, want %.4f", x, got, want)
		}
		if x > 1<<31 {
			break
		}
	}
}

func TestCodes(t *testing.T) {
	for n := uint32(0); n <= maxBlockSize; n++ {
		if c := llCode(n); n < maxBlockSize && (n < llBase[c] || n-llBase[c] >= 1<<llBits[c]) {
			t.Fatalf("literal length %d has code %d: [%d +%d)", n, c, llBase[c], 1<<llBits[c])
		}
		if n < minMatch {
			continue
		}
		if c := mlCode(n); n < mlBase[c] || n-mlBase[c] >= 1<<mlBits[c] {
			t.Fatalf("match length %d has code %d: [%d +%d)", n, c, mlBase[c], 1<<mlBits[c])
		}
	}
	// The ends of the tables in RFC 8878, 3.1.1.3.2.1.1.
	if llBase[35] != 65536 || mlBase[52] != 65539 {
		t.Errorf("last codes start at %d and %d, want 65536 and 65539", llBase[35], mlBase[52])
	}
}

func TestPredefinedSums(t *testing.T) {
	for _, table := range []*fseTable{llAlphabet.predefined, mlAlphabet.predefined, ofAlphabet.predefined} {
		sum := 0
		for _, n := range table.norm {
			sum += states(n)
		}
		if sum != 1<<table.log {
			t.Errorf("distribution of %d symbols sums to %d, want %d", len(table.norm), sum, 1<<table.log)
		}
	}
}

// Repeated offsets against the table of RFC 8878, 3.1.1.5.
func TestReps(t *testing.T) {
	for _, c := range []struct {
		off     uint32
		hasLits bool
		value   uint32
		after   reps
	}{
		{10, true, 1, reps{10, 20, 30}},
		{20, true, 2, reps{20, 10, 30}},
		{30, true, 3, reps{30, 10, 20}},
		{9, true, 12, reps{9, 10, 20}},
		{20, false, 1, reps{20, 10, 30}},
		{30, false, 2, reps{30, 10, 20}},
		{9, false, 3, reps{9, 10, 20}},
		{10, false, 13, reps{10, 10, 20}},
		{77, false, 80, reps{77, 10, 20}},
	} {
		r := reps{10, 20, 30}
		v := r.value(c.off, c.hasLits)
		r.push(c.off, v, c.hasLits)
		if v != c.value || r != c.after {
			t.Errorf("offset %d, literals %v: value %d, then %v; want %d, %v", c.off, c.hasLits, v, r, c.value, c.after)
		}
	}
}

func TestFSE(t *testing.T) {
	for _, symbols := range []int{2, 3, 7, 12, 36, 53} {
		for log := uint8(5); log <= 9; log++ {
			for seed := range uint64(4) {
				t.Run(fmt.Sprintf("%d symbols, log %d, seed %d", symbols, log, seed), func(t *testing.T) {
					data := skewed(20<<(2*seed), symbols, seed)
					var hist [64]uint32
					for _, s := range data {
						hist[s]++
					}
					norm := normalise(hist[:], log)
					if norm == nil {
						if symbols <= 1<<log {
							t.Fatal("no distribution")
						}
						return
					}
					total := 0
					for s, n := range norm {
						total += states(n)
						if (n == 0) != (hist[s] == 0) {
							t.Errorf("symbol %d, %d times, has probability %d", s, hist[s], n)
						}
					}
					if total != 1<<log {
						t.Fatalf("probabilities sum to %d", total)
					}
					out := newFSETable(norm, log).appendPaired(appendNorm(nil, norm, log), data)
					got, err := fse.Decompress(out, &fse.Scratch{})
					if err != nil || !bytes.Equal(got, data) {
						t.Fatalf("%d symbols decode to %d others: %v", len(data), len(got), err)
					}
					c, ok := normCost(norm, log, hist[:])
					if coded := 8*len(out) - normBits(norm, log); !ok || math.Abs(float64(coded)-float64(c)/bitCost) > float64(30+coded/20) {
						t.Errorf("%d bits written, cost %d", coded, c/bitCost)
					}
				})
			}
		}
	}
}

func TestNormaliseLimits(t *testing.T) {
	if normalise([]uint32{0, 5, 0}, 6) != nil {
		t.Error("one symbol: no distribution that the format can say")
	}
	if normalise([]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9}, 3) != nil {
		t.Error("nine symbols do not fit in eight states")
	}
	// Far more symbols than their shares allow: the frequent one gives way.
	norm := normalise([]uint32{1 << 30, 1, 1, 1, 1, 1, 1}, 5)
	if fmt.Sprint(norm) != "[26 1 1 1 1 1 1]" {
		t.Errorf("got %v", norm)
	}
}

func TestHuffman(t *testing.T) {
	for _, in := range []input{
		{"text", text(9_000, 1)},
		{"code", machineCode(9_000, 1)},
		{"two", skewed(2_000, 2, 1)},
		{"three", skewed(300, 3, 1)},
		{"all values", append(skewed(9_000, 256, 1), randomBytes(5_000, 2)...)},
		{"high values", bytes.Map(func(r rune) rune { return r | 1<<6 }, text(5_000, 1))},
		{"128 values", skewed(9_000, 128, 3)},
		{"129 values", skewed(9_000, 129, 3)},
		{"steep", fibonacciCounts(24)},
	} {
		t.Run(in.name, func(t *testing.T) {
			var hist [256]uint32
			for _, b := range in.data {
				hist[b]++
			}
			table := newHuffTable(&hist)
			if table == nil {
				t.Fatal("no table")
			}
			s, rest, err := huff0.ReadTable(table.desc, nil)
			if err != nil || len(rest) != 0 {
				t.Fatalf("reading the description: %v, %d bytes left", err, len(rest))
			}
			for at := 0; at < len(in.data); at += 60_000 {
				part := in.data[at:min(at+60_000, len(in.data))]
				got, err := s.Decoder().Decompress1X(make([]byte, 0, len(part)), table.appendStream(nil, part))
				if err != nil || !bytes.Equal(got, part) {
					t.Fatalf("decodes to other bytes: %v", err)
				}
			}
		})
	}
}

// fibonacciCounts returns bytes whose Huffman code without a limit has n-1 bits.
func fibonacciCounts(n int) []byte {
	var b []byte
	x, y := 1, 1
	for s := range n {
		b = append(b, bytes.Repeat([]byte{byte(s)}, x)...)
		x, y = y, x+y
	}
	return b
}

// Code lengths are complete, within the limit, and as good as Huffman's where the limit does not bind.
func TestLimitedLengths(t *testing.T) {
	for seed := range uint64(60) {
		r := rng(seed)
		var hist [256]uint32
		n := 2 + r.IntN(255)
		for s := range n {
			hist[s] = 1 + uint32(math.Pow(r.Float64(), 4)*1000)
		}
		want, depth := huffmanBits(hist[:n])
		codes, found := limitedLengths(&hist)
		for _, l := range codes[:found] {
			kraft, bits, longest := 0, 0, 0
			for s, k := range l {
				if (k == 0) != (hist[s] == 0) {
					t.Fatalf("symbol %d, %d times, has a code of %d bits", s, hist[s], k)
				}
				if k > 0 {
					kraft += 1 << (maxHuffBits - k)
				}
				bits += int(hist[s]) * int(k)
				longest = max(longest, int(k))
			}
			if kraft != 1<<maxHuffBits {
				t.Fatalf("the code is not complete: %d of %d", kraft, 1<<maxHuffBits)
			}
			if bits < want || longest >= depth && bits != want {
				t.Errorf("%d symbols, up to %d bits: %d bits in all, Huffman's code has %d", n, longest, bits, want)
			}
		}
	}
}

func TestNoHuffmanTable(t *testing.T) {
	var none, one, flat [256]uint32
	one[5] = 9
	for s := range flat {
		flat[s] = 3 // all lengths are 8: neither form can say 255 equal weights
	}
	for _, hist := range [][256]uint32{none, one, flat} {
		if table := newHuffTable(&hist); table != nil {
			t.Errorf("%d literals: a table described by % x", hist[5], table.desc)
		}
	}
}

type countHeap [][2]int // count, depth

func (h countHeap) Len() int { return len(h) }
func (h countHeap) Less(i, j int) bool {
	return h[i][0] < h[j][0] || h[i][0] == h[j][0] && h[i][1] < h[j][1]
}
func (h countHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *countHeap) Push(x any)   { *h = append(*h, x.([2]int)) }
func (h *countHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// huffmanBits returns the bits that Huffman's algorithm gets by and the depth of its shallowest tree.
func huffmanBits(counts []uint32) (bits, depth int) {
	h := new(countHeap)
	for _, c := range counts {
		heap.Push(h, [2]int{int(c), 0})
	}
	for h.Len() > 1 {
		a, b := heap.Pop(h).([2]int), heap.Pop(h).([2]int)
		bits += a[0] + b[0]
		heap.Push(h, [2]int{a[0] + b[0], max(a[1], b[1]) + 1})
	}
	return bits, (*h)[0][1]
}
