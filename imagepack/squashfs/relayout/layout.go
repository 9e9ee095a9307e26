// Package relayout writes squashfs 4.0 images whose content lies in boot order: an ordinary image that any kernel
// mounts, of which a boot reads one contiguous part and the tables at its end.
//
// Relayout makes it of a squashfs: stored blocks are moved as they are, only fragment blocks that hold tails a boot
// touches beside tails it does not are unpacked and packed again. Write makes it of a tree.
//
// The image is: superblock, compressor options, hot region, cold region, tables. In the hot region lie the files
// that the boot touches, in order of first touch, and the fragment blocks of their tails. A file's blocks must stay
// together, so what is moved is a file's whole run of blocks; a large file of which little is touched lies at
// the end of the hot region, where it is in nobody's way. The cold region keeps the order of the source. Within
// the tables the inodes and listings that a boot reads lie together as well: files' inodes come first, those touched
// in front, then the directories, the untouched ones in front.
//
// Traps. The kernel wants the tables in the order inodes, directories, fragments, export, owners, attributes, each
// ending exactly where the next begins, and the last at the end that the superblock tells. Positions of inodes
// stand in listings, and positions of listings in the inodes of directories: so a directory's inode comes after the
// inodes of all that is in it. A basic inode of a file holds 32 bits of position, so a moved file may need an
// extended one. Files with equal content share their blocks and must go on sharing them.
package relayout

import (
	"context"
	"io"
	"runtime"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
)

// Format constants.
const (
	magic        = 0x73717368 // "hsqs"
	superLen     = 96
	metaLen      = 8192 // bytes a metadata block unpacks to
	plainDataBit = 1 << 24
	plainMetaBit = 1 << 15
	maxOwners    = 1<<16 - 1 // the superblock counts them in 16 bits
	maxXattrLen  = 1 << 16   // bytes of a value
	minBlockSize = 4 << 10
	maxBlockSize = 1 << 20
	pad          = 4096 // an image is padded to a multiple: loop mounts want it
)

// Flags of the superblock.
const (
	flagPlainInodes    = 0x0001
	flagPlainData      = 0x0002
	flagPlainFragments = 0x0008
	flagAlwaysFragment = 0x0020
	flagDeduplicated   = 0x0040
	flagExportable     = 0x0080
	flagPlainXattrs    = 0x0100
	flagCompOptions    = 0x0400
	flagPlainIDs       = 0x0800
)

// Compressor numbers of the superblock.
const (
	compGzip = 1
	compXZ   = 4
	compLZ4  = 5
	compZstd = 6
)

// Tuning.
const (
	largeRun     = 4 << 20  // bytes; a run longer than this ...
	largeTouched = 4        // ... of which less than 1/largeTouched is touched comes at the end of the hot region
	windowBytes  = 24 << 20 // unpacked fragment blocks that are being rebuilt at a time
	writeBuffer  = 1 << 20
	maxWorkers   = 4
)

// A File is where an image is written to. It is read as well, to check and map what was written.
type File interface {
	io.WriterAt
	io.ReaderAt
}

// A Touch is a part of a file that a boot reads.
type Touch struct {
	Path    string // without a leading slash, "" for the root
	Kind    imagemap.Kind
	FileOff int64 // Data: offset in the file
	Len     int64 // Data: bytes
}

// Options of Relayout and Write. The zero value is usable.
type Options struct {
	// Order is what a boot touches, in order of first touch. Paths that are not in the image are counted in
	// Layout.UnknownTouches and otherwise ignored.
	Order []Touch

	Workers int // compressing goroutines, each with 35 MB of memory for zstd; 0 means one per processor, at most 4

	// Progress, if set, is called with the bytes of content done and their sum: stored bytes for Relayout, sizes of
	// files for Write. It is called by one goroutine, which is not the caller's.
	Progress func(done, total int64)

	// The rest is for Write only; Relayout keeps what the source has.

	BlockSize  int    // a power of two from 4 KiB to 1 MiB; 0 means 128 KiB
	Compressor string // "zstd" (also if empty), "gzip", "xz", "lz4", or "none"
	MkfsTime   uint32 // seconds since 1970
}

func (o *Options) workers() int {
	if o.Workers > 0 {
		return o.Workers
	}
	return min(runtime.GOMAXPROCS(0), maxWorkers)
}

// A Layout tells what was written.
type Layout struct {
	Size     int64 // bytes of the image, a multiple of 4 KiB
	HotEnd   int64 // bytes: content that is touched lies before it, except files counted in LargeBytes
	HotBytes int64 // bytes of runs and fragment blocks in the hot region, up to HotEnd

	// LargeBytes of large files of which little is touched follow HotEnd. Zero if there are none.
	LargeBytes int64

	Segments []imagemap.Segment // as squashfs.Reader.Map has them for the new image

	Inodes           int
	Duplicates       int // files that share the blocks of another with equal content
	MovedFragments   int // Relayout: fragment blocks taken as they are
	RebuiltFragments int // Relayout: fragment blocks made of the tails of others
	UnknownTouches   int // of Options.Order: no such path

	DroppedXattrs int // Write: attributes squashfs has no room for: POSIX ACLs and other names of "system."
	ClampedTimes  int // Write: inodes with an mtime before 1970 or after 2106, set to the nearest there is
}

// finish maps the written image.
func (l *Layout) finish(ctx context.Context, dst File, used int64) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	r, err := squashfs.Open(dst, used)
	if err != nil {
		return err
	}
	l.Segments, err = r.Segments()
	return err
}
