package profiles

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// The file format, byte by byte, is in docs/profile.md:
//
//	head (32 bytes) | one zstd frame: the payload, a list of sections | SHA-256 of all before it
//
// Numbers of the head are little-endian; those of the payload are varints.

// Version of the format that Write writes. Read reads every major version up to Major.
const (
	Major = 1
	Minor = 0
)

const (
	magic       = "bprof\r\n\x1a" // the line end shows a transfer in text mode
	headLen     = 32
	trailerLen  = sha256.Size
	versionOff  = 8  // u16 major, u16 minor
	featuresOff = 12 // u32
	payloadOff  = 16 // u64 length of the payload
	frameOff    = 24 // u64 length of the zstd frame
)

// Section numbers. A reader refuses an unknown one below firstOptional and skips one from there on.
const (
	secHeader      = 1
	secTouches     = 2
	secMarks       = 3
	secPaths       = 4
	secFileTouches = 5

	firstOptional = 64
)

// Limits of the format, which bound what Read allocates. A run at all limits takes about 500 MB; the largest
// recorded so far, 162 MB of pages, has 40,000 touches.
const (
	MaxTouches  = 1 << 22            // touches, and file touches
	MaxPathLen  = 4096               // bytes of one path
	maxPayload  = 64 << 20           // bytes of sections
	maxFrame    = maxPayload + 1<<20 // bytes of the zstd frame
	maxAllPaths = 128 << 20          // bytes of all paths together
	maxString   = 128 << 10          // bytes of any other string; Linux allows an argument of this length
)

// Write writes run to w. The same run gives the same bytes. It writes nothing if run breaks a rule that
// Read would refuse it for.
func Write(w io.Writer, run *Run) error {
	b, err := encode(run)
	if err != nil {
		return fmt.Errorf("writing profile: %w", err)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("writing profile: %w", err)
	}
	return nil
}

// Read reads one run from r, which it reads to its end. The error is ErrNotProfile, ErrCorrupt or a
// *VersionError, or that of r.
func Read(r io.Reader) (*Run, error) {
	b, err := io.ReadAll(io.LimitReader(r, headLen+maxFrame+trailerLen+1))
	if err != nil {
		return nil, fmt.Errorf("reading profile: %w", err)
	}
	return decode(b)
}

func encode(run *Run) ([]byte, error) {
	payload, err := encodePayload(run)
	if err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)) // the trailer is the checksum
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	defer enc.Close()
	b := make([]byte, headLen, headLen+len(payload)/2+trailerLen)
	b = enc.EncodeAll(payload, b)
	copy(b, magic)
	binary.LittleEndian.PutUint16(b[versionOff:], Major)
	binary.LittleEndian.PutUint16(b[versionOff+2:], Minor)
	binary.LittleEndian.PutUint64(b[payloadOff:], uint64(len(payload)))
	binary.LittleEndian.PutUint64(b[frameOff:], uint64(len(b)-headLen))
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

func decode(b []byte) (*Run, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, ErrNotProfile
	}
	if len(b) < headLen+trailerLen {
		return nil, corrupt("%d bytes are shorter than any profile", len(b))
	}
	version := VersionError{
		Major: int(binary.LittleEndian.Uint16(b[versionOff:])),
		Minor: int(binary.LittleEndian.Uint16(b[versionOff+2:])),
	}
	// Before the trailer: another major version may have another one.
	if version.Major > Major {
		return nil, &version
	}
	body := b[:len(b)-trailerLen]
	if sum := sha256.Sum256(body); string(sum[:]) != string(b[len(body):]) {
		return nil, corrupt("its checksum does not match, it was cut short or altered")
	}
	if version.Major == 0 {
		return nil, corrupt("format version 0")
	}
	if f := binary.LittleEndian.Uint32(b[featuresOff:]); f != 0 {
		version.Feature = fmt.Sprintf("features %#x", f)
		return nil, &version
	}
	payloadLen := binary.LittleEndian.Uint64(b[payloadOff:])
	frame := body[headLen:]
	if n := binary.LittleEndian.Uint64(b[frameOff:]); n != uint64(len(frame)) {
		return nil, corrupt("its head says %d bytes of zstd, there are %d", n, len(frame))
	}
	if payloadLen > maxPayload {
		return nil, corrupt("a payload of %d bytes is over the limit of %d", payloadLen, maxPayload)
	}
	payload, err := decompress(frame, int(payloadLen))
	if err != nil {
		return nil, err
	}
	return decodePayload(payload, version)
}

// decompress gives the payload, of exactly n bytes.
func decompress(frame []byte, n int) ([]byte, error) {
	// The cap limit makes n, not the frame's own claim, bound the memory.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPayload),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	defer dec.Close()
	out, err := dec.DecodeAll(frame, make([]byte, 0, n))
	if err != nil {
		return nil, corrupt("decompressing its payload: %v", err)
	}
	if len(out) != n {
		return nil, corrupt("its payload has %d bytes, its head says %d", len(out), n)
	}
	return out, nil
}
