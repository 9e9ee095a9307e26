package container

import (
	"bytes"
	"io"
	"testing"

	"bootprof/imagepack/imagemap"
)

// checkParts holds for any image: no panic, and all that comes out lies in the image and can be read.
func checkParts(t *testing.T, b []byte) {
	r, size := bytes.NewReader(b), int64(len(b))
	kind, parts, err := Parts(r, size)
	if kind == "" && (parts != nil || err != nil) {
		t.Fatalf("unknown image: %+v, %v", parts, err)
	}
	for _, p := range parts {
		in, n := p.Open(r)
		if n != p.Len || p.Len <= 0 || p.Off < 0 || p.Extents == nil && p.Off+p.Len > size {
			t.Fatalf("part %+v in %d bytes", p, size)
		}
		// Extents may overlap, so a part may be larger than the image. Both ends tell.
		for _, off := range []int64{0, max(0, n-4096)} {
			if _, err := io.Copy(io.Discard, io.NewSectionReader(in, off, min(4096, n-off))); err != nil {
				t.Fatalf("part %+v: %v", p, err)
			}
		}
		for _, s := range p.Shift([]imagemap.Segment{{ImageLen: n, FileLen: n}}) {
			if s.ImageOff < 0 || s.ImageLen <= 0 || s.ImageOff+s.ImageLen > size {
				t.Fatalf("segment %+v in %d bytes", s, size)
			}
		}
	}
	if _, err := Choose(parts, ""); err != nil && err.Error() == "" {
		t.Fatal("error without text")
	}
	if kind != ISO9660 {
		return
	}
	m, err := ISOMap(r, size)
	if err != nil {
		return
	}
	for _, s := range m.Segments() {
		if s.ImageOff < 0 || s.ImageLen <= 0 || s.ImageOff+s.ImageLen > size {
			t.Fatalf("segment %+v in %d bytes", s, size)
		}
	}
}

// edit changes an image byte by byte: three bytes of edits are a position and its new value. Only the first window
// bytes of each of the blocks at starts can be reached. Whole images as input would be too large for the fuzzer.
func edit(image []byte, starts []int, window int, edits []byte) {
	for ; len(edits) >= 3; edits = edits[3:] {
		pos := (int(edits[0])<<8 | int(edits[1])) % (len(starts) * window)
		image[starts[pos/window]+pos%window] = edits[2]
	}
}

func FuzzISO(f *testing.F) {
	const window = 256
	base := newMiniISO()
	base.setDir(miniJoliet, isoRec("\x00", miniRoot, isoSector, 2, rrSP+rrRR),
		isoRec("D", miniData, 0, 0, nm("d")+"CL\x0c\x01"+string([]byte{miniLive, 0, 0, 0, 0, 0, 0, miniLive})),
		isoRec("Z", miniData, 5, 0, "ZF\x10\x01pz\x04\x0f\x00\x10\x00\x00\x00\x00\x10\x00"+nm("z")))
	var starts []int
	for _, sector := range []int{16, 17, 18, miniRoot, miniMore, miniLive, miniJoliet, miniData + 1} {
		starts = append(starts, sector*isoSector)
	}
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0, rootRecordAt + 2, miniJoliet, 4, 2, 28}, uint16(0))
	f.Add([]byte{0, 0, 2}, uint16(300))
	f.Fuzz(func(t *testing.T, edits []byte, cut uint16) {
		b := bytes.Clone(base.b)
		edit(b, starts, window, edits)
		checkParts(t, b[:len(b)-int(cut)%len(b)])
	})
}

// FuzzGPT makes all checksums right, or hardly any change would get past them.
func FuzzGPT(f *testing.F) {
	base := miniGPT()
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0, 0, 0}, uint16(0))
	f.Add([]byte{0, 86, 1, 0, 85, 4}, uint16(512))
	f.Fuzz(func(t *testing.T, edits []byte, cut uint16) {
		b := bytes.Clone(base)
		edit(b, []int{512, 63 * 512, 1024, 62 * 512, 384}, 128, edits)
		b = b[:len(b)-int(cut)%len(b)]
		fixGPT(b)
		checkParts(t, b)
	})
}

// FuzzMBR takes the tables of an MBR disk only; the last is a link of the chain of logical partitions.
func FuzzMBR(f *testing.F) {
	table := func(entries ...byte) []byte { return append(entries, make([]byte, 64-len(entries))...) }
	entry := func(typ, start, size byte) []byte {
		return []byte{0, 0, 0, 0, typ, 0, 0, 0, start, 0, 0, 0, size, 0, 0, 0}
	}
	f.Add(table(append(entry(0x83, 1, 2), entry(5, 4, 9)...)...), table(append(entry(0x83, 1, 2), entry(5, 4, 4)...)...), table(entry(0x83, 1, 1)...))
	f.Fuzz(func(t *testing.T, first, second, third []byte) {
		b := make([]byte, 16*512)
		for i, tab := range [][]byte{first, second, third} {
			s := b[i*4*512:]
			copy(s[446:510], tab)
			s[510], s[511] = 0x55, 0xaa
		}
		checkParts(t, b)
	})
}
