package container

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
)

var update = flag.Bool("update", false, "make testdata/large.gz anew with xorriso, which takes a minute")

// An ISO with one file of largeSize bytes, all zero but for a squashfs magic and the last four bytes. As it is
// 4.6 GB, testdata/large.gz has its sectors that are not zero, each after its number in 4 bytes. It ends with an empty one,
// the number of sectors.
const (
	largeFile = "testdata/large.gz"
	largeName = "live/filesystem.squashfs"
	largeSize = 4600<<20 + 7
	largeTail = "END!"
)

// makeLarge writes largeFile.
func makeLarge(t *testing.T) {
	src := testrig.MemoryDir(t)
	path := filepath.Join(src, largeName)
	testrig.WriteFile(t, path, []byte("hsqs"))
	testrig.Must(t, os.Truncate(path, largeSize-int64(len(largeTail))))
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	testrig.Must(t, err)
	if _, err := f.WriteString(largeTail); err != nil {
		t.Fatal(err)
	}
	f.Close()
	cmd := exec.Command("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-iso-level", "3", "-o", "-", src)
	iso, err := cmd.StdoutPipe()
	testrig.Must(t, err)
	testrig.Must(t, cmd.Start())
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	b, zero := make([]byte, isoSector), make([]byte, isoSector)
	n := uint32(0)
	for ; ; n++ {
		if _, err := io.ReadFull(iso, b); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, zero) {
			z.Write(binary.LittleEndian.AppendUint32(nil, n))
			z.Write(b)
		}
	}
	z.Write(binary.LittleEndian.AppendUint32(nil, n))
	z.Close()
	testrig.Must(t, cmd.Wait())
	testrig.WriteFile(t, largeFile, packed.Bytes())
}

// A sparseISO holds the sectors that are not zero.
type sparseISO struct {
	sectors map[int64][]byte
	size    int64
}

func readLarge(t *testing.T) *sparseISO {
	z, err := gzip.NewReader(bytes.NewReader(testrig.ReadFile(t, largeFile)))
	testrig.Must(t, err)
	s := &sparseISO{sectors: make(map[int64][]byte)}
	for {
		var n uint32
		testrig.Must(t, binary.Read(z, binary.LittleEndian, &n))
		b := make([]byte, isoSector)
		if _, err := io.ReadFull(z, b); err == io.EOF {
			s.size = int64(n) * isoSector
			return s
		} else if err != nil {
			t.Fatal(err)
		}
		s.sectors[int64(n)] = b
	}
}

func (s *sparseISO) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for ; n < len(p) && off < s.size; n, off = n+1, off+1 {
		p[n] = 0
		if b := s.sectors[off/isoSector]; b != nil {
			p[n] = b[off%isoSector]
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// TestLargeFile reads a file over 4 GiB, which takes two directory records, from what xorriso made.
func TestLargeFile(t *testing.T) {
	if *update {
		makeLarge(t)
	}
	iso := readLarge(t)
	_, parts, err := Parts(iso, iso.size)
	if err != nil || len(parts) != 1 || parts[0].Name != largeName || parts[0].Len != largeSize {
		t.Fatalf("Parts = %+v, %v", parts, err)
	}
	in, size := parts[0].Open(iso)
	end := make([]byte, len(largeTail))
	if n, err := in.ReadAt(end, size-int64(len(end))); n != len(end) || string(end) != largeTail {
		t.Errorf("the file ends with %q, %v", end, err)
	}
	m, err := ISOMap(iso, iso.size)
	testrig.Must(t, err)
	segs := m.Find(largeName, imagemap.Data, 0, largeSize)
	if len(segs) != 1 || segs[0].ImageLen != largeSize || segs[0].ImageOff != parts[0].Off {
		t.Errorf("map %+v", segs)
	}
	// The second record is what makes it a file of this size.
	im, err := openISO(source{iso, iso.size, ISO9660})
	testrig.Must(t, err)
	records := 0
	for _, b := range iso.sectors {
		if bytes.Contains(b, []byte("FILESYST")) {
			records += bytes.Count(b, []byte("FILESYST"))
		}
	}
	if !im.rockRidge || records != 2 {
		t.Errorf("Rock Ridge %v, %d records", im.rockRidge, records)
	}
}
