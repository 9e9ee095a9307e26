// Package profiles holds what boots of an image touched, and the file format it is kept in.
//
// A Run is one recorded boot. Its touches are *first* touches of image pages, in the order and with the
// time at which the boot came to need them; an image byte stands in at most one touch. The same touches
// are also kept as file touches (path, file offset), so that a run recorded on one image still serves a
// rebuilt one (see Rebase).
//
// Two runs can be merged only if they were recorded on the same image and in the same mode; otherwise one
// is rebased first. The package is pure: it opens no files and knows no file system.
package profiles

import "time"

// MethodMisses is the Header.Method of a run of what a mounted client had to fetch outside its boot zone.
const MethodMisses = "misses"

// MethodReads is that of a run of all that a client with --record was asked for, page by page.
const MethodReads = "client-reads"

// PageSize is the unit of recording, in bytes.
const PageSize = 4096

// A Run is one recorded boot. The zero value is an empty run of an unknown image.
type Run struct {
	Header      Header
	Touches     []Touch     // by At
	Marks       []Mark      // by At
	FileTouches []FileTouch // by At
}

// Header says what was booted and how it was recorded.
type Header struct {
	ImageSize   int64    `json:"image_size"`  // bytes
	ImageSHA256 [32]byte `json:"-"`           // of the whole image
	Filesystem  string   `json:"filesystem"`  // "erofs", "squashfs", "" if unknown
	Method      string   `json:"method"`      // how touches were seen: "fuse-direct", MethodMisses
	Readahead   int64    `json:"readahead"`   // bytes of kernel readahead while recording
	Kernel      string   `json:"kernel"`      // uname -r
	Machine     string   `json:"machine"`     // class of machine: "x86_64, 2 cpus, 24 GiB"
	Coarse      bool     `json:"coarse"`      // touches are whole compressed blocks, not pages
	TimeScaled  bool     `json:"time_scaled"` // the time axis is not that of real hardware (TCG)
	End         string   `json:"end"`         // why recording ended: "until", "until-file", "duration", "exit 0", "exit 3", "interrupted"
	RecordedAt  int64    `json:"recorded_at"` // Unix seconds; 0 if not kept
	Duration    int64    `json:"duration_ns"` // nanoseconds from start to end of recording
	Command     []string `json:"command"`     // what was run
}

// A Touch is the first use of an image range.
type Touch struct {
	At       time.Duration // since the start of the run
	ImageOff int64         // bytes, a multiple of PageSize
	Len      int64         // bytes, > 0; a multiple of PageSize except at the image's end
}

// Kind says what of a file was touched. The values are those of imagemap.Kind.
type Kind uint8

const (
	KindData Kind = iota
	KindInode
	KindDir
	KindMeta
)

// A FileTouch is a touch told by path.
type FileTouch struct {
	At      time.Duration
	Path    string // no leading slash, "" is the root directory; raw bytes
	Kind    Kind
	FileOff int64 // bytes; KindData and KindDir
	Len     int64 // bytes; KindData and KindDir
}

// A Mark is a named moment of the run.
type Mark struct {
	At   time.Duration
	Name string // "start", "until", "end", ...
}

// A Range is a half-open range of an image, in bytes.
type Range struct{ ImageOff, Len int64 }
