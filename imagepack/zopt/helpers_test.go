package zopt

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/internal/testrig"
)

// An input is a named piece of test data.
type input struct {
	name string
	data []byte
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func randomBytes(n int, seed uint64) []byte {
	r := rng(seed)
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// text returns n bytes of words with roughly the frequencies of a language.
func text(n int, seed uint64) []byte {
	r := rng(seed)
	words := make([]string, 700)
	for i := range words {
		w := make([]byte, 2+r.IntN(8))
		for k := range w {
			w[k] = "etaoinshrdlucmfwypvbgkjqxz"[min(r.IntN(26), r.IntN(26))]
		}
		words[i] = string(w)
	}
	var b []byte
	for len(b) < n {
		b = append(b, words[min(r.IntN(700), r.IntN(700), r.IntN(700))]...)
		b = append(b, " .,\n"[max(0, r.IntN(12)-8)])
	}
	return b[:n]
}

// machineCode returns n bytes that resemble machine code and tables: records with fields that change slowly.
func machineCode(n int, seed uint64) []byte {
	r := rng(seed)
	var b []byte
	addr := uint32(0x401000)
	for len(b) < n {
		switch r.IntN(4) {
		case 0: // a call with a relative target
			addr += r.Uint32N(1 << 12)
			b = append(b, 0xe8, byte(addr), byte(addr>>8), byte(addr>>16), 0)
		case 1: // moves
			b = append(b, 0x48, 0x89, 0xc0|byte(r.IntN(64)))
		case 2: // a relocation
			if r.IntN(20) == 0 {
				for range r.IntN(60) {
					addr += 8
					b = append(b, byte(addr), byte(addr>>8), byte(addr>>16), 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0)
				}
			}
		case 3:
			b = append(b, make([]byte, r.IntN(4))...)
			if len(b) > 4000 && r.IntN(30) == 0 { // an earlier stretch again
				at := r.IntN(len(b) - 1000)
				b = append(b, b[at:at+r.IntN(1000)]...)
			}
		}
	}
	return b[:n]
}

// repeated returns n bytes with the given period.
func repeated(n, period int) []byte {
	p := randomBytes(period, uint64(period))
	return bytes.Repeat(p, n/period+1)[:n]
}

// fibonacci returns n bytes of the word in which every prefix recurs without a period.
func fibonacci(n int) []byte {
	a, b := []byte("a"), []byte("ab")
	for len(b) < n {
		a, b = b, append(append([]byte(nil), b...), a...)
	}
	return b[:n]
}

// skewed returns n bytes without matches to speak of and with the given number of values.
func skewed(n, values int, seed uint64) []byte {
	r := rng(seed)
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(min(r.IntN(values), r.IntN(values), r.IntN(values)))
	}
	return b
}

func inputs() []input {
	list := []input{
		{"empty", nil},
		{"one byte", []byte{7}},
		{"two bytes", []byte{7, 7}},
		{"three", []byte("abc")},
		{"mixed", bytes.Join([][]byte{text(50_000, 1), randomBytes(40_000, 2), make([]byte, 30_000), machineCode(60_000, 3), randomBytes(9, 4), text(20_000, 1)}, nil)},
		{"fibonacci", fibonacci(300_000)},
		{"two values", skewed(200_000, 2, 5)},
		{"no match at all", noMatches(2*maxBlockSize + 100)},
		{"near copies", nearCopies(200_000)},
		{"3-byte words", dictionary(150_000, 3, 1000)},
		{"300-byte words", dictionary(150_000, 300, 40)},
	}
	for _, n := range []int{2, 3, 4, 5, 7, 15, 16, 17, 31, 32, 255, 256, 1023, 1024, 1025, 4096, 16383, 16384, maxBlockSize - 1, maxBlockSize, maxBlockSize + 1, 2*maxBlockSize + 5} {
		list = append(list,
			input{fmt.Sprintf("zeros %d", n), make([]byte, n)},
			input{fmt.Sprintf("random %d", n), randomBytes(n, uint64(n))},
			input{fmt.Sprintf("text %d", n), text(n, uint64(n))},
			input{fmt.Sprintf("binary %d", n), machineCode(n, uint64(n))},
			input{fmt.Sprintf("skewed %d", n), skewed(n, 3+n%250, uint64(n))})
	}
	for _, p := range []int{1, 2, 3, 4, 5, 7, 8, 9, 63, 255, 1000, 1024, 1025, 4097, 70_000} {
		list = append(list, input{fmt.Sprintf("period %d", p), repeated(150_000, p)})
	}
	return list
}

// noMatches returns n bytes in which no three bytes recur.
func noMatches(n int) []byte {
	r := rng(8)
	seen := make([]bool, 1<<24)
	b := []byte{0, 1}
	for len(b) < n {
		c := byte(r.Uint32())
		k := int(b[len(b)-2])<<16 | int(b[len(b)-1])<<8
		for seen[k|int(c)] {
			c++
		}
		seen[k|int(c)] = true
		b = append(b, c)
	}
	return b
}

// nearCopies returns pages that differ from the one before in a byte.
func nearCopies(n int) []byte {
	r := rng(9)
	page := randomBytes(4096, 9)
	var b []byte
	for len(b) < n {
		page[r.IntN(4096)] = byte(r.Uint32())
		b = append(b, page...)
	}
	return b[:n]
}

// dictionary returns n bytes of random words of the given length.
func dictionary(n, length, words int) []byte {
	r := rng(uint64(length))
	d := randomBytes(length*words, 11)
	var b []byte
	for len(b) < n {
		at := r.IntN(words) * length
		b = append(b, d[at:at+length]...)
	}
	return b[:n]
}

// A feed hands a decoder only what has been written so far, and fails the test when asked for more.
type feed struct {
	t   testing.TB
	buf bytes.Buffer
	end bool
}

func (f *feed) Read(p []byte) (int, error) {
	if f.buf.Len() == 0 {
		if f.end {
			return 0, io.EOF
		}
		f.t.Error("the decoder needs bytes of the next chunk to output this one")
		return 0, io.ErrUnexpectedEOF
	}
	return f.buf.Read(p)
}

// encode compresses data in chunks of the given lengths, the last of which goes on to the end, and checks
// with klauspost's decoder that each chunk can be read as soon as it is written.
func encode(t testing.TB, data []byte, o Options, chunks ...int) []byte {
	t.Helper()
	enc, err := NewEncoder(o)
	if err != nil {
		t.Fatal(err)
	}
	in := &feed{t: t}
	var dec *zstd.Decoder
	var out []byte
	at := 0
	for k := 0; ; k++ {
		n := len(data) - at
		if len(chunks) > 0 {
			n = min(n, chunks[min(k, len(chunks)-1)])
		}
		last := at+n == len(data)
		mark := len(out)
		if out, err = enc.Chunk(out, data[at:at+n], last); err != nil {
			t.Fatal(err)
		}
		in.buf.Write(out[mark:])
		in.end = last
		if dec == nil {
			if dec, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<30)); err != nil {
				t.Fatal(err)
			}
			defer dec.Close()
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(dec, got); err != nil {
			t.Fatalf("decoding chunk %d [%d +%d): %v", k, at, n, err)
		}
		if !bytes.Equal(got, data[at:at+n]) {
			t.Fatalf("chunk %d [%d +%d) decodes to other bytes", k, at, n)
		}
		at += n
		if last {
			break
		}
	}
	if n, err := dec.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("after the last chunk: %d bytes, %v; want EOF", n, err)
	}
	return out
}

// zstdCLI runs the zstd program on in.
func zstdCLI(t testing.TB, in []byte, args ...string) []byte {
	t.Helper()
	return []byte(testrig.RunInput(t, string(in), "zstd", append([]string{"-q", "-c"}, args...)...))
}
