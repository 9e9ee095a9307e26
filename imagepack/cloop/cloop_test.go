package cloop_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bootprof/imagepack/cloop"
	"bootprof/internal/testrig"
)

const preambleV2 = "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n"

// makeImage packs data as create_compressed_fs does: the last block is padded with zeros if pad is set.
func makeImage(t testing.TB, data []byte, blockSize int, level int, pad bool) []byte {
	t.Helper()
	var blocks [][]byte
	for len(data) > 0 {
		block := data[:min(blockSize, len(data))]
		data = data[len(block):]
		if pad {
			block = append(bytes.Clone(block), make([]byte, blockSize-len(block))...)
		}
		var b bytes.Buffer
		w, err := zlib.NewWriterLevel(&b, level)
		testrig.Must(t, err)
		w.Write(block)
		w.Close()
		blocks = append(blocks, b.Bytes())
	}
	out := append([]byte(preambleV2), make([]byte, 128-len(preambleV2))...)
	out = binary.BigEndian.AppendUint32(out, uint32(blockSize))
	out = binary.BigEndian.AppendUint32(out, uint32(len(blocks)))
	off := uint64(136 + 8*(len(blocks)+1))
	for _, b := range blocks {
		out = binary.BigEndian.AppendUint64(out, off)
		off += uint64(len(b))
	}
	out = binary.BigEndian.AppendUint64(out, off)
	return append(out, bytes.Join(blocks, nil)...)
}

// mixed returns n bytes of text, noise and zeros.
func mixed(n int) []byte {
	rng := rand.New(rand.NewSource(1))
	var out []byte
	for len(out) < n {
		part := make([]byte, rng.Intn(100_000))
		switch rng.Intn(3) {
		case 0:
			rng.Read(part)
		case 1:
			part = bytes.Repeat(fmt.Appendf(nil, "text %d\n", rng.Intn(1000)), 1+len(part)/10)
		}
		out = append(out, part...)
	}
	return out[:n]
}

func open(t testing.TB, b []byte) *cloop.Reader {
	t.Helper()
	if !cloop.Probe(bytes.NewReader(b)) {
		t.Fatal("Probe does not know the image")
	}
	r, err := cloop.Open(bytes.NewReader(b), int64(len(b)))
	testrig.Must(t, err)
	return r
}

// TestDeviceIsWhatQEMUShows compares whole devices with what qemu-img converts them to.
func TestDeviceIsWhatQEMUShows(t *testing.T) {
	testrig.NeedProgram(t, "qemu-img")
	for _, c := range []struct{ size, blockSize, level int }{
		{1, 512, 9},
		{512, 512, 9},
		{300_000, 512, 9},
		{1_000_001, 4096, 1},
		{3_000_000, 65536, 9},
		{3_000_000, 65536, 0}, // blocks longer than what they unpack to
		{65536, 65536, 9},
		{2_000_000, 1536, 6},
		{5_000_000, 2 << 20, 6},
	} {
		t.Run(fmt.Sprintf("%d in %d level %d", c.size, c.blockSize, c.level), func(t *testing.T) {
			image := makeImage(t, mixed(c.size), c.blockSize, c.level, true)
			dir := testrig.MemoryDir(t)
			in, out := filepath.Join(dir, "image"), filepath.Join(dir, "raw")
			testrig.WriteFile(t, in, image)
			testrig.Run(t, "qemu-img", "convert", "-f", "cloop", "-O", "raw", in, out)
			want := testrig.ReadFile(t, out)
			r := open(t, image)
			got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v; qemu-img gives %d", len(got), err, len(want))
			}
			if r.BlockSize() != c.blockSize || r.Size() != int64(len(want)) {
				t.Errorf("%d bytes in blocks of %d", r.Size(), r.BlockSize())
			}
		})
	}
}

// TestReadAtAnywhere compares reads of all positions and lengths around block borders, with the last block
// stored short.
func TestReadAtAnywhere(t *testing.T) {
	data := mixed(3*1024 + 100)
	r := open(t, makeImage(t, data, 1024, 9, false))
	data = append(data, make([]byte, 4*1024-len(data))...)
	edges := []int{0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 3071, 3072, 3172, 3173, 4095, 4096, 4097, 9999}
	for _, off := range edges {
		for _, end := range edges {
			if end < off {
				continue
			}
			p := make([]byte, end-off)
			n, err := r.ReadAt(p, int64(off))
			want := data[min(off, len(data)):min(end, len(data))]
			if !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p) || off >= len(data)) || err != nil && err != io.EOF {
				t.Fatalf("[%d .. %d): %d bytes, %v", off, end, n, err)
			}
		}
	}
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("a negative offset: %v", err)
	}
}

// TestConcurrentReads reads small pieces all over a device that is larger than the cache.
func TestConcurrentReads(t *testing.T) {
	data := mixed(20 << 20)
	r := open(t, makeImage(t, data, 64<<10, 1, true))
	var wg sync.WaitGroup
	for seed := range int64(8) {
		wg.Go(func() {
			rng := rand.New(rand.NewSource(seed))
			p := make([]byte, 100_000)
			for range 300 {
				off := rng.Intn(len(data))
				p := p[:1+rng.Intn(min(len(p), len(data)-off))]
				if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
					t.Errorf("[%d +%d): %v or other bytes", off, len(p), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestOtherVersions are refused in one line each; scripts that are no images are not known at all.
func TestOtherVersions(t *testing.T) {
	good := makeImage(t, mixed(1000), 512, 9, true)
	for preamble, want := range map[string]string{
		"#!/bin/sh\n#V1.0 Format\ninsmod cloop.o file=$0 && mount -r -t iso9660 /dev/cloop $1\n": "cloop version 1.0: not supported",
		"#!/bin/sh\n#V3.0 Format\nexit $?\n":                                                     "cloop version 3.0: not supported",
		"#!/bin/sh\n#V4.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n": "cloop version 4.0: not supported",
		"#!/bin/sh\ninsmod cloop.o file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n":      "cloop version 0 (no version in the preamble): not supported",
		"#!/bin/sh\n#V2.00 Format\n":                                                             "",
		"#!/bin/sh\n# V2.0 of a script\n":                                                        "none",
		"#!/bin/sh\n#V2.x Format\n":                                                              "none",
		"#!/bin/sh\n#L3.0\n":                                                                     "none",
		"#!/bin/sh\necho cloop" + strings.Repeat(" and more", 20):                                "none",
	} {
		b := append([]byte(preamble), make([]byte, 128)...)[:128]
		b = append(b, good[128:]...)
		_, err := cloop.Open(bytes.NewReader(b), int64(len(b)))
		var ue *cloop.UnsupportedError
		switch known := cloop.Probe(bytes.NewReader(b)); {
		case known != (want != "none"):
			t.Errorf("%q: Probe says %v", preamble, known)
		case want == "" && err != nil, want == "none" && err == nil:
			t.Errorf("%q: %v", preamble, err)
		case strings.HasPrefix(want, "cloop") && (!errors.As(err, &ue) || err.Error() != want):
			t.Errorf("%q: %v, want %s", preamble, err, want)
		}
	}
	if cloop.Probe(strings.NewReader(preambleV2)) {
		t.Error("Probe knows a preamble that is cut short")
	}
}

func BenchmarkSequential(b *testing.B) {
	data := mixed(32 << 20)
	r := open(b, makeImage(b, data, 64<<10, 6, true))
	for _, step := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", step>>10), func(b *testing.B) {
			b.SetBytes(r.Size())
			p := make([]byte, step)
			for b.Loop() {
				for off := int64(0); off < r.Size(); off += int64(step) {
					if _, err := r.ReadAt(p, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
