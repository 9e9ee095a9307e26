package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand"
	"testing"

	"github.com/ulikunitz/xz"

	"bootprof/internal/testrig"
)

// xzBytes packs data with the xz program.
func xzBytes(t testing.TB, data []byte, args ...string) []byte {
	t.Helper()
	return []byte(testrig.RunInput(t, string(data), "xz", append([]string{"--check=crc32", "-c"}, args...)...))
}

// xzStream makes the begin of a stream without a checksum out of the filters' flags and what is behind the
// header of its block. The checksums of both headers are right, so that a fuzzer gets behind them.
func xzStream(filters, rest []byte) []byte {
	flags := []byte{0, 0}
	out := append([]byte("\xfd7zXZ\x00"), flags...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(flags))
	h := append([]byte{0}, filters...) // the first of them is the number of filters and what sizes are stored
	for len(h)%4 != 0 {
		h = append(h, 0)
	}
	h[0] = byte(len(h) / 4)
	out = append(out, h...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(h))
	return append(out, rest...)
}

// TestXZStreamAfterBadOne uses a decoder again after each way of being damaged.
func TestXZStreamAfterBadOne(t *testing.T) {
	c := xzCodec()
	dst := make([]byte, metaLen)
	good := pack(t, compXZ, []byte("text"))
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if n, err := c(dst, bad); err == nil && string(dst[:n]) != "text" {
			t.Errorf("byte %d changed: unpacks to %q", i, dst[:n])
		}
		if n, err := c(dst, good); err != nil || string(dst[:n]) != "text" {
			t.Fatalf("after byte %d was changed, the good stream unpacks to %q, %v", i, dst[:n], err)
		}
		if _, err := c(dst, good[:i]); err == nil {
			t.Errorf("%d of %d bytes: no error", i, len(good))
		}
	}
}

// TestARM64 unpacks what the xz program packs: calls and page addresses of one target, near ones and far ones, and
// noise.
func TestARM64(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	var code []byte
	for pc := uint32(0); pc < 1<<18; pc += 4 {
		word := rng.Uint32()
		switch rng.Intn(4) {
		case 0:
			word = 0x94000000 | (0x400000-pc)>>2&0x03ffffff
		case 1:
			word = 0x90000000 | word&0x60ffffff // any page
		case 2:
			page := (0x40000000 - pc) >> 12 >> rng.Intn(20) * uint32(1-2*rng.Intn(2)) // near, on both sides
			word = 0x90000000 | page&3<<29 | page>>2&0x7ffff<<5
		}
		code = binary.LittleEndian.AppendUint32(code, word)
	}
	c := xzCodec()
	for _, args := range [][]string{
		{"--arm64", "--lzma2=preset=1,dict=1MiB"},
		{"--arm64", "--lzma2=preset=1,dict=16MiB", "--check=crc64"},
		{"--arm64=start=65536", "--lzma2=preset=1", "--check=none"},
	} {
		for _, length := range []int{len(code), 10_003, 3, 4} {
			src := xzBytes(t, code[:length], args...)
			dst := make([]byte, length)
			if n, err := c(dst, src); err != nil || n != length || !bytes.Equal(dst, code[:length]) {
				t.Errorf("%q: %d bytes unpack to %d, %v", args, length, n, err)
			}
			if _, err := c(dst[:length-1], src); err == nil {
				t.Errorf("%q: %d bytes fit into a block of %d", args, length, length-1)
			}
		}
	}
	src := xzBytes(t, code[:100], "--arm64", "--lzma2=preset=1")
	dst := make([]byte, 100)
	for i := range src {
		bad := bytes.Clone(src)
		bad[i] ^= 1
		if n, err := c(dst, bad); err == nil && !bytes.Equal(dst[:n], code[:100]) {
			t.Errorf("byte %d of %d changed: unpacks to other bytes", i, len(src))
		}
		if n, err := c(dst, src[:i]); err == nil && !bytes.Equal(dst[:n], code[:100]) {
			t.Errorf("%d of %d bytes: unpacks to %d bytes", i, len(src), n)
		}
	}
	_, err := c(dst, xzBytes(t, code[:100], "--delta=dist=1", "--arm64", "--lzma2=preset=1"))
	var ue *UnsupportedError
	if !errors.As(err, &ue) {
		t.Errorf("two filters: %v, want an UnsupportedError", err)
	}
}

// FuzzXZBlock unpacks blocks with arbitrary filters and content into 8 KiB. What the other decoder, which has
// no filters but LZMA2, makes of a whole stream is the same.
func FuzzXZBlock(f *testing.F) {
	data := bytes.Repeat([]byte("squashfs \xe8\x01\x02\x03\x00"), 100)
	for _, filter := range []string{"--x86", "--powerpc", "--ia64", "--arm", "--armthumb", "--sparc", "--arm64", "--delta=dist=3"} {
		b := xzBytes(f, data, filter, "--lzma2=preset=1,dict=4KiB")
		end := 12 + 4*(int(b[12])+1)
		f.Add(b[13:end-4], b[end:])
	}
	c := xzCodec()
	f.Fuzz(func(t *testing.T, filters, rest []byte) {
		if len(filters) < 1 || len(filters) > 1000 {
			return
		}
		src := xzStream(filters, rest)
		dst := make([]byte, metaLen)
		n, err := c(dst, src)
		if err != nil {
			return
		}
		z, err := xz.ReaderConfig{DictCap: 4096, SingleStream: true}.NewReader(bytes.NewReader(src))
		if err != nil {
			return
		}
		other := make([]byte, metaLen)
		if m, err := readAllInto(other, z); err == nil && !bytes.Equal(dst[:n], other[:m]) {
			t.Errorf("unpacks to %d bytes, the other decoder gives %d", n, m)
		}
	})
}
