package container

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"bootprof/internal/testrig"
)

// squashImage makes a squashfs that holds the file "hello" with the given content.
func squashImage(t testing.TB, path, content string) {
	t.Helper()
	src := testrig.MemoryDir(t)
	testrig.WriteFile(t, filepath.Join(src, "hello"), []byte(content))
	testrig.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	testrig.Run(t, "mksquashfs", src, path, "-quiet", "-no-progress", "-noappend")
}

func readAll(t testing.TB, p Part, r io.ReaderAt) []byte {
	t.Helper()
	in, size := p.Open(r)
	b, err := io.ReadAll(io.NewSectionReader(in, 0, size))
	if err != nil || int64(len(b)) != size {
		t.Fatalf("reading %s: %d of %d bytes, %v", p.Name, len(b), size, err)
	}
	return b
}

// A miniISO is an ISO of few sectors, made by hand to be damaged: descriptors in 16 to 18, the root in 19 and its
// continuation area in 20, /live in 21, the Joliet root in 22, content from 23 on.
type miniISO struct{ b []byte }

const (
	miniRoot, miniMore, miniLive, miniJoliet, miniData, miniEnd = 19, 20, 21, 22, 23, 27
)

func (m miniISO) sector(n int) []byte { return m.b[n*isoSector : (n+1)*isoSector] }

// isoRec returns a directory record.
func isoRec(id string, lba, size uint32, flags byte, system string) []byte {
	n := 33 + len(id)
	n += n & 1
	b := make([]byte, n, n+len(system))
	binary.LittleEndian.PutUint32(b[2:], lba)
	binary.LittleEndian.PutUint32(b[10:], size)
	b[25], b[32] = flags, byte(len(id))
	copy(b[33:], id)
	b = append(b, system...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(len(b))
	return b
}

func nm(name string) string { return "NM" + string([]byte{byte(5 + len(name)), 1, 0}) + name }

func ce(lba, off, length uint32) string {
	b := make([]byte, 28)
	copy(b, "CE\x1c\x01")
	binary.LittleEndian.PutUint32(b[4:], lba)
	binary.LittleEndian.PutUint32(b[12:], off)
	binary.LittleEndian.PutUint32(b[20:], length)
	return string(b)
}

const (
	rrSP = "SP\x07\x01\xbe\xef\x00"
	rrRR = "RR\x05\x01\x89"
)

// newMiniISO makes a sound one: /live/filesystem.squashfs in two extents that do not touch, a long name in a continuation.
func newMiniISO() miniISO {
	m := miniISO{make([]byte, miniEnd*isoSector)}
	for i, typ := range []byte{descPrimary, descSupplem, descEnd} {
		d := m.sector(isoSystem + i)
		d[0], d[6] = typ, 1
		copy(d[1:], isoMagic)
		binary.LittleEndian.PutUint16(d[128:], isoSector)
	}
	copy(m.sector(16)[rootRecordAt:], isoRec("\x00", miniRoot, isoSector, 2, ""))
	copy(m.sector(17)[88:], "%/E")
	copy(m.sector(17)[rootRecordAt:], isoRec("\x00", miniJoliet, isoSector, 2, ""))
	m.setDir(miniRoot,
		isoRec("\x00", miniRoot, isoSector, 2, rrSP+rrRR), isoRec("\x01", miniRoot, isoSector, 2, ""),
		isoRec("LIVE", miniLive, isoSector, 2, nm("live")),
		isoRec("README.TXT;1", miniData, 5, 0, rrRR+ce(miniMore, 0, 20)))
	copy(m.sector(miniMore), nm("read-me-at-once"))
	m.setDir(miniLive,
		isoRec("\x00", miniLive, isoSector, 2, ""), isoRec("\x01", miniRoot, isoSector, 2, ""),
		isoRec("FILESYST.SQU;1", miniData+1, isoSector, 0x80, nm("filesystem.squashfs")),
		isoRec("FILESYST.SQU;1", miniData+3, 100, 0, nm("filesystem.squashfs")))
	m.setDir(miniJoliet,
		isoRec("\x00", miniJoliet, isoSector, 2, ""), isoRec("\x01", miniJoliet, isoSector, 2, ""),
		isoRec("\x00r\x00e", miniData, 5, 0, ""))
	copy(m.sector(miniData), "hello")
	copy(m.sector(miniData+1), "hsqs")
	copy(m.sector(miniData+3), "second extent")
	return m
}

func (m miniISO) setDir(sector int, recs ...[]byte) {
	clear(m.sector(sector))
	copy(m.sector(sector), bytes.Join(recs, nil))
}
