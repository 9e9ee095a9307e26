package bpk

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"bootprof/internal/testrig"
)

// checkX86 encodes and decodes the page at several places.
func checkX86(t *testing.T, page []byte) {
	t.Helper()
	for _, off := range []int64{0, PageSize, 0xffffe000, 1 << 32, MaxImageSize - PageSize} {
		got := bytes.Clone(page)
		EncodeX86(got, off)
		DecodeX86(got, off)
		if !bytes.Equal(got, page) {
			t.Fatalf("image offset %#x: a page does not come back: %x", off, page)
		}
	}
}

func TestX86RoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pages := map[string]func(p []byte){
		"zeros":          func([]byte) {},
		"opcodes only":   func(p []byte) { fill(p, 0xe8) },
		"all FF":         func(p []byte) { fill(p, 0xff) },
		"random":         func(p []byte) { randomFrom(r, p, nil) },
		"dense opcodes":  func(p []byte) { randomFrom(r, p, []byte{0xe8, 0xe9, 0x00, 0xff, 0x01}) },
		"overlap by one": func(p []byte) { randomFrom(r, p, []byte{0xe8, 0x00, 0xff}) },
	}
	for name, make := range pages {
		t.Run(name, func(t *testing.T) {
			for range 200 {
				p := [PageSize]byte{}
				make(p[:])
				checkX86(t, p[:])
			}
		})
	}
	t.Run("this program", func(t *testing.T) {
		exe := testrig.ReadFile(t, "/proc/self/exe")
		for off := int64(0); off+PageSize <= int64(len(exe)); off += PageSize {
			p := bytes.Clone(exe[off : off+PageSize])
			EncodeX86(p, off)
			DecodeX86(p, off)
			if !bytes.Equal(p, exe[off:off+PageSize]) {
				t.Fatalf("page at %#x does not come back", off)
			}
		}
	})
}

// Two calls of one function from different places look the same after the filter.
func TestX86MakesCallsAlike(t *testing.T) {
	page := make([]byte, PageSize)
	const target = 0x12345
	for _, at := range []int{100, 900, 3000} {
		page[at] = 0xe8
		binary.LittleEndian.PutUint32(page[at+1:], uint32(target-(8*PageSize+at+5)))
	}
	EncodeX86(page, 8*PageSize)
	for _, at := range []int{100, 900, 3000} {
		if got := binary.LittleEndian.Uint32(page[at+1:]); got != target {
			t.Errorf("call at %d: operand %#x, want the target %#x", at, got, target)
		}
	}
}

func FuzzX86(f *testing.F) {
	f.Add([]byte{0xe8, 0, 0, 0, 0xe8, 0xff, 0xff, 0, 0, 0xff}, int64(4096))
	f.Fuzz(func(t *testing.T, page []byte, off int64) {
		got := bytes.Clone(page)
		EncodeX86(got, off)
		DecodeX86(got, off)
		if !bytes.Equal(got, page) {
			t.Fatalf("%x at %d comes back as %x", page, off, got)
		}
	})
}

func fill(p []byte, c byte) {
	for i := range p {
		p[i] = c
	}
}

// randomFrom fills p with random bytes of set, or of all values if set is empty.
func randomFrom(r *rand.Rand, p, set []byte) {
	for i := range p {
		if p[i] = byte(r.Uint32()); len(set) > 0 {
			p[i] = set[int(p[i])%len(set)]
		}
	}
}
