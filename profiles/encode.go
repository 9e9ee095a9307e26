package profiles

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// encodePayload lays out the sections. Touches are written column by column, not row by row: like values
// side by side are what zstd shortens.
func encodePayload(run *Run) ([]byte, error) {
	if err := run.Validate(); err != nil {
		return nil, err
	}
	var b []byte
	b = appendSection(b, secHeader, encodeHeader(&run.Header))
	if len(run.Touches) > 0 {
		b = appendSection(b, secTouches, encodeTouches(run.Touches))
	}
	if len(run.Marks) > 0 {
		b = appendSection(b, secMarks, encodeMarks(run.Marks))
	}
	if len(run.FileTouches) > 0 {
		paths, total := pathTable(run.FileTouches)
		if total > maxAllPaths {
			return nil, fmt.Errorf("%d bytes of paths are over the limit of %d", total, maxAllPaths)
		}
		b = appendSection(b, secPaths, encodePaths(paths))
		b = appendSection(b, secFileTouches, encodeFileTouches(run.FileTouches, paths))
	}
	if len(b) > maxPayload {
		return nil, fmt.Errorf("%d bytes of touches are over the limit of %d", len(b), maxPayload)
	}
	return b, nil
}

func appendSection(b []byte, id uint64, body []byte) []byte {
	b = binary.AppendUvarint(b, id)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// Header flags. A reader ignores those it does not know.
const (
	flagCoarse     = 1 << 0
	flagTimeScaled = 1 << 1
)

func encodeHeader(h *Header) []byte {
	var flags uint64
	if h.Coarse {
		flags |= flagCoarse
	}
	if h.TimeScaled {
		flags |= flagTimeScaled
	}
	b := binary.AppendUvarint(nil, uint64(h.ImageSize))
	b = append(b, h.ImageSHA256[:]...)
	b = binary.AppendUvarint(b, flags)
	b = binary.AppendUvarint(b, uint64(h.Readahead))
	b = binary.AppendVarint(b, h.RecordedAt)
	b = binary.AppendUvarint(b, uint64(h.Duration))
	for _, s := range []string{h.Filesystem, h.Method, h.Kernel, h.Machine, h.End} {
		b = appendString(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(h.Command)))
	for _, s := range h.Command {
		b = appendString(b, s)
	}
	return b
}

func encodeTouches(ts []Touch) []byte {
	b := binary.AppendUvarint(nil, uint64(len(ts)))
	var last time.Duration
	for _, t := range ts {
		b = binary.AppendUvarint(b, uint64(t.At-last))
		last = t.At
	}
	var endPage int64 // of the touch before
	for _, t := range ts {
		b = binary.AppendVarint(b, t.ImageOff/PageSize-endPage)
		endPage = t.ImageOff/PageSize + pagesIn(t.Len)
	}
	for _, t := range ts {
		b = binary.AppendUvarint(b, uint64(pagesIn(t.Len)))
	}
	return b
}

// pagesIn rounds up: the last page of an image may be short.
func pagesIn(length int64) int64 { return length/PageSize + min(1, length%PageSize) }

func encodeMarks(ms []Mark) []byte {
	b := binary.AppendUvarint(nil, uint64(len(ms)))
	var last time.Duration
	for _, m := range ms {
		b = binary.AppendUvarint(b, uint64(m.At-last))
		b = appendString(b, m.Name)
		last = m.At
	}
	return b
}

// pathTable returns the paths, sorted bytewise, each once, and the sum of their lengths.
func pathTable(ts []FileTouch) (paths []string, total int) {
	seen := make(map[string]bool)
	for _, t := range ts {
		if !seen[t.Path] {
			seen[t.Path] = true
			paths = append(paths, t.Path)
			total += len(t.Path)
		}
	}
	slices.Sort(paths)
	return paths, total
}

func encodePaths(paths []string) []byte {
	b := binary.AppendUvarint(nil, uint64(len(paths)))
	last := ""
	for _, p := range paths {
		shared := 0
		for shared < len(p) && shared < len(last) && p[shared] == last[shared] {
			shared++
		}
		b = binary.AppendUvarint(b, uint64(shared))
		b = appendString(b, p[shared:])
		last = p
	}
	return b
}

func encodeFileTouches(ts []FileTouch, paths []string) []byte {
	index := make(map[string]int64, len(paths))
	for i, p := range paths {
		index[p] = int64(i)
	}
	b := binary.AppendUvarint(nil, uint64(len(ts)))
	var last time.Duration
	for _, t := range ts {
		b = binary.AppendUvarint(b, uint64(t.At-last))
		last = t.At
	}
	var lastPath int64
	for _, t := range ts {
		b = binary.AppendVarint(b, index[t.Path]-lastPath)
		lastPath = index[t.Path]
	}
	for _, t := range ts {
		b = binary.AppendUvarint(b, uint64(t.Kind))
	}
	for i, t := range ts {
		base := int64(0)
		if i > 0 && ts[i-1].Path == t.Path {
			base = ts[i-1].FileOff + ts[i-1].Len
		}
		b = binary.AppendVarint(b, t.FileOff-base)
	}
	for _, t := range ts {
		b = binary.AppendUvarint(b, uint64(t.Len))
	}
	return b
}
