package cloop_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"bootprof/imagepack/cloop"
	"bootprof/internal/testrig"
)

// readAll reads at most 1 MiB of the device, in pieces of two sizes.
func readAll(image []byte) error {
	r, err := cloop.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return err
	}
	for _, step := range []int64{1000, 64 << 10} {
		p := make([]byte, step)
		for off := int64(0); off < min(r.Size(), 1<<20); off += step {
			if _, err := r.ReadAt(p, off); err != nil && err != io.EOF {
				return err
			}
		}
	}
	return nil
}

// TestDamaged cuts an image short at every length and changes each of its bytes.
func TestDamaged(t *testing.T) {
	testrig.RareGC(t)
	data := mixed(3000)
	b := makeImage(t, data, 1024, 9, true)
	var ce *cloop.CorruptError
	for n := range b {
		if _, err := cloop.Open(bytes.NewReader(b[:n]), int64(n)); !errors.As(err, &ce) {
			t.Fatalf("cut to %d of %d bytes: %v, want a CorruptError", n, len(b), err)
		}
	}
	for i := range b {
		for _, x := range []byte{0x01, 0x80, 0xff} {
			d := bytes.Clone(b)
			d[i] ^= x
			var err error
			took := testrig.Allocated(func() { err = readAll(d) })
			var ue *cloop.UnsupportedError
			if err != nil && !errors.As(err, &ce) && !errors.As(err, &ue) {
				t.Fatalf("byte %d ^ %#x: %v", i, x, err)
			}
			if err == nil && i >= 136 {
				sameDevice(t, d, data) // of the bits behind a stored block's header deflate uses none
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Fatalf("byte %d ^ %#x: %q", i, x, err)
			}
			if took > 20<<20 {
				t.Fatalf("byte %d ^ %#x: reading an image of %d bytes took %d bytes of memory", i, x, len(b), took)
			}
		}
	}
}

func sameDevice(t *testing.T, image, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := open(t, image).ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v or other bytes", err)
	}
}

// TestBadFields puts one wrong number into a good image each time.
func TestBadFields(t *testing.T) {
	good := makeImage(t, bytes.Repeat([]byte("text and "), 340), 1024, 9, true)
	u32, u64 := binary.BigEndian.PutUint32, binary.BigEndian.PutUint64
	for name, c := range map[string]struct {
		change func(b []byte)
		want   string
	}{
		"block size 0":          {func(b []byte) { u32(b[128:], 0) }, "corrupt: block size 0"},
		"block size odd":        {func(b []byte) { u32(b[128:], 1000) }, "corrupt: block size 1000"},
		"block size large":      {func(b []byte) { u32(b[128:], 1<<30) }, "block size 1073741824, over 16777216: not supported"},
		"block too short":       {func(b []byte) { u32(b[128:], 512) }, "unpacks to more than 512 bytes"},
		"block too long":        {func(b []byte) { u32(b[128:], 2048) }, "unpacks to 1024 bytes, not 2048"},
		"too many blocks":       {func(b []byte) { u32(b[132:], 1<<32-1) }, "do not hold the table of 4294967295 blocks"},
		"block in the table":    {func(b []byte) { u64(b[136:], 140) }, "block 0 is at 140, in the table"},
		"block behind the end":  {func(b []byte) { u64(b[136+24:], 1<<40) }, "cut short: block 3 of 3 is at 1099511627776"},
		"huge position":         {func(b []byte) { u64(b[136+8:], 1<<63) }, "cut short: block 1 of 3"},
		"blocks not in order":   {func(b []byte) { u64(b[136+16:], binary.BigEndian.Uint64(b[136+8:])-1) }, "corrupt: block 1 of 3 is at ["},
		"a block of no bytes":   {func(b []byte) { u64(b[136+8:], binary.BigEndian.Uint64(b[136:])) }, "corrupt: block 0 of 3 is at ["},
		"the compressed bytes":  {func(b []byte) { b[len(b)-20] ^= 1 }, "corrupt: block 2 at "},
		"an empty stream first": {func(b []byte) { copy(b[168:], "\x78\x9c\x03\x00\x00\x00\x00\x01") }, "unpacks to 0 bytes, not 1024"},
	} {
		b := bytes.Clone(good)
		c.change(b)
		if err := readAll(b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want ...%s...", name, err, c.want)
		}
	}
	if err := readAll(good); err != nil {
		t.Error(err)
	}
}

func FuzzOpen(f *testing.F) {
	for _, bs := range []int{512, 1024, 65536} {
		f.Add(makeImage(f, mixed(2000), bs, 9, true))
	}
	f.Add(makeImage(f, mixed(2000), 512, 0, false))
	f.Fuzz(func(t *testing.T, b []byte) { _ = readAll(b) })
}
