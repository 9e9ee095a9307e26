// Package bpk reads the pack format (.bpk): one immutable file that holds a read-only file-system image
// with the pages that a boot touches laid out first. docs/format.md is the specification; this package is
// its reader and the encoders of its parts, without the image readers, so that the boot-time client that
// links it stays small.
//
// Concepts:
//
//   - The *image* is the file-system image inside, a multiple of 4 KiB long, cut into pages of 4 KiB.
//   - The *boot zone* holds the boot pages in first-touch order, cut into chunks. Chunks of one *frame*
//     share a zstd history: chunk k of a frame can be decoded once chunks 0..k-1 of it were.
//   - The *body* holds all other pages in image order, in chunks that are decoded on their own. A body
//     chunk covers a range of the image; the boot pages inside that range are left out of its bytes.
//   - Two features move chunks out of the file. A *manifest* (FeatureBeside) has an image beside it that any
//     program can use without us; a *split* pack (FeatureSplit) has its body chunks in files named by digest.
//   - Every chunk, index and node is checked against a SHA-256 that leads back to the header; the digest of
//     the header stands for the whole pack.
//
// Traps: offsets into the pack (packOff) and offsets into the image (imageOff) are different spaces and
// never added, but in one place: for a manifest, byte i of the image file has packOff PackSize+i
// (Header.InImage). A pack is input from the network: every decoder here is bounded by the limits below.
package bpk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Constants of the format.
const (
	PageSize    = 4096 // bytes of an image page
	HeaderSize  = 512  // bytes of the header, at packOff 0
	Major       = 1    // another major version cannot be read
	Minor       = 0    // a higher minor version adds only what may be ignored
	NodeEntries = 128  // entries of a body index node at the most
	entrySize   = 64   // bytes of a body index entry
)

// Feature bits of Header.Features. A reader refuses a pack with a bit of RefuseFeatures that it does not
// know, and ignores the other bits that it does not know.
const (
	FeatureBeside  = 1 << 0 // a manifest: the pack holds indexes only, the image is a plain file beside it
	FeatureSplit   = 1 << 1 // the body's chunks are files of their own, named by digest
	RefuseFeatures = 0xffff
	knownFeatures  = FeatureBeside | FeatureSplit
)

// Limits that a reader enforces before it allocates.
const (
	MaxImageSize    = 1 << 43  // 8 TiB
	MaxPackSize     = 1 << 48  // every image fits; a manifest's packOff, PackSize+imageOff, never overflows
	MaxIndexLen     = 16 << 20 // stored bytes of the boot index, or of the info
	MaxHeadLen      = 32 << 20 // bytes of the pack before the boot zone
	MaxBootRanges   = 1 << 20  // ranges in the boot index
	maxTableLen     = 32 << 20 // bytes of the boot index's table, decompressed
	maxDepth        = 6        // levels of the body index
	MaxChunkPages   = 256      // 1 MiB of image in a chunk
	MaxWindow       = 8 << 20  // zstd window of a boot frame
	MaxFramePages   = 16384    // 64 MiB of image in a boot frame
	maxStoredExcess = 1 << 16  // a stored chunk may exceed its pages by this much

	maxBootPages = MaxIndexLen / sha256.Size * MaxChunkPages // chunks of more would have no room for their digests
)

var magic = [8]byte{'B', 'P', 'K', 'I', 'M', 'G', '\r', '\n'}

// ErrNotPack tells that the bytes are not the start of a pack.
var ErrNotPack = errors.New("not a bootprof pack")

// A VersionError tells that the pack is of a format, or uses a feature of it, that this reader does not know.
type VersionError struct {
	Major, Minor uint16
	Features     uint32 // the unknown bits of RefuseFeatures; 0 if it is the major version that differs
}

func (e *VersionError) Error() string {
	if e.Features != 0 {
		return fmt.Sprintf("pack format %d.%d with features %#x that this bootprof does not know: update bootprof", e.Major, e.Minor, e.Features)
	}
	return fmt.Sprintf("pack format %d.%d: this bootprof reads format %d: update bootprof", e.Major, e.Minor, Major)
}

// A CorruptError tells that bytes of a pack are not what its digests or its format say. Reading them again
// from elsewhere may help.
type CorruptError struct {
	What    string // "boot chunk 12", "header", ...
	PackOff int64  // where in the pack, bytes; not used if File is set
	Why     string
	File    string // the file that it lies in, if that is not the pack: a manifest's image or a chunk's file; else ""
	FileOff int64  // where in File, bytes
}

func (e *CorruptError) Error() string {
	if e.File != "" {
		return fmt.Sprintf("%s at byte %d of %s is damaged: %s", e.What, e.FileOff, e.File, e.Why)
	}
	return fmt.Sprintf("%s at byte %d of the pack is damaged: %s", e.What, e.PackOff, e.Why)
}

// corrupt makes the error for a part of the pack itself.
func corrupt(what string, packOff int64, why string, a ...any) *CorruptError {
	return &CorruptError{What: what, PackOff: packOff, Why: fmt.Sprintf(why, a...)}
}

// A Block is a part of the pack that is checked against a digest.
type Block struct {
	PackOff int64 // bytes
	Len     int64 // stored bytes
	SHA256  [32]byte
}

// A Header is the first HeaderSize bytes of a pack. Written once, read-only afterwards.
type Header struct {
	Major, Minor uint16
	Features     uint32   // see RefuseFeatures
	ImageSize    int64    // bytes, a multiple of PageSize
	ImageSHA256  [32]byte // of the whole image
	PackSize     int64    // bytes of the whole pack file
	Filesystem   string   // of the image, at most 15 of a-z 0-9 . _ -: "erofs", "ext4", ...; "" if unknown
	BootIndex    Block
	BodyRoot     Block // root node of the body index
	BodyDepth    int   // levels of the body index: 1 if the root is a leaf, 0 if the image is empty
	Boot         Block // the boot zone; its SHA256 is unused and zero
	BootPages    int64 // pages in the boot zone
	Info         Block // JSON about how the pack was made; Len 0 if there is none
}

// Encode returns the HeaderSize bytes of h.
func (h *Header) Encode() []byte {
	b := make([]byte, HeaderSize)
	le := binary.LittleEndian
	copy(b, magic[:])
	le.PutUint16(b[8:], h.Major)
	le.PutUint16(b[10:], h.Minor)
	le.PutUint32(b[12:], PageSize)
	le.PutUint64(b[16:], uint64(h.ImageSize))
	le.PutUint64(b[24:], uint64(h.PackSize))
	copy(b[32:64], h.ImageSHA256[:])
	copy(b[64:79], h.Filesystem)
	putBlock(b[80:], h.BootIndex)
	putBlock(b[128:], h.BodyRoot)
	putBlock(b[176:], h.Boot)
	putBlock(b[224:], h.Info)
	le.PutUint64(b[272:], uint64(h.BootPages))
	le.PutUint32(b[280:], uint32(h.BodyDepth))
	le.PutUint32(b[284:], h.Features)
	sum := sha256.Sum256(b[:HeaderSize-32])
	copy(b[HeaderSize-32:], sum[:])
	return b
}

func putBlock(b []byte, k Block) {
	binary.LittleEndian.PutUint64(b, uint64(k.PackOff))
	binary.LittleEndian.PutUint64(b[8:], uint64(k.Len))
	copy(b[16:48], k.SHA256[:])
}

func getBlock(b []byte) Block {
	k := Block{PackOff: int64(binary.LittleEndian.Uint64(b)), Len: int64(binary.LittleEndian.Uint64(b[8:]))}
	copy(k.SHA256[:], b[16:48])
	return k
}

// Digest returns the SHA-256 of an encoded header, which stands for the whole pack.
func Digest(header []byte) [32]byte { return sha256.Sum256(header[:HeaderSize]) }

// IsPack tells whether b starts as a pack does. Eight bytes are enough.
func IsPack(b []byte) bool { return len(b) >= len(magic) && bytes.Equal(b[:len(magic)], magic[:]) }

// DecodeHeader reads a header from the first bytes of a pack.
func DecodeHeader(b []byte) (*Header, error) {
	if !IsPack(b) {
		return nil, ErrNotPack
	}
	if len(b) < HeaderSize {
		return nil, corrupt("header", 0, "cut off after %d bytes", len(b))
	}
	b = b[:HeaderSize]
	le := binary.LittleEndian
	// The checksum lies in the same place in every major version: damage does not look like a new version.
	if sum := sha256.Sum256(b[:HeaderSize-32]); !bytes.Equal(sum[:], b[HeaderSize-32:]) {
		return nil, corrupt("header", 0, "wrong checksum")
	}
	h := &Header{Major: le.Uint16(b[8:]), Minor: le.Uint16(b[10:]), Features: le.Uint32(b[284:])}
	if h.Major != Major {
		return nil, &VersionError{Major: h.Major, Minor: h.Minor}
	}
	if unknown := h.Features & RefuseFeatures &^ knownFeatures; unknown != 0 {
		return nil, &VersionError{h.Major, h.Minor, unknown}
	}
	if p := le.Uint32(b[12:]); p != PageSize {
		return nil, corrupt("header", 12, "pages of %d bytes", p)
	}
	h.ImageSize = int64(le.Uint64(b[16:]))
	h.PackSize = int64(le.Uint64(b[24:]))
	copy(h.ImageSHA256[:], b[32:64])
	h.Filesystem = string(bytes.TrimRight(b[64:80], "\x00"))
	h.BootIndex, h.BodyRoot, h.Boot, h.Info = getBlock(b[80:]), getBlock(b[128:]), getBlock(b[176:]), getBlock(b[224:])
	h.BootPages = int64(le.Uint64(b[272:]))
	h.BodyDepth = int(le.Uint32(b[280:]))
	if err := h.check(); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Header) check() error {
	bad := func(why string, a ...any) error { return corrupt("header", 0, why, a...) }
	if h.ImageSize < 0 || h.ImageSize > MaxImageSize || h.ImageSize%PageSize != 0 {
		return bad("image of %d bytes", h.ImageSize)
	}
	if h.PackSize < HeaderSize || h.PackSize > MaxPackSize {
		return bad("pack of %d bytes", h.PackSize)
	}
	if strings.Trim(h.Filesystem, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" || len(h.Filesystem) > 15 {
		return bad("file system %q", h.Filesystem)
	}
	next := int64(HeaderSize)
	for _, k := range []Block{h.BootIndex, h.Boot, h.BodyRoot} { // in this order in the pack, gaps allowed
		if k.Len < 0 || k.PackOff < next || k.PackOff > h.PackSize || k.Len > h.PackSize-k.PackOff {
			return bad("block [%d +%d) outside the pack or out of order", k.PackOff, k.Len)
		}
		next = k.PackOff + k.Len
	}
	if h.Boot.PackOff > MaxHeadLen {
		return bad("the boot zone begins at byte %d", h.Boot.PackOff)
	}
	if k := h.Info; k.Len != 0 && (k.Len < 0 || k.PackOff < next || k.PackOff > h.PackSize || k.Len > h.PackSize-k.PackOff) {
		return bad("info [%d +%d) outside the pack", k.PackOff, k.Len)
	}
	if h.BootIndex.Len > MaxIndexLen || h.Info.Len > MaxIndexLen || h.BodyRoot.Len > NodeEntries*entrySize {
		return bad("index larger than its limit")
	}
	if h.BootPages < 0 || h.BootPages > h.ImageSize/PageSize || h.BootPages > maxBootPages {
		return bad("%d boot pages", h.BootPages)
	}
	switch h.Features & knownFeatures {
	case FeatureBeside:
		if h.Boot.Len != 0 {
			return bad("a manifest with a boot zone of %d bytes", h.Boot.Len)
		}
	case FeatureBeside | FeatureSplit:
		return bad("a manifest that is split")
	}
	if h.BodyDepth < 0 || h.BodyDepth > maxDepth || (h.BodyDepth == 0) != (h.BodyRoot.Len == 0) || (h.BodyDepth == 0) != (h.ImageSize == 0) {
		return bad("body index of depth %d", h.BodyDepth)
	}
	return nil
}

// CheckBlock compares b with the digest of k. what names the block in the error.
func CheckBlock(what string, k Block, b []byte) error {
	if int64(len(b)) != k.Len {
		return corrupt(what, k.PackOff, "%d bytes instead of %d", len(b), k.Len)
	}
	if sha256.Sum256(b) != k.SHA256 {
		return corrupt(what, k.PackOff, "wrong SHA-256")
	}
	return nil
}
