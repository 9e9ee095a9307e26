package bpk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

// sampleHeader is a header that a reader accepts.
func sampleHeader() *Header {
	return &Header{
		Major: Major, Minor: Minor, ImageSize: 100 * PageSize, ImageSHA256: [32]byte{1, 2}, PackSize: 50_000, Filesystem: "erofs",
		BootIndex: Block{512, 100, [32]byte{3}}, BodyRoot: Block{21_000, 64, [32]byte{4}}, BodyDepth: 1,
		Boot: Block{PackOff: 700, Len: 20_000}, BootPages: 30, Info: Block{40_000, 100, [32]byte{5}},
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	h := sampleHeader()
	b := h.Encode()
	if len(b) != HeaderSize || !IsPack(b) {
		t.Fatalf("%d bytes, IsPack = %t", len(b), IsPack(b))
	}
	got, err := DecodeHeader(b)
	if err != nil || *got != *h {
		t.Errorf("got %+v, %v\nwant %+v", got, err, h)
	}
	if got, err := DecodeHeader(append(b, "what follows"...)); err != nil || *got != *h {
		t.Errorf("with more bytes behind: %v, %v", got, err)
	}
}

// What a later minor version may put into a header is ignored.
func TestHeaderOfLaterMinorVersion(t *testing.T) {
	h := sampleHeader()
	b := h.Encode()
	binary.LittleEndian.PutUint16(b[10:], 7)           // minor
	binary.LittleEndian.PutUint32(b[284:], 0xffff0000) // features that may be ignored
	for i := 288; i < HeaderSize-32; i++ {
		b[i] = byte(i) // reserved
	}
	seal(b)
	got, err := DecodeHeader(b)
	testrig.Must(t, err)
	want := *h
	want.Minor, want.Features = 7, 0xffff0000
	if *got != want {
		t.Errorf("got %+v\nwant %+v", got, &want)
	}
}

// seal corrects the checksum of an encoded header.
func seal(b []byte) {
	sum := sha256.Sum256(b[:HeaderSize-32])
	copy(b[HeaderSize-32:], sum[:])
}

func TestHeaderOfUnknownVersion(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(h *Header)
		want string
	}{
		{"major 2", func(h *Header) { h.Major, h.Minor = 2, 3 }, "pack format 2.3"},
		{"major 2 that says nothing we know", func(h *Header) { *h = Header{Major: 2, ImageSize: -1} }, "pack format 2.0"},
		{"major 0", func(h *Header) { h.Major = 0 }, "pack format 0.0"},
		{"feature 2", func(h *Header) { h.Features = 4 }, "0x4 "},
		{"features 15 and 16", func(h *Header) { h.Features = 3 << 15 }, "0x8000 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := sampleHeader()
			c.set(h)
			got, err := DecodeHeader(h.Encode())
			var version *VersionError
			if !errors.As(err, &version) || !strings.Contains(err.Error(), c.want) || got != nil {
				t.Errorf("DecodeHeader = %v, %v", got, err)
			}
			b := h.Encode()
			b[100]++
			var corrupt *CorruptError
			if _, err := DecodeHeader(b); !errors.As(err, &corrupt) {
				t.Errorf("damaged: %v", err)
			}
		})
	}
}

func TestHeaderRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(h *Header)
	}{
		{"image too large", func(h *Header) { h.ImageSize = MaxImageSize + PageSize }},
		{"image negative", func(h *Header) { h.ImageSize = -PageSize }},
		{"image not whole pages", func(h *Header) { h.ImageSize++ }},
		{"image empty but not its body", func(h *Header) { h.ImageSize, h.BootPages = 0, 0 }},
		{"pack smaller than the header", func(h *Header) { h.PackSize = 511 }},
		{"pack negative", func(h *Header) { h.PackSize = -1 }},
		{"pack too large", func(h *Header) { h.PackSize = MaxPackSize + 1 }},
		{"manifest at the end of numbers", func(h *Header) { h.Features, h.Boot.Len, h.PackSize = FeatureBeside, 0, 1<<63-1 }},
		{"manifest with a boot zone", func(h *Header) { h.Features = FeatureBeside }},
		{"manifest that is split", func(h *Header) { h.Features, h.Boot.Len = FeatureBeside|FeatureSplit, 0 }},
		{"manifest whose boot zone has no place", func(h *Header) { h.Features, h.Boot = FeatureBeside, Block{} }},
		{"more boot pages than digests", func(h *Header) { h.ImageSize, h.BootPages = MaxImageSize, maxBootPages+1 }},
		{"index in the header", func(h *Header) { h.BootIndex.PackOff = 400 }},
		{"index behind the pack", func(h *Header) { h.BootIndex.PackOff = 50_001 }},
		{"index of negative length", func(h *Header) { h.BootIndex.Len = -1 }},
		{"index too large", func(h *Header) {
			h.PackSize = 1 << 40
			h.BootIndex.Len = MaxIndexLen + 1
			h.Boot.PackOff, h.BodyRoot.PackOff, h.Info.PackOff = 20<<20, 21<<20, 22<<20
		}},
		{"boot zone over the index", func(h *Header) { h.Boot.PackOff = 611 }},
		{"root before the boot zone", func(h *Header) { h.BodyRoot.PackOff = 612 }},
		{"root too large", func(h *Header) { h.BodyRoot.Len = NodeEntries*entrySize + 64 }},
		{"root at the end of numbers", func(h *Header) { h.BodyRoot.PackOff = 1<<63 - 1 }},
		{"no root", func(h *Header) { h.BodyRoot.Len = 0 }},
		{"no depth", func(h *Header) { h.BodyDepth = 0 }},
		{"no root and no depth", func(h *Header) { h.BodyRoot.Len, h.BodyDepth = 0, 0 }},
		{"depth too large", func(h *Header) { h.BodyDepth = maxDepth + 1 }},
		{"boot zone over the root", func(h *Header) { h.Boot.PackOff = 1001 }},
		{"boot zone over the end", func(h *Header) { h.Boot.Len = 50_000 }},
		{"boot zone far away", func(h *Header) {
			h.PackSize = 1 << 40
			h.Boot.PackOff, h.BodyRoot.PackOff, h.Info = MaxHeadLen+1, 1<<30, Block{}
		}},
		{"more boot pages than pages", func(h *Header) { h.BootPages = 101 }},
		{"boot pages negative", func(h *Header) { h.BootPages = -1 }},
		{"info over the root", func(h *Header) { h.Info.PackOff = 21_063 }},
		{"info over the end", func(h *Header) { h.Info.Len = 10_001 }},
		{"file system with a path", func(h *Header) { h.Filesystem = "../../x" }},
		{"file system with a NUL", func(h *Header) { h.Filesystem = "a\x00b" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := sampleHeader()
			c.set(h)
			got, err := DecodeHeader(h.Encode())
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || got != nil {
				t.Errorf("DecodeHeader = %+v, %v", got, err)
			}
		})
	}
	b := sampleHeader().Encode()
	binary.LittleEndian.PutUint32(b[12:], 65536)
	seal(b)
	if _, err := DecodeHeader(b); err == nil {
		t.Error("pages of 64 KiB were accepted")
	}
}

// Forms whose chunks lie elsewhere have all a header may have, and one that knows nothing of them refuses them.
func TestHeaderOfForms(t *testing.T) {
	if knownFeatures&^RefuseFeatures != 0 {
		t.Errorf("a reader that does not know the features %#x ignores them", knownFeatures&^RefuseFeatures)
	}
	for _, features := range []uint32{FeatureBeside, FeatureSplit, FeatureSplit | 1<<16} {
		h := sampleHeader()
		if h.Features = features; features&FeatureBeside != 0 {
			h.Boot.Len = 0
		}
		if got, err := DecodeHeader(h.Encode()); err != nil || *got != *h {
			t.Errorf("features %#x: %+v, %v", features, got, err)
		}
		h.Features |= 1 << 9
		var version *VersionError
		if _, err := DecodeHeader(h.Encode()); !errors.As(err, &version) || version.Features != 1<<9 {
			t.Errorf("features %#x: %v", h.Features, err)
		}
	}
}

func TestEmptyImage(t *testing.T) {
	h := &Header{Major: Major, PackSize: 600, BootIndex: Block{512, 88, [32]byte{}}, Boot: Block{PackOff: 600}, BodyRoot: Block{PackOff: 600}}
	if _, err := DecodeHeader(h.Encode()); err != nil {
		t.Error(err)
	}
	if _, err := NewBody(h).Find(0, nil); err == nil {
		t.Error("a page of an empty image was found")
	}
}
