package ext4

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// failing is a ReaderAt that returns an error now and then.
type failing struct {
	b   []byte
	rnd *rand.Rand
}

var errDisk = errors.New("disk on fire")

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.rnd.IntN(50) == 0 {
		return 0, errDisk
	}
	return bytes.NewReader(f.b).ReadAt(p, off)
}

// TestCachedReader reads more than the cache holds, from an image whose length is not one of whole pieces.
func TestCachedReader(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, cachePiece*(cachePieces+300)+1024)
	for i := 0; i < len(b); i += 8 {
		le.PutUint64(b[i:], rnd.Uint64())
	}
	c := newCachedReader(&Reader{r: &failing{b, rnd}, info: Info{BytesUsed: int64(len(b))}})
	failed := 0
	for range 20_000 {
		off := rnd.Int64N(int64(len(b)))
		p := make([]byte, min(1+rnd.Int64N(1<<rnd.IntN(17)), int64(len(b))-off))
		err := c.read(p, off)
		switch {
		case errors.Is(err, errDisk) && strings.Contains(err.Error(), "reading the ext4 image at ["):
			failed++
		case err != nil:
			t.Fatal(err)
		case !bytes.Equal(p, b[off:off+int64(len(p))]):
			t.Fatalf("[%d +%d) is wrong", off, len(p))
		}
		if len(c.pieces) > cachePieces || len(c.pieces) != len(c.order) {
			t.Fatalf("%d pieces, %d in order", len(c.pieces), len(c.order))
		}
	}
	if failed == 0 {
		t.Error("no read did fail")
	}
	var ce *CorruptError
	for _, off := range []int64{-1, int64(len(b)) - 9, int64(len(b)), 1 << 62} {
		if err := c.read(make([]byte, 10), off); !errors.As(err, &ce) {
			t.Errorf("reading at %d: %v, want a CorruptError", off, err)
		}
	}
}

// TestCachedReaderEvicts reads in order, without errors, so that the ring goes round twice.
func TestCachedReaderEvicts(t *testing.T) {
	b := make([]byte, cachePiece*(cachePieces*2+10)+1024)
	for i := 0; i < len(b); i += 1024 {
		le.PutUint32(b[i:], uint32(i))
	}
	c := newCachedReader(&Reader{r: bytes.NewReader(b), info: Info{BytesUsed: int64(len(b))}})
	for range 2 {
		for off := 0; off < len(b); off += 1024 {
			p := make([]byte, 4)
			if err := c.read(p, int64(off)); err != nil || le.Uint32(p) != uint32(off) {
				t.Fatalf("at %d: %x, %v", off, p, err)
			}
		}
	}
	if len(c.pieces) != cachePieces {
		t.Errorf("%d pieces are kept, want %d", len(c.pieces), cachePieces)
	}
}

// TestBitmap compares with a list of booleans.
func TestBitmap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		n := 1 + rnd.Int64N(400)
		m, plain := newBitmap(n), make([]bool, n)
		for range 6 {
			first := rnd.Int64N(n)
			count := rnd.Int64N(n - first + 1)
			want := int64(-1)
			for i := first; i < first+count; i++ {
				if plain[i] && want < 0 {
					want = i
				}
				plain[i] = true
			}
			if got := m.take(first, count); got != want {
				t.Fatalf("taking [%d +%d): %d was there, want %d", first, count, got, want)
			}
		}
		listed := make([]bool, n)
		end := int64(-1)
		m.ranges(n, func(first, count int64) {
			if first <= end || count <= 0 {
				t.Fatalf("range [%d +%d) after %d", first, count, end)
			}
			end = first + count
			for i := first; i < end; i++ {
				listed[i] = true
			}
		})
		if !slices.Equal(listed, plain) {
			t.Fatalf("ranges of %v are %v", plain, listed)
		}
	}
}
