package squashfs

import (
	"bytes"
	"compress/zlib"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"bootprof/internal/testrig"
)

func pack(t testing.TB, comp uint16, data []byte) []byte {
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
	case compLZO:
		b.Write(packLZO(data))
	case compXZ:
		w, werr := xz.WriterConfig{DictCap: 1 << 20}.NewWriter(&b)
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
		if comp == compLZMA {
			continue
		}
		r := &Reader{super: superblock{compressor: comp}}
		testrig.Must(t, r.openCodec())
		dst := make([]byte, metaLen)
		for _, length := range []int{1, 100, metaLen - 1, metaLen} {
			n, err := r.codec(dst, pack(t, comp, long[:length]))
			if err != nil || !bytes.Equal(dst[:n], long[:length]) {
				t.Errorf("%s: %d bytes unpack to %d, %v", name, length, n, err)
			}
			src := pack(t, comp, long[:length])
			if n, err := r.codec(dst, src[:len(src)-1]); err == nil && comp != compLZ4 { // lz4 has no mark of the end
				t.Errorf("%s: %d bytes, cut short by one stored byte, unpack to %d", name, length, n)
			}
		}
		for _, length := range []int{metaLen + 1, len(long)} {
			src := pack(t, comp, long[:length])
			var n int
			var err error
			took := testrig.Allocated(func() { n, err = r.codec(dst, src) })
			if err == nil {
				t.Errorf("%s: %d bytes in a block of %d unpack to %d without an error", name, length, metaLen, n)
			}
			if took > 4<<20 {
				t.Errorf("%s: refusing %d bytes took %d bytes of memory", name, length, took)
			}
		}
	}
}

// packLZO makes an LZO1X stream of data that repeats its first eight bytes: a run of literals, one match and
// the end.
func packLZO(data []byte) []byte {
	head := data[:min(8, len(data))]
	out := append([]byte{17 + byte(len(head))}, head...)
	if n := len(data) - len(head); n > 0 {
		if len(head) < 4 || n < 34 {
			return append(append([]byte{17 + byte(len(data))}, data...), 0x11, 0, 0)
		}
		out = append(out, 0x20)
		for n -= 34; n > 255; n -= 255 {
			out = append(out, 0)
		}
		out = append(out, byte(n+1), (8-1)<<2, 0)
	}
	return append(out, 0x11, 0, 0)
}

// TestXZDictionary gives the decoder a stream that asks for 8 MiB, which no block needs.
func TestXZDictionary(t *testing.T) {
	var b bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 8 << 20}.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("text"))
	w.Close()
	took := testrig.Allocated(func() { _, err = xzCodec()(make([]byte, metaLen), b.Bytes()) })
	const want = "squashfs compressed with xz and a dictionary of more than 1048576 bytes: not supported"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if took > 1<<20 {
		t.Errorf("refusing the block took %d bytes of memory", took)
	}
}

// FuzzCodecs unpacks arbitrary bytes with each codec into a block of 8 KiB. Nothing may be written behind it.
func FuzzCodecs(f *testing.F) {
	data := bytes.Repeat([]byte("squashfs"), 100)
	codecs := map[uint16]codec{}
	for comp := range compressorNames {
		r := &Reader{super: superblock{compressor: comp}}
		if comp == compLZMA || r.openCodec() != nil {
			continue
		}
		codecs[comp] = r.codec
		f.Add(comp, pack(f, comp, data))
	}
	for _, filter := range []string{"--x86", "--powerpc", "--ia64", "--arm", "--armthumb", "--sparc", "--delta=dist=3"} {
		f.Add(uint16(compXZ), xzBytes(f, data, filter, "--lzma2=preset=1,dict=4KiB"))
	}
	f.Fuzz(func(t *testing.T, comp uint16, src []byte) {
		c := codecs[comp%(compZstd+1)]
		if c == nil || len(src) > 1<<16 {
			return
		}
		buf := bytes.Repeat([]byte{0xa5}, metaLen+64)
		n, err := c(buf[:metaLen], src)
		if err == nil && (n < 0 || n > metaLen) {
			t.Errorf("%d bytes in a block of %d", n, metaLen)
		}
		for i, b := range buf[metaLen:] {
			if b != 0xa5 {
				t.Fatalf("written at %d behind the block", i)
			}
		}
	})
}
