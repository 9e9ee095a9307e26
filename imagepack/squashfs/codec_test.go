package squashfs

import (
	"bytes"
	"compress/zlib"
	"math/rand"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

func pack(t *testing.T, comp uint16, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch comp {
	case compGzip:
		w := zlib.NewWriter(&b)
		_, err = w.Write(data)
		w.Close()
	case compZstd:
		w, _ := zstd.NewWriter(nil)
		b.Write(w.EncodeAll(data, nil))
	case compLZ4:
		out := make([]byte, lz4.CompressBlockBound(len(data)))
		var n int
		n, err = lz4.CompressBlock(data, out, nil)
		b.Write(out[:n])
	case compXZ:
		w, werr := xz.WriterConfig{DictCap: 8 << 20}.NewWriter(&b)
		if werr != nil {
			t.Fatal(werr)
		}
		_, err = w.Write(data)
		w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCodecsAreBounded unpacks blocks that are longer than they may be, by one byte and by far.
func TestCodecsAreBounded(t *testing.T) {
	long := bytes.Repeat([]byte("squashfs"), 1<<20)
	for comp, name := range compressorNames {
		if comp == 2 || comp == 3 {
			continue
		}
		r := &Reader{super: superblock{compressor: comp}}
		if err := r.openCodec(); err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, metaLen)
		for _, length := range []int{1, 100, metaLen - 1, metaLen} {
			n, err := r.codec(dst, pack(t, comp, long[:length]))
			if err != nil || !bytes.Equal(dst[:n], long[:length]) {
				t.Errorf("%s: %d bytes unpack to %d, %v", name, length, n, err)
			}
		}
		for _, length := range []int{metaLen + 1, len(long)} {
			src := pack(t, comp, long[:length])
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			n, err := r.codec(dst, src)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Errorf("%s: %d bytes in a block of %d unpack to %d without an error", name, length, metaLen, n)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
				t.Errorf("%s: refusing %d bytes took %d bytes of memory", name, length, took)
			}
		}
	}
}

// TestXZDictionary gives the decoder a stream that asks for 8 MiB.
func TestXZDictionary(t *testing.T) {
	data := make([]byte, 8000)
	rand.New(rand.NewSource(1)).Read(data[:4000])
	copy(data[4000:], data)
	src := pack(t, compXZ, data)
	dst := make([]byte, metaLen)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := unpackXZ(dst, src)
	runtime.ReadMemStats(&after)
	if err != nil || !bytes.Equal(dst[:n], data) {
		t.Errorf("unpacks to %d bytes, %v", n, err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("unpacking 8,000 bytes took %d bytes of memory", took)
	}
}

// TestCacheBound fills a cache over its limit.
func TestCacheBound(t *testing.T) {
	c := newBlockCache(1000)
	loads := 0
	get := func(i int) {
		data, err := c.get(blockKey{int64(i), 1}, func() ([]byte, error) { loads++; return make([]byte, 300), nil })
		if err != nil || len(data) != 300 {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
	}
	for i := range 10 {
		get(i)
		get(i)
		get(0) // stays, being used
	}
	if loads != 10 || c.used > 1000 || len(c.items) != c.lru.Len() || c.used != 300*len(c.items) {
		t.Errorf("%d loads, %d bytes, %d and %d blocks", loads, c.used, len(c.items), c.lru.Len())
	}
}
