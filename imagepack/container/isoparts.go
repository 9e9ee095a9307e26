package container

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/internal/fsmagic"
)

// cloopMagic stands after the first line of a cloop v2 image, which is a shell script.
const cloopMagic = "#!/bin/sh\n#V2.0 Format\n"

// Cloop is the Kind of a compressed loop image, as old KNOPPIX images have it.
const Cloop = "cloop"

// probeLen is how much of a file is read to see what it is: the superblocks of EROFS and ext4.
const probeLen = 2048

// isoParts lists the files of an ISO that are file-system images.
func isoParts(s source) ([]Part, error) {
	im, err := openISO(s)
	if err != nil {
		return nil, err
	}
	var parts []Part
	head := make([]byte, probeLen)
	err = im.walk(im.volume(), func(f isoFile) error {
		if f.dir || f.unpacked != 0 {
			return nil
		}
		b := head[:min(f.length, probeLen)]
		if n, err := newExtentReader(s.r, f.extents).ReadAt(b, 0); n < len(b) {
			return fmt.Errorf("reading %s in the ISO 9660 image: %w", quoted(f.path), err)
		}
		kind := imageKind(b, f.length)
		if kind == "" {
			return nil
		}
		p := Part{Name: f.path, Off: f.extents[0].Off, Len: f.length, Kind: kind}
		if len(f.extents) > 1 {
			p.Extents = f.extents
		}
		parts = append(parts, p)
		return nil
	})
	return parts, err
}

// imageKind tells what file-system image starts with b and is length bytes long, "" for none. The magic of ext4 is only two
// bytes, which one in 65,000 arbitrary files has as well: its superblock must make sense, too.
func imageKind(b []byte, length int64) string {
	if bytes.HasPrefix(b, []byte(cloopMagic)) {
		return Cloop
	}
	kind := fsmagic.Detect(bytes.NewReader(b))
	switch kind {
	case "squashfs", "erofs":
		return kind
	case "ext4":
		if len(b) < probeLen {
			return ""
		}
		sb, le := b[1024:], binary.LittleEndian
		blocks, first, log, rev := int64(le.Uint32(sb[4:])), le.Uint32(sb[20:]), le.Uint32(sb[24:]), le.Uint32(sb[76:])
		if log <= 6 && first <= 1 && rev <= 1 && le.Uint32(sb) > 0 && blocks > 0 && blocks<<(10+log) <= length {
			return kind
		}
	}
	return ""
}

// ISOMap returns the map of an ISO 9660 image: Data for the extents of files, Dir for those of directories, Meta for the
// system area, the descriptors, path tables, Rock Ridge continuations and the directories of the tree of names
// that Linux does not use where there are two. Names are those that Linux shows.
func ISOMap(r io.ReaderAt, size int64) (*imagemap.Map, error) {
	im, err := openISO(source{r, size, ISO9660})
	if err != nil {
		return nil, err
	}
	meta := []tree.Extent{{Off: 0, Len: (isoSystem + im.descs) * isoSector}}
	meta = append(meta, im.primary.pathTables...)
	if im.catalog != nil {
		meta = append(meta, *im.catalog)
	}
	sectors := make(map[int64]bool) // with Rock Ridge continuations
	im.onContinuation = func(off, length int64) {
		for s := off / isoSector; s <= (off+length-1)/isoSector; s++ {
			sectors[s] = true
		}
	}
	var segs []imagemap.Segment
	err = im.walk(im.volume(), func(f isoFile) error {
		kind := imagemap.Data
		if f.dir {
			kind = imagemap.Dir
		}
		var at int64
		for _, e := range f.extents {
			s := imagemap.Segment{ImageOff: e.Off, ImageLen: e.Len, Path: f.path, FileOff: at, FileLen: e.Len, Kind: kind}
			if f.unpacked != 0 {
				s.FileOff, s.FileLen = 0, f.unpacked
			}
			segs = append(segs, s)
			at += e.Len
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if im.joliet != nil {
		meta = append(meta, im.joliet.pathTables...)
		other := im.primary
		if im.rockRidge {
			other = *im.joliet
		}
		// Nothing depends on this tree: one that is damaged has a shorter map.
		_ = im.walk(other, func(f isoFile) error {
			if f.dir {
				meta = append(meta, f.extents...)
			}
			return nil
		})
	}
	for s := range sectors {
		meta = append(meta, tree.Extent{Off: s * isoSector, Len: min(isoSector, size-s*isoSector)})
	}
	for _, e := range join(meta) {
		segs = append(segs, imagemap.Segment{ImageOff: e.Off, ImageLen: e.Len, Kind: imagemap.Meta})
	}
	return imagemap.New(segs), nil
}

// join sorts extents and joins those that touch or overlap.
func join(extents []tree.Extent) []tree.Extent {
	sort.Slice(extents, func(i, j int) bool { return extents[i].Off < extents[j].Off })
	var out []tree.Extent
	for _, e := range extents {
		if n := len(out); n > 0 && e.Off <= out[n-1].Off+out[n-1].Len {
			out[n-1].Len = max(out[n-1].Len, e.Off+e.Len-out[n-1].Off)
			continue
		}
		out = append(out, e)
	}
	return out
}

// quoted returns a name as it may stand in a line of text.
func quoted(name string) string {
	q := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, name)
	if q == name && name != "" {
		return name
	}
	return strconv.Quote(name)
}
