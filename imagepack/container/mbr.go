package container

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/diskfs/go-diskfs/partition/mbr"

	"bootprof/internal/fsmagic"
)

// maxLogical is how many links of the chain of logical partitions are followed. Linux gives up earlier.
const maxLogical = 256

// mbrTypes are the partition types that are told by name; mbrRoles those that are not like 0x83.
var mbrTypes = map[mbr.Type]string{
	mbr.Fat12: "FAT12", mbr.Fat16: "FAT16", mbr.Fat16b: "FAT16", mbr.Fat16bLBA: "FAT16", mbr.NTFS: "NTFS or exFAT",
	mbr.Fat32CHS: "FAT32", mbr.Fat32LBA: "FAT32", mbr.LinuxSwap: "Linux swap", mbr.Linux: "Linux",
	mbr.LinuxLVM: "Linux LVM", mbr.EFISystem: "EFI system", mbr.GPTProtective: "GPT protective", 0xfd: "Linux RAID",
	0xda: "data", 0xea: "Linux extended boot",
}

var mbrRoles = map[mbr.Type]role{
	mbr.LinuxSwap: roleOther, mbr.EFISystem: roleBoot, mbr.LinuxLVM: roleOther, 0xfd: roleOther, 0xea: roleBoot,
}

// readMBR lists the partitions of an MBR disk. The table counts in sectors and does not say how large these are: 512
// bytes are taken first, 4096 if only they give partitions with a known file system.
func readMBR(s source) ([]Part, error) {
	parts, err := readMBRSectors(s, 512)
	if err == nil && known(parts) > 0 {
		return parts, nil
	}
	if large, largeErr := readMBRSectors(s, 4096); largeErr == nil && known(large) > 0 {
		return large, nil
	}
	return parts, err
}

func known(parts []Part) int {
	n := 0
	for _, p := range parts {
		if p.Kind != "" {
			n++
		}
	}
	return n
}

func readMBRSectors(s source, sector int64) ([]Part, error) {
	table, err := readMBRSector(s, 0)
	if err != nil {
		return nil, err
	}
	var parts []Part
	var extended int64 // sector of the extended partition
	for _, p := range table {
		switch {
		case p.Type == mbr.Empty || p.Size == 0:
		case isExtended(p.Type):
			if extended == 0 {
				extended = int64(p.Start)
			}
		default:
			part, err := mbrPart(s, p.Index, p.Type, int64(p.Start)*sector, int64(p.Size)*sector)
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
		}
	}
	if extended == 0 {
		return parts, nil
	}
	logical, err := readLogical(s, extended, sector)
	return append(parts, logical...), err
}

// readLogical follows the chain of logical partitions. Each of its sectors has the partition, counted from that
// sector, and the link to the next, counted from the start of the extended partition; links may go backwards.
func readLogical(s source, extended, sector int64) ([]Part, error) {
	var parts []Part
	seen := make(map[int64]bool)
	for at := extended; ; {
		if seen[at] {
			return nil, s.corrupt("the chain of logical partitions comes back to sector %d", at)
		}
		if len(seen) == maxLogical {
			return nil, s.unsupported("more than %d logical partitions", maxLogical)
		}
		seen[at] = true
		table, err := readMBRSector(s, at*sector)
		if err != nil {
			return nil, err
		}
		next := int64(-1)
		for _, p := range table[:2] { // the other two are unused and may hold anything
			switch {
			case p.Type == mbr.Empty || p.Size == 0:
			case isExtended(p.Type):
				next = extended + int64(p.Start)
			default:
				part, err := mbrPart(s, 5+len(parts), p.Type, (at+int64(p.Start))*sector, int64(p.Size)*sector)
				if err != nil {
					return nil, err
				}
				parts = append(parts, part)
			}
		}
		if next < 0 {
			return parts, nil
		}
		at = next
	}
}

func isExtended(t mbr.Type) bool {
	return t == mbr.ExtendedCHS || t == mbr.ExtendedLBA || t == mbr.LinuxExtended
}

func mbrPart(s source, number int, t mbr.Type, off, length int64) (Part, error) {
	typ := mbrTypes[t]
	if typ == "" {
		typ = fmt.Sprintf("type 0x%02x", byte(t))
	}
	r, ok := mbrRoles[t]
	if !ok {
		r = roleLinux // types are seldom set with care: what is inside counts
	}
	return newPartition(s, number, typ, "", r, off, length)
}

// newPartition checks where a partition lies and looks what is inside.
func newPartition(s source, number int, typ, label string, r role, off, length int64) (Part, error) {
	p := Part{Name: fmt.Sprintf("partition %d (%s)", number, typ), Number: number, Label: label, Type: typ,
		Off: off, Len: length, role: r}
	if err := s.within(off, length, fmt.Sprintf("partition %d", number)); err != nil {
		return Part{}, err
	}
	p.Kind = fsmagic.Detect(io.NewSectionReader(s.r, off, length))
	if !fsmagic.Mountable(p.Kind) {
		p.Kind = "" // what looks like a partition table in a partition is a boot sector
	}
	return p, nil
}

// readMBRSector decodes the table at off: four entries, unused ones included.
func readMBRSector(s source, off int64) ([]*mbr.Partition, error) {
	if err := s.within(off, 512, "a partition table"); err != nil {
		return nil, err
	}
	b := make([]byte, 512)
	if err := s.read(b, off, "a partition table"); err != nil {
		return nil, err
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, s.corrupt("the partition table at byte %d has no boot signature", off)
	}
	table, err := mbr.Read(sector{io.NewSectionReader(s.r, off, 512)}, 512, 512)
	if err != nil {
		return nil, s.corrupt("the partition table at byte %d has an entry that is neither active nor inactive", off)
	}
	return table.Partitions, nil
}

// A sector is the part of an image that go-diskfs may see, in the shape of the file it asks for.
type sector struct{ *io.SectionReader }

func (sector) Close() error               { return nil }
func (sector) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
