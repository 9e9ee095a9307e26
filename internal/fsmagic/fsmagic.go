// Package fsmagic names the file system or partition table at the start of an image by its magic bytes.
//
// It is a hint for choosing a mount type, not a check: an image with the right magic may still be
// damaged. File systems win over partition tables, because a hybrid ISO carries both and because the
// boot block of ext4 or vfat may hold what looks like an MBR.
package fsmagic

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Window is how many bytes from the start Detect looks at. The farthest magic is that of btrfs.
const Window = 0x10048

// fixed are the formats told by constant bytes at a constant offset, in order of precedence.
var fixed = []struct {
	name  string
	off   int
	magic string
}{
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"squashfs", 0, "hsqs"},
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"iso9660", 0x8001, "CD001"},
	{"ext4", 1024 + 0x38, "\x53\xef"},
	{"exfat", 3, "EXFAT   "},
	{"vfat", 54, "FAT12   "},
	{"vfat", 54, "FAT16   "},
	{"vfat", 82, "FAT32   "},
	{"gpt", 512, "EFI PART"},
	{"gpt", 4096, "EFI PART"},
}

// Detect reads up to Window bytes of r and returns the name that mount(2) knows the file system under, "gpt"
// or "mbr" for a partition table, or "" if it is none of those it knows. ext2 and ext3 are "ext4", whose
// driver mounts them. A read error ends the look; what was read before it still counts.
func Detect(r io.Reader) string {
	b, _ := io.ReadAll(io.LimitReader(r, Window))
	for _, f := range fixed {
		if len(b) >= f.off && bytes.HasPrefix(b[f.off:], []byte(f.magic)) {
			return f.name
		}
	}
	if isMBR(b) {
		return "mbr"
	}
	return ""
}

// Mountable tells whether name, as returned by Detect, is a file system rather than a partition table.
func Mountable(name string) bool { return name != "" && name != "gpt" && name != "mbr" }

// isMBR wants the boot signature, a status of 0 or 0x80 in all four entries, and one entry in use.
func isMBR(b []byte) bool {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
		return false
	}
	used := false
	for e := b[446:510]; len(e) > 0; e = e[16:] {
		if e[0]&0x7f != 0 {
			return false
		}
		if e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) != 0 {
			used = true
		}
	}
	return used
}
