package container

import (
	"encoding/binary"
	"strings"
)

// Limits of Rock Ridge fields in one record.
const (
	maxContinuations = 32       // as in Linux
	maxContinuation  = 16 << 10 // bytes; mkisofs and xorriso stay within a sector
	maxName          = 255      // bytes
	posixTypeMask    = 0o170000
)

// rockRidge is what the system use area of a record tells.
type rockRidge struct {
	name      string // "" if it has none
	mode      uint32 // st_mode, 0 if it has none
	child     int64  // block of a directory that was moved up because it lay too deep, 0 if it was not
	relocated bool   // is such a directory, in its technical place: not to be shown there
	unpacked  int64  // size of a file in zisofs compression, 0 if it is stored plainly
	known     bool   // has fields of Rock Ridge at all
}

// findRockRidge looks at the first record of the root for the mark of the System Use Sharing Protocol.
func (im *isoImage) findRockRidge() error {
	b := make([]byte, min(isoSector, max(im.primary.root.size, 0)))
	if len(b) == 0 {
		return im.corrupt("the root directory is empty")
	}
	if err := im.read(b, im.primary.root.off, "the root directory"); err != nil {
		return err
	}
	dot, err := im.parseRecord(b, im.primary.block)
	if err != nil {
		return err
	}
	for _, at := range []int{0, 14} { // 14 bytes of a CD-XA disc may precede it
		if s := dot.system; len(s) >= at+7 && string(s[at:at+3]) == "SP\x07" && s[at+4] == 0xbe && s[at+5] == 0xef {
			im.skip = int(s[at+6])
			rr, err := im.parseRockRidge(dot.system[at:], im.primary.block, &budget{})
			if err != nil {
				return err
			}
			im.rockRidge = rr.known
			return nil
		}
	}
	return nil
}

// parseRockRidge reads the fields of a system use area (IEEE P1281 and P1282), following continuation areas.
func (im *isoImage) parseRockRidge(b []byte, block int64, used *budget) (rockRidge, error) {
	var rr rockRidge
	var name strings.Builder
	le := binary.LittleEndian
	for hops := 0; ; hops++ {
		var next, nextLen int64
		for len(b) >= 4 {
			n := int(b[2])
			if n < 4 || n > len(b) {
				break // padding, or what is not Rock Ridge
			}
			f := b[:n]
			switch sig := string(f[:2]); {
			case sig == "CE" && n >= 28:
				next = int64(le.Uint32(f[4:]))*block + int64(le.Uint32(f[12:]))
				nextLen = int64(le.Uint32(f[20:]))
			case sig == "NM" && n >= 5:
				rr.known = true
				if f[4]&6 == 0 { // not "." or ".."
					name.Write(f[5:])
				}
			case sig == "PX" && n >= 8:
				rr.known, rr.mode = true, le.Uint32(f[4:])
			case sig == "CL" && n >= 8:
				rr.known, rr.child = true, int64(le.Uint32(f[4:]))
			case sig == "RE":
				rr.known, rr.relocated = true, true
			case sig == "RR", sig == "ER" && n >= 12 && (string(f[8:12]) == "RRIP" || string(f[8:12]) == "IEEE"):
				rr.known = true
			case sig == "ZF" && n >= 16 && string(f[4:6]) == "pz":
				rr.unpacked = int64(le.Uint32(f[12:]))
			case sig == "ST":
				n = len(b)
			}
			b = b[n:]
		}
		if name.Len() > maxName {
			return rr, im.corrupt("name of %d bytes", name.Len())
		}
		if nextLen == 0 {
			rr.name = name.String()
			return rr, nil
		}
		if hops == maxContinuations || nextLen > maxContinuation {
			return rr, im.corrupt("directory record with %d continuations, the last of %d bytes", hops+1, nextLen)
		}
		if err := used.take(im, nextLen, 0); err != nil {
			return rr, err
		}
		b = make([]byte, nextLen)
		if err := im.read(b, next, "a Rock Ridge continuation"); err != nil {
			return rr, err
		}
		if im.onContinuation != nil {
			im.onContinuation(next, nextLen)
		}
	}
}
