package container

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// TestMiniISO reads what the damage starts from.
func TestMiniISO(t *testing.T) {
	m := newMiniISO()
	_, parts, err := Parts(bytes.NewReader(m.b), int64(len(m.b)))
	if err != nil || len(parts) != 1 || parts[0].Name != "live/filesystem.squashfs" || len(parts[0].Extents) != 2 {
		t.Fatalf("Parts = %+v, %v", parts, err)
	}
	want := append(bytes.Clone(m.sector(miniData+1)), m.sector(miniData + 3)[:100]...)
	if got := readAll(t, parts[0], bytes.NewReader(m.b)); !bytes.Equal(got, want) {
		t.Errorf("content is %q", got)
	}
	im, err := ISOMap(bytes.NewReader(m.b), int64(len(m.b)))
	testrig.Must(t, err)
	if s := im.Find("read-me-at-once", imagemap.Data, 0, 5); len(s) != 1 || s[0].ImageOff != miniData*isoSector {
		t.Errorf("the file with a continued name: %+v", s)
	}
	if s := im.At(miniMore*isoSector, 1); len(s) != 1 || s[0].Kind != imagemap.Meta {
		t.Errorf("the continuation: %+v", s)
	}
	if s := im.At(miniJoliet*isoSector, 1); len(s) != 1 || s[0].Kind != imagemap.Meta {
		t.Errorf("the Joliet root: %+v", s)
	}
	if s := im.At(miniLive*isoSector, 1); len(s) != 1 || s[0].Kind != imagemap.Dir || s[0].Path != "live" {
		t.Errorf("the directory: %+v", s)
	}
}

// TestDamagedISO: each damage ends with one line, at once.
func TestDamagedISO(t *testing.T) {
	le := binary.LittleEndian
	dot := isoRec("\x00", miniRoot, isoSector, 2, rrSP+rrRR)
	root := func(recs ...[]byte) func(m miniISO) {
		return func(m miniISO) {
			m.setDir(miniRoot, append([][]byte{dot, isoRec("\x01", miniRoot, isoSector, 2, "")}, recs...)...)
		}
	}
	for _, c := range []struct {
		name   string
		damage func(m miniISO)
		want   string // "" if it is read all the same
	}{
		{"sound", func(miniISO) {}, ""},
		{"endless descriptors", func(m miniISO) {
			for i := 18; i < miniEnd; i++ {
				copy(m.sector(i), "\x03CD001")
			}
		}, "a volume descriptor is to lie at byte 55296"},
		{"descriptor lost", func(m miniISO) { clear(m.sector(18)) }, "sector 18 is not a volume descriptor"},
		{"no primary descriptor", func(m miniISO) { m.sector(16)[0] = 3 }, "no primary volume descriptor"},
		{"block size", func(m miniISO) { le.PutUint16(m.sector(16)[128:], 0) }, "blocks of 0 bytes"},
		{"root is a file", func(m miniISO) { m.sector(16)[rootRecordAt+25] = 0 }, "the root is not a directory"},
		{"root record", func(m miniISO) { m.sector(16)[rootRecordAt] = 255 }, "directory record of 255 bytes"},
		{"root behind the end", func(m miniISO) { le.PutUint32(m.sector(16)[rootRecordAt+2:], 1<<32-1) }, "the root directory is to lie at byte 8796093020160"},
		{"huge root", func(m miniISO) { le.PutUint32(m.sector(16)[rootRecordAt+10:], 1<<32-1) }, "more than 128 MiB of directories"},
		{"long root", func(m miniISO) { le.PutUint32(m.sector(16)[rootRecordAt+10:], 1<<20) }, "1048576 bytes long, but the image ends at 55296: is it cut short?"},
		{"empty root", func(m miniISO) { le.PutUint32(m.sector(16)[rootRecordAt+10:], 0) }, "the root directory is empty"},
		{"path table anywhere", func(m miniISO) { le.PutUint32(m.sector(16)[132:], 1<<31); le.PutUint32(m.sector(16)[140:], 1<<31) }, ""},
		{"field over the continuation", func(m miniISO) { copy(m.sector(miniMore), ce(miniMore, 0, 28)) }, ""},
		{"continuation for ever", func(m miniISO) {
			copy(m.sector(miniMore), ce(miniMore, 0, 28))
			root(isoRec("F;1", miniData, 5, 0, rrRR+ce(miniMore, 0, 28)))(m)
		}, "directory record with 33 continuations"},
		{"huge continuation", root(isoRec("F;1", miniData, 5, 0, rrRR+ce(miniMore, 0, 1<<32-1))), "the last of 4294967295 bytes"},
		{"continuation behind the end", root(isoRec("F;1", miniData, 5, 0, rrRR+ce(1<<31, 0, 10))), "a Rock Ridge continuation is to lie at byte 4398046511104"},
		{"name too long", func(m miniISO) {
			copy(m.sector(miniMore), nm(strings.Repeat("x", 200))+nm(strings.Repeat("x", 200)))
			root(isoRec("F;1", miniData, 5, 0, rrRR+ce(miniMore, 0, 410)))(m)
		}, "name of 400 bytes"},
		{"name with a slash", root(isoRec("F;1", miniData, 5, 0, nm("../../etc/passwd"))), `a file is called "../../etc/passwd"`},
		{"name of dots", root(isoRec("F;1", miniData, 5, 0, nm(".."))), `a file is called ".."`},
		{"no name", root(isoRec("", miniData, 5, 0, "")), "name of 0 bytes"},
		{"name over the record", func(m miniISO) { m.sector(miniLive)[32] = 200 }, "name of 200 bytes in a directory record of 34"},
		{"field over the record", root(isoRec("F;1", miniData, 5, 0, "NM\xff\x01\x00abc")), ""},
		{"field of no length", root(isoRec("F;1", miniData, 5, 0, "NM\x00\x01\x00abc")), ""},
		{"record over the end", func(m miniISO) {
			root(isoRec("F;1", miniData, 5, 0, strings.Repeat("\x00", 200)), isoRec("G;1", miniData, 5, 0, ""))(m)
			at := bytes.Index(m.sector(miniRoot), []byte("G;1")) - 33
			copy(m.sector(miniRoot)[2047:], m.sector(miniRoot)[at:at+1])
			for i := at; i < 2047; i += 34 {
				copy(m.sector(miniRoot)[i:2047], isoRec("H", miniData, 0, 0, ""))
			}
		}, "directory record of"},
		{"directory in itself", root(isoRec("D", miniRoot, isoSector, 2, nm("d"))), `directory "d" is also found in another place`},
		{"directory twice", root(isoRec("D", miniLive, isoSector, 2, nm("d")), isoRec("E", miniLive, isoSector, 2, nm("e"))), "is also found in another place"},
		{"moved directory is a loop", root(isoRec("D", miniData, 0, 0, nm("d")+"CL\x0c\x01"+string([]byte{miniRoot, 0, 0, 0, 0, 0, 0, miniRoot}))), "is also found in another place"},
		{"moved directory is none", root(isoRec("D", miniData, 0, 0, nm("d")+"CL\x0c\x01"+string([]byte{miniData, 0, 0, 0, 0, 0, 0, miniData}))), `"d" is not a directory`},
		{"file over the end", root(isoRec("F;1", miniEnd-1, isoSector+1, 0, nm("f\n"))), `file "f\n" is to lie at byte 53248, 2049 bytes long`},
		{"extents without end", root(isoRec("F;1", miniData, 5, 0x80, nm("f"))), `file "f" lacks its last extent`},
		{"extents of two files", root(isoRec("F;1", miniData, 5, 0x80, nm("f")), isoRec("G;1", miniData, 5, 0, nm("g"))), "lacks its last extent"},
		{"interleaved", func(m miniISO) {
			r := isoRec("F;1", miniData, 5, 0, nm("f"))
			r[26] = 1
			root(r)(m)
		}, `interleaved file "f": not supported`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMiniISO()
			c.damage(m)
			kind, _, err := Parts(bytes.NewReader(m.b), int64(len(m.b)))
			if kind != ISO9660 {
				t.Errorf("kind %q", kind)
			}
			checkError(t, err, c.want)
			_, err = ISOMap(bytes.NewReader(m.b), int64(len(m.b)))
			checkError(t, err, c.want)
		})
	}
}

// TestCutShort: a part of an image gives an error or the same parts, never others.
func TestCutShort(t *testing.T) {
	whole := newMiniISO().b
	for _, img := range [][]byte{whole, miniGPT()} {
		_, want, err := Parts(bytes.NewReader(img), int64(len(img)))
		testrig.Must(t, err)
		for n := 0; n < len(img); n += 100 {
			kind, parts, err := Parts(bytes.NewReader(img[:n]), int64(n))
			if err == nil && kind != "" && fmt.Sprint(parts) != fmt.Sprint(want) {
				t.Errorf("the first %d bytes: %+v", n, parts)
			}
		}
	}
}

type brokenAt struct {
	io.ReaderAt
	off int64
}

func (b brokenAt) ReadAt(p []byte, off int64) (int, error) {
	if over := off + int64(len(p)) - b.off; over > 0 {
		n, _ := b.ReaderAt.ReadAt(p[:max(int64(len(p))-over, 0)], off)
		return n, errMedium
	}
	return b.ReaderAt.ReadAt(p, off)
}

var errMedium = errors.New("medium broken")

// TestReadErrors: an error of the medium comes out as it is, not as a corrupt image.
func TestReadErrors(t *testing.T) {
	m := newMiniISO()
	for _, sector := range []int64{17, miniLive, miniData + 1} {
		_, _, err := Parts(brokenAt{bytes.NewReader(m.b), sector * isoSector}, int64(len(m.b)))
		var corrupt *CorruptError
		if !errors.Is(err, errMedium) || errors.As(err, &corrupt) {
			t.Errorf("broken at sector %d: %v", sector, err)
		}
	}
	b := miniGPT()
	if _, _, err := Parts(brokenAt{bytes.NewReader(b), 63 * 512}, int64(len(b))); err != nil {
		t.Errorf("a broken backup that is not needed: %v", err)
	}
	if _, _, err := Parts(brokenAt{bytes.NewReader(b), 1024}, int64(len(b))); !errors.Is(err, errMedium) {
		t.Errorf("broken entries: %v", err)
	}
}

// TestKinds looks at the magics that Parts goes by.
func TestKinds(t *testing.T) {
	ext4 := make([]byte, 4096)
	le := binary.LittleEndian
	le.PutUint32(ext4[1024:], 16)
	le.PutUint32(ext4[1028:], 4)
	copy(ext4[1024+0x38:], "\x53\xef")
	wrong := bytes.Clone(ext4)
	le.PutUint32(wrong[1028:], 5) // more blocks than the file has
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, ""},
		{"squashfs", []byte("hsqs"), "squashfs"},
		{"ext4", ext4, "ext4"},
		{"ext4 magic by chance", wrong, ""},
		{"cloop", []byte(cloopMagic + "modprobe cloop file=$0"), Cloop},
		{"script", []byte("#!/bin/sh\necho"), ""},
		{"fat", append(make([]byte, 54), "FAT16   "...), ""},
	} {
		if got := imageKind(c.b[:min(len(c.b), probeLen)], int64(len(c.b))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestExtents sweeps all reads of a part in several extents, and all segments through Shift.
func TestExtents(t *testing.T) {
	outer := testrig.Noise(1, 64)
	p := Part{Name: "x", Off: 40, Len: 21, Extents: []tree.Extent{{Off: 40, Len: 7}, {Off: 3, Len: 1}, {Off: 10, Len: 13}}}
	whole := append(append(bytes.Clone(outer[40:47]), outer[3]), outer[10:23]...)
	in, size := p.Open(bytes.NewReader(outer))
	if size != 21 {
		t.Fatalf("size %d", size)
	}
	want := bytes.NewReader(whole)
	for off := int64(0); off < 25; off++ {
		for n := range 25 {
			a, b := make([]byte, n), make([]byte, n)
			gotN, gotErr := in.ReadAt(a, off)
			wantN, wantErr := want.ReadAt(b, off)
			if n == 0 {
				continue
			}
			if gotN != wantN || gotErr != wantErr || !bytes.Equal(a, b) {
				t.Fatalf("[%d +%d): %d, %v; want %d, %v", off, n, gotN, gotErr, wantN, wantErr)
			}
			seg := imagemap.Segment{ImageOff: off, ImageLen: int64(n), FileOff: 100, FileLen: int64(n), Path: "f"}
			var joined []byte
			fileOff := int64(100)
			for _, s := range p.Shift([]imagemap.Segment{seg}) {
				if s.FileOff != fileOff || s.FileLen != s.ImageLen || s.Path != "f" {
					t.Fatalf("piece %+v of %+v", s, seg)
				}
				fileOff += s.FileLen
				joined = append(joined, outer[s.ImageOff:s.ImageOff+s.ImageLen]...)
			}
			if !bytes.Equal(joined, b[:wantN]) {
				t.Fatalf("Shift of [%d +%d)", off, n)
			}
		}
	}
	packed := p.Shift([]imagemap.Segment{{ImageOff: 5, ImageLen: 10, FileOff: 8, FileLen: 99}})
	if len(packed) != 3 || packed[2].FileOff != 8 || packed[2].FileLen != 99 {
		t.Errorf("compressed segment: %+v", packed)
	}
	plain := Part{Off: 1000, Len: 50}.Shift([]imagemap.Segment{{ImageOff: 5, ImageLen: 10, FileLen: 10}})
	if len(plain) != 1 || plain[0].ImageOff != 1005 {
		t.Errorf("one extent: %+v", plain)
	}
}
