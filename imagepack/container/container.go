// Package container finds the file systems that lie inside another image: the squashfs of a live ISO, the
// partitions of a disk. It needs no root, no loop device and no mount; what it finds is a range of the outer
// image, which the reader of the inner file system is given as an io.ReaderAt.
//
// A Part is one such range. Parts lists all that could hold a root file system, Choose says which one does.
// The rules of Choose stand at its declaration; where they do not decide, its error lists the parts.
//
// An inner image may hold another one: the LiveOS/squashfs.img of older Fedora images is a squashfs with
// nothing but LiveOS/rootfs.img, an ext4, in it. This package looks at the outer layer only; NestedImage tells
// from the tree of the inner file system that there is a further layer to open.
//
// Traps: a hybrid ISO also carries an MBR or a GPT, whose partitions are the ISO itself and a boot file system;
// it counts as ISO. A file over 4 GiB lies in several extents of the ISO. The sector size of a GPT disk is where
// its header lies; that of an MBR disk is written nowhere (see mbr.go). A copy of a disk into a larger file has its
// backup GPT in the middle, where nobody looks for it.
//
// MBR sectors are decoded by go-diskfs, which takes 512 bytes and makes four entries of them. Its GPT and ISO
// 9660 readers (v1.9.4) trust what they read and were not usable for images from elsewhere: a GPT header with a
// valid checksum makes it allocate entry count times entry size, up to a panic; an ISO whose Rock Ridge
// continuation points to itself loops for ever; one changed byte in a directory record panics, which a fuzzer
// finds within a second; the path table may ask for 4 GiB; and the extents of a large file come as several files of
// the same name. So these two are decoded here, and the tests compare both readers on sound images.
//
// Nothing in an image is believed. Memory and time are bounded by the limits in isodir.go and gpt.go, whatever the image
// says, and no directory or partition record is read twice.
package container

import (
	"fmt"
	"io"
	"sort"

	"bootprof/imagepack/tree"
	"bootprof/internal/fsmagic"
)

// Kinds of outer images.
const (
	ISO9660 = "iso9660"
	GPT     = "gpt"
	MBR     = "mbr"
)

// A Part is a file system, or what could be one, inside an image.
type Part struct {
	Name   string // "live/filesystem.squashfs", or "partition 2 (Linux root x86-64)"
	Number int    // of the partition, from 1, as sfdisk counts; 0 for a file of an ISO
	Label  string // name of a GPT partition, "" if it has none
	Type   string // partition type: a name if it is known, else the GUID or "0x83"; "" for a file of an ISO

	Off     int64         // bytes from the start of the outer image; of the first extent if there are several
	Len     int64         // bytes, > 0
	Extents []tree.Extent // where the bytes lie in the outer image, in order; nil means all at Off

	// Kind is what is inside, as fsmagic names it, or "cloop"; "" if unknown. Files of an ISO are never unknown.
	Kind string

	role role
}

// A CorruptError tells that an image contradicts itself or is cut short.
type CorruptError struct {
	Kind string // ISO9660, GPT or MBR
	What string
}

func (e *CorruptError) Error() string { return titles[e.Kind] + " image is corrupt: " + e.What }

// An UnsupportedError tells that an image is sound as far as one can see, but beyond what this package reads.
type UnsupportedError struct {
	Kind string // ISO9660, GPT or MBR
	What string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s image with %s: not supported", titles[e.Kind], e.What)
}

var titles = map[string]string{ISO9660: "ISO 9660", GPT: "GPT disk", MBR: "MBR disk"}

// Detect tells by the first bytes, and for a GPT also by the last sector, whether an image holds others. It
// returns ISO9660, GPT, MBR, or "" for everything else, a plain file system included.
func Detect(r io.ReaderAt, size int64) string {
	switch kind := fsmagic.Detect(io.NewSectionReader(r, 0, size)); kind {
	case ISO9660:
		return ISO9660
	case "", GPT, MBR:
		return detectDisk(r, size, kind)
	}
	return ""
}

// Parts lists the file systems in the image r of size bytes: the files of an ISO that are a squashfs, EROFS, ext4
// or cloop by their content, sorted by name; all partitions of a disk but extended ones, by number. kind is what
// Detect returns; the list of an image that Detect does not know is empty.
func Parts(r io.ReaderAt, size int64) (kind string, parts []Part, err error) {
	kind = Detect(r, size)
	s := source{r, size, kind}
	switch kind {
	case ISO9660:
		parts, err = isoParts(s)
		sort.SliceStable(parts, func(i, j int) bool { return parts[i].Name < parts[j].Name })
	case GPT:
		parts, err = readGPT(s)
	case MBR:
		parts, err = readMBR(s)
	}
	if err != nil {
		return kind, nil, err
	}
	return kind, parts, nil
}

// A source is the outer image with what its errors say of it.
type source struct {
	r    io.ReaderAt
	size int64
	kind string
}

func (s source) corrupt(format string, args ...any) error {
	return &CorruptError{s.kind, fmt.Sprintf(format, args...)}
}

func (s source) unsupported(format string, args ...any) error {
	return &UnsupportedError{s.kind, fmt.Sprintf(format, args...)}
}

// within checks that [off, off+length) lies in the image.
func (s source) within(off, length int64, what string) error {
	if off < 0 || length < 0 || length > s.size || off > s.size-length {
		return s.corrupt("%s is to lie at byte %d, %d bytes long, but the image ends at %d: is it cut short?",
			what, off, length, s.size)
	}
	return nil
}

// read fills b from off.
func (s source) read(b []byte, off int64, what string) error {
	if err := s.within(off, int64(len(b)), what); err != nil {
		return err
	}
	if n, err := s.r.ReadAt(b, off); n < len(b) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading %s of the %s image, %d bytes at %d: %w", what, titles[s.kind], len(b), off, err)
	}
	return nil
}
