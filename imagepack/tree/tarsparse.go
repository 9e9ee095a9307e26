package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
)

// A span is a piece of a sparse file that the archive holds.
type span struct {
	off, len int64 // in the file
	tarOff   int64 // in the archive
}

// Sparse files come in three forms: "S" entries with a map in binary headers (GNU), PAX 0.0 and 0.1 with the
// map in a record, PAX 1.0 with the map as decimal lines before the content. archive/tar reads all of
// them and expands the content, but does not give the map, so it is read a second time here.

const (
	paxSparseMajor = "GNU.sparse.major"
	paxSparseMinor = "GNU.sparse.minor"
	paxSparseMap   = "GNU.sparse.map"
)

// isSparse decides as archive/tar does.
func isSparse(h *tar.Header) bool {
	switch major, minor := h.PAXRecords[paxSparseMajor], h.PAXRecords[paxSparseMinor]; {
	case h.Typeflag == tar.TypeGNUSparse:
		return true
	case major == "0" && (minor == "0" || minor == "1"), major == "1" && minor == "0":
		return true
	case major != "" || minor != "":
		return false
	}
	return h.PAXRecords[paxSparseMap] != ""
}

// locateSparse fills spans and packedLen. The headers of the entry lie in [start, dataOff).
func (e *tarEntry) locateSparse(start int64) error {
	e.sparse = true
	mainOff, header, err := e.mainHeader(start)
	if err != nil {
		return err
	}
	stored, err := tarNumber(header[124:136])
	if s := e.hdr.PAXRecords["size"]; s != "" {
		stored, err = strconv.ParseInt(s, 10, 64)
	}
	if err != nil {
		return fmt.Errorf("sparse file: size: %w", err)
	}
	var numbers []int64
	switch {
	case e.hdr.Typeflag == tar.TypeGNUSparse:
		numbers, err = e.binaryMap(mainOff, header)
	case e.hdr.PAXRecords[paxSparseMajor] == "1":
		text := make([]byte, e.dataOff-mainOff-512)
		if _, err := e.r.ReadAt(text, mainOff+512); err != nil {
			return err
		}
		stored -= int64(len(text))
		lines := strings.Split(string(text), "\n")
		count, cerr := strconv.Atoi(lines[0])
		if cerr != nil || count < 0 || 2*count > len(lines)-1 {
			return errors.New("sparse file: bad map")
		}
		numbers, err = parseNumbers(lines[1 : 1+2*count])
	case e.hdr.PAXRecords[paxSparseMap] != "":
		numbers, err = parseNumbers(strings.Split(e.hdr.PAXRecords[paxSparseMap], ","))
	}
	if err != nil {
		return fmt.Errorf("sparse file: map: %w", err)
	}
	e.packedLen = stored
	return e.setSpans(numbers)
}

// setSpans makes spans of a map of offsets and lengths.
func (e *tarEntry) setSpans(numbers []int64) error {
	tarOff, end := e.dataOff, int64(0)
	for i := 0; i+1 < len(numbers); i += 2 {
		off, length := numbers[i], numbers[i+1]
		if off < end || length < 0 || off > e.hdr.Size || length > e.hdr.Size-off {
			return fmt.Errorf("sparse file: map: [%d +%d) is out of order or outside a file of %d bytes", off, length, e.hdr.Size)
		}
		if length > e.dataOff+e.packedLen-tarOff {
			return fmt.Errorf("sparse file: map: more than the %d bytes of content", e.packedLen)
		}
		if length > 0 {
			e.spans = append(e.spans, span{off, length, tarOff})
		}
		tarOff, end = tarOff+length, off+length
	}
	return nil
}

// mainHeader finds the entry's own header behind the PAX and GNU headers that precede it.
func (e *tarEntry) mainHeader(start int64) (int64, []byte, error) {
	b := make([]byte, 512)
	for off := start; off < e.dataOff; {
		if _, err := e.r.ReadAt(b, off); err != nil {
			return 0, nil, err
		}
		switch b[156] {
		case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
		default:
			return off, b, nil
		}
		n, err := tarNumber(b[124:136])
		if err != nil || n < 0 || n > e.dataOff {
			break
		}
		off += 512 + (n+511)&^511
	}
	return 0, nil, errors.New("sparse file: its header cannot be found")
}

// binaryMap reads the map of an "S" entry: four pairs in the header, more in blocks that follow.
func (e *tarEntry) binaryMap(mainOff int64, header []byte) ([]int64, error) {
	var out []int64
	pairs, more := header[386:482], header[482]
	for off := mainOff + 512; ; off += 512 {
		for ; len(pairs) >= 24 && pairs[0] != 0; pairs = pairs[24:] {
			o, err1 := tarNumber(pairs[:12])
			l, err2 := tarNumber(pairs[12:24])
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			out = append(out, o, l)
		}
		if more == 0 || off >= e.dataOff {
			return out, nil
		}
		block := make([]byte, 512)
		if _, err := e.r.ReadAt(block, off); err != nil {
			return nil, err
		}
		pairs, more = block[:504], block[504]
	}
}

// tarNumber decodes a numeric header field: octal, or base 256 if the top bit is set.
func tarNumber(b []byte) (int64, error) {
	if len(b) > 0 && b[0]&0x80 != 0 {
		var x uint64
		for i, c := range b {
			if i == 0 {
				c &= 0x7f
			}
			if x >= 1<<55 {
				return 0, errors.New("number out of range")
			}
			x = x<<8 | uint64(c)
		}
		return int64(x), nil
	}
	s := string(bytes.Trim(b, " \x00"))
	if s == "" {
		return 0, nil
	}
	return strconv.ParseInt(s, 8, 64)
}

func parseNumbers(fields []string) ([]int64, error) {
	out := make([]int64, len(fields))
	for i, s := range fields {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}

// tarFile is the content of a regular file in an archive.
type tarFile struct {
	r      io.ReaderAt
	off    int64 // in the archive, if not sparse
	size   int64
	sparse bool
	spans  []span
}

func (f *tarFile) Open() (ReadAtCloser, error) {
	if f.sparse {
		return f, nil
	}
	return openTarFile{io.NewSectionReader(f.r, f.off, f.size)}, nil
}

type openTarFile struct{ *io.SectionReader }

func (openTarFile) Close() error { return nil }

// Close does nothing: an open sparse file has no state.
func (f *tarFile) Close() error { return nil }

// ReadAt reads from a sparse file.
func (f *tarFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= f.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > f.size-off {
		p, eof = p[:f.size-off], io.EOF
	}
	clear(p)
	end := off + int64(len(p))
	first := sort.Search(len(f.spans), func(i int) bool { return f.spans[i].off+f.spans[i].len > off })
	for _, s := range f.spans[first:] {
		if s.off >= end {
			break
		}
		from, to := max(s.off, off), min(s.off+s.len, end)
		if n, err := f.r.ReadAt(p[from-off:to-off], s.tarOff+from-s.off); int64(n) < to-from {
			return int(from-off) + n, err
		}
	}
	return len(p), eof
}
