package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"bootprof/internal/fsmagic"
)

// Layout of a GPT header and its entries (UEFI specification 2.10, section 5.3).
const (
	gptMagic     = "EFI PART"
	gptHeaderLen = 92
	gptEntryLen  = 128
)

// Limits. A table of the usual 128 entries takes 16 KiB.
const (
	maxEntries   = 1024
	maxEntryLen  = 4096
	maxTableSize = 1 << 20 // bytes
)

// sectorSizes are tried in this order: the header lies in the second sector, its backup in the last.
var sectorSizes = []int64{512, 4096, 1024, 2048}

// detectDisk tells GPT, MBR and "" apart. magic is what fsmagic says. A GPT counts if the MBR says so, or if
// there is no MBR at all: a disk that was partitioned anew as MBR may still have an old GPT.
func detectDisk(r io.ReaderAt, size int64, magic string) string {
	first := make([]byte, 512)
	if n, _ := r.ReadAt(first, 0); n < len(first) {
		return ""
	}
	signature := first[510] == 0x55 && first[511] == 0xaa
	protective := false
	for e := first[446:510]; len(e) > 0; e = e[16:] {
		protective = protective || signature && e[4] == 0xee
	}
	if protective {
		return GPT
	}
	if magic == MBR {
		return MBR
	}
	b := make([]byte, len(gptMagic))
	for _, sector := range sectorSizes {
		for _, off := range []int64{sector, (size/sector - 1) * sector} {
			if off <= 0 || off > size-int64(len(b)) {
				continue
			}
			if n, _ := r.ReadAt(b, off); n == len(b) && string(b) == gptMagic {
				return GPT
			}
		}
	}
	return ""
}

// readGPT lists the partitions of a GPT disk. If the primary table is damaged the backup is used.
func readGPT(s source) ([]Part, error) {
	var firstErr error
	for _, backup := range []bool{false, true} {
		for _, sector := range sectorSizes {
			lba := int64(1)
			if backup {
				lba = s.size/sector - 1
			}
			parts, err := readGPTAt(s, sector, lba)
			if err == nil {
				return parts, nil
			}
			if firstErr == nil && !errors.Is(err, errNoGPT) {
				firstErr = err // of the primary if it is there, as that is the one to repair
			}
			var damaged *badTableError
			if !errors.Is(err, errNoGPT) && !errors.As(err, &damaged) {
				return nil, err // the table is sound, a partition or the reading is not
			}
		}
	}
	if firstErr == nil {
		firstErr = errors.New("the MBR announces a GPT, but neither the start nor the end of the image has one: is it cut short?")
	}
	return nil, s.corrupt("%v", firstErr)
}

// errNoGPT tells that there is no header at the place that was looked at.
var errNoGPT = errors.New("no GPT header")

// A badTableError tells that there is a table, but a damaged one.
type badTableError struct{ what string }

func (e *badTableError) Error() string { return e.what }

// readGPTAt reads the table whose header is in sector lba.
func readGPTAt(s source, sector, lba int64) ([]Part, error) {
	if lba < 1 || (lba+1)*sector > s.size {
		return nil, errNoGPT
	}
	h := make([]byte, sector)
	if err := s.read(h, lba*sector, "a GPT header"); err != nil {
		return nil, err
	}
	if string(h[:len(gptMagic)]) != gptMagic {
		return nil, errNoGPT
	}
	bad := func(format string, args ...any) error {
		return &badTableError{fmt.Sprintf("GPT header in sector %d: ", lba) + fmt.Sprintf(format, args...)}
	}
	le := binary.LittleEndian
	headerLen, sum := int64(le.Uint32(h[12:])), le.Uint32(h[16:])
	if headerLen < gptHeaderLen || headerLen > sector {
		return nil, bad("%d bytes long", headerLen)
	}
	clear(h[16:20])
	if got := crc32.ChecksumIEEE(h[:headerLen]); got != sum {
		return nil, bad("wrong checksum")
	}
	own, table := le.Uint64(h[24:]), le.Uint64(h[72:])
	count, entryLen, tableSum := int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:])), le.Uint32(h[88:])
	switch {
	case own != uint64(lba):
		return nil, bad("it says that it belongs in sector %d", own)
	case entryLen < gptEntryLen || entryLen > maxEntryLen || entryLen&(entryLen-1) != 0:
		return nil, bad("entries of %d bytes", entryLen)
	case count > maxEntries || count*entryLen > maxTableSize:
		return nil, bad("%d entries of %d bytes", count, entryLen)
	case table > uint64(s.size/sector) || int64(table)*sector > s.size-count*entryLen:
		return nil, bad("its entries are to lie at sector %d, behind the end of the image", table)
	}
	entries := make([]byte, count*entryLen)
	if err := s.read(entries, int64(table)*sector, "the GPT entries"); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != tableSum {
		return nil, bad("its entries have a wrong checksum")
	}
	return gptParts(s, entries, entryLen, sector)
}

// gptParts makes partitions of a checked table of entries.
func gptParts(s source, entries []byte, entryLen, sector int64) ([]Part, error) {
	le := binary.LittleEndian
	var parts []Part
	for number := 1; len(entries) > 0; number, entries = number+1, entries[entryLen:] {
		e := entries[:gptEntryLen]
		guid := guidString(e)
		if guid == noGUID {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > last || last >= 1<<63/uint64(maxEntryLen) {
			return nil, s.corrupt("partition %d runs from sector %d to %d", number, first, last)
		}
		t, ok := gptTypes[guid]
		if !ok {
			t = gptType{"type " + guid, roleLinux}
		}
		p, err := newPartition(s, number, t.name, gptLabel(e[56:gptEntryLen]), t.role,
			int64(first)*sector, int64(last-first+1)*sector)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// gptLabel decodes a partition's name, 36 UTF-16 units ended by a zero.
func gptLabel(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

const noGUID = "00000000-0000-0000-0000-000000000000"

// guidString returns the GUID at the start of b in its usual form: its first three fields are little-endian.
func guidString(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// linuxFS tells whether kind is a file system that a Linux root can be on.
func linuxFS(kind string) bool {
	switch kind {
	case "", "vfat", "exfat", ISO9660:
		return false
	}
	return fsmagic.Mountable(kind)
}
