package erofs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"

	"bootprof/internal/testrig"
)

// packAll returns b compressed in each way.
func packAll(t testing.TB, b []byte) map[byte][]byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		testrig.Must(t, err)
	}
	out := map[byte][]byte{}
	dst := make([]byte, lz4.CompressBlockBound(len(b)))
	var c lz4.Compressor
	n, err := c.CompressBlock(b, dst)
	must(err)
	out[algLZ4] = dst[:n]

	var z bytes.Buffer
	l, err := lzma.WriterConfig{SizeInHeader: true, Size: int64(len(b))}.NewWriter(&z)
	must(err)
	_, err = l.Write(b)
	must(err)
	must(l.Close())
	micro := bytes.Clone(z.Bytes()[lzma.HeaderLen:])
	micro[0] = ^z.Bytes()[0]
	out[algLZMA] = micro

	z.Reset()
	f, err := flate.NewWriter(&z, 6)
	must(err)
	_, err = f.Write(b)
	must(err)
	must(f.Close())
	out[algDeflate] = bytes.Clone(z.Bytes())

	e, err := zstd.NewWriter(nil)
	must(err)
	out[algZstd] = e.EncodeAll(b, nil)
	return out
}

// stored makes an image of one pcluster.
func stored(src []byte, length int, alg byte, partial bool) (*image, *zextent) {
	n := int(alignUp(int64(len(src)), 4096))
	b := append(make([]byte, n-len(src)), src...)
	im := &image{r: bytes.NewReader(b), size: int64(n), blkBits: 12, zeroPadded: true, cache: newBlockCache(1)}
	return im, &zextent{length: int64(length), alg: alg, partial: partial, imageLen: int64(n)}
}

// TestUnpack unpacks the whole and parts of a pcluster, with all algorithms.
func TestUnpack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var text []byte
	for i := range 3000 {
		text = fmt.Appendf(text, "%d of %d\n", r.IntN(100), i)
	}
	for _, b := range [][]byte{text, bytes.Repeat([]byte("a"), 70_000), bytes.Repeat(text[:1000], 50)} {
		for alg, src := range packAll(t, b) {
			for _, n := range []int{len(b), len(b) - 1, len(b) / 2, 17, 1} {
				im, e := stored(src, n, alg, n < len(b))
				dst := make([]byte, n)
				if err := im.unpack(dst, e); err != nil || !bytes.Equal(dst, b[:n]) {
					t.Errorf("algorithm %d, %d of %d bytes: %v", alg, n, len(b), err)
				}
			}
			im, e := stored(src, len(b)+1, alg, false)
			if err := im.unpack(make([]byte, len(b)+1), e); err == nil {
				t.Errorf("algorithm %d unpacks to one more byte than it was", alg)
			}
		}
	}
	im, e := stored(nil, 1, algLZ4, false)
	im.r, e.imageLen = bytes.NewReader(make([]byte, 4096)), 4096
	if err := im.unpack(make([]byte, 1), e); err == nil {
		t.Error("a pcluster of zeros is no error")
	}
}

func FuzzUnpack(f *testing.F) {
	for alg, src := range packAll(f, bytes.Repeat([]byte("some text, some more text\n"), 300)) {
		f.Add(src, alg, uint16(7800), false)
		f.Add(src, alg, uint16(3000), true)
	}
	f.Fuzz(func(_ *testing.T, src []byte, alg byte, length uint16, partial bool) {
		if len(src) == 0 || len(src) > 1<<16 || length == 0 {
			return
		}
		im, e := stored(src, int(length), alg&3, partial)
		_ = im.unpack(make([]byte, length), e) // it must return
	})
}
