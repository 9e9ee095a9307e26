package container

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"bootprof/imagepack/squashfs"
	"bootprof/internal/testrig"
)

const (
	typeESP    = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeLinux  = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	typeRoot   = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	typeSwap   = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
	typeXBoot  = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
	scriptGPT  = "label: gpt\n,1M,U,\n,2M,S\nname=\"the root, größer\",size=8M,type=" + typeRoot + "\n,3M,L\n"
	scriptMBR  = "label: dos\n,1M,ef\n,8M,L,*\n,20M,E\n,2M,82\n,4M,L\n,5M,L\n"
	scriptMBR2 = "label: dos\n,2M,L\n"
)

// makeDisk makes a disk image with sfdisk.
func makeDisk(t testing.TB, sectorSize int, script string) string {
	t.Helper()
	path := filepath.Join(testrig.MemoryDir(t), "disk")
	testrig.WriteFile(t, path, "")
	testrig.Must(t, os.Truncate(path, 40<<20))
	loop, detach := attach(t, path, sectorSize)
	defer detach()
	testrig.RunInput(t, script, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", loop)
	return path
}

// attach makes a loop device with sectors of the given size, which sfdisk cannot be told for a file.
func attach(t testing.TB, path string, sectorSize int, flags ...string) (loop string, detach func()) {
	t.Helper()
	args := append([]string{"-b", strconv.Itoa(sectorSize), "-f", "--show", path}, flags...)
	loop = strings.TrimSpace(testrig.Run(t, "losetup", args...))
	return loop, func() { testrig.Run(t, "losetup", "-d", loop) }
}

// sfdiskParts is what sfdisk says where the partitions are, extended ones left out.
func sfdiskParts(t *testing.T, path string, sectorSize int) []Part {
	t.Helper()
	var out struct {
		PartitionTable struct {
			Partitions []struct {
				Node, Type, Name string
				Start, Size      int64
			}
		}
	}
	loop, detach := attach(t, path, sectorSize, "-r")
	defer detach()
	j := testrig.Run(t, "sfdisk", "-J", loop)
	testrig.Must(t, json.Unmarshal([]byte(j), &out))
	var parts []Part
	for _, p := range out.PartitionTable.Partitions {
		if p.Type == "5" || p.Type == "f" {
			continue
		}
		n, err := strconv.Atoi(strings.TrimPrefix(p.Node, loop+"p"))
		testrig.Must(t, err)
		parts = append(parts, Part{Number: n, Label: p.Name, Off: p.Start * int64(sectorSize), Len: p.Size * int64(sectorSize)})
	}
	return parts
}

// putAt copies the file src into dst at off.
func putAt(t testing.TB, dst string, off int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(dst, os.O_RDWR, 0)
	testrig.Must(t, err)
	defer f.Close()
	if _, err := f.WriteAt(content, off); err != nil {
		t.Fatal(err)
	}
}

// TestMadeDisk reads disks made by sfdisk, whole and damaged, against sfdisk, partx and go-diskfs.
func TestMadeDisk(t *testing.T) {
	sq := filepath.Join(testrig.MemoryDir(t), "sq")
	squashImage(t, sq, "inside")
	root := testrig.ReadFile(t, sq)
	for _, c := range []struct {
		name, script string
		sector       int
		kind         string
		wipe         [2]int64 // from and to: what is lost once the disk is made
		rootNumber   int
	}{
		{"GPT", scriptGPT, 512, GPT, [2]int64{}, 3},
		{"GPT with large sectors", scriptGPT, 4096, GPT, [2]int64{}, 3},
		{"GPT, primary lost", scriptGPT, 512, GPT, [2]int64{512, 1 << 20}, 3},
		{"GPT, primary lost, large sectors", scriptGPT, 4096, GPT, [2]int64{4096, 1 << 20}, 3},
		{"GPT, MBR lost, too", scriptGPT, 512, GPT, [2]int64{0, 1 << 20}, 3},
		{"GPT, end lost", scriptGPT, 512, GPT, [2]int64{39 << 20, 40 << 20}, 3},
		{"GPT, number not first", "label: gpt\nsize=1M,type=" + typeESP + "\n/dev/loop7p7: size=8M,type=" + typeLinux + "\n", 512, GPT, [2]int64{}, 7},
		{"MBR with logical partitions", scriptMBR, 512, MBR, [2]int64{}, 6},
		{"MBR with large sectors", scriptMBR, 4096, MBR, [2]int64{}, 5},
		{"MBR of one", scriptMBR2, 512, MBR, [2]int64{}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := makeDisk(t, c.sector, c.script)
			want := sfdiskParts(t, disk, c.sector)
			for _, p := range want {
				if p.Number == c.rootNumber {
					putAt(t, disk, p.Off, root)
				}
			}
			wipe := func() { putAt(t, disk, c.wipe[0], make([]byte, c.wipe[1]-c.wipe[0])) }
			mbrLost := c.wipe[0] == 0 // partx would not look for a GPT
			if !mbrLost {
				wipe()
			}
			partx := partxParts(t, disk, c.sector)
			if mbrLost {
				wipe()
			}
			f, size := testrig.OpenFile(t, disk)
			kind, parts, err := Parts(f, size)
			if err != nil || kind != c.kind || len(parts) != len(want) || len(want) != len(partx) {
				t.Fatalf("Parts = %q, %d parts, %v; sfdisk %d, partx %d", kind, len(parts), err, len(want), len(partx))
			}
			for i, p := range parts {
				w := want[i]
				if p.Number != w.Number || p.Off != w.Off || p.Len != w.Len || p.Label != w.Label {
					t.Errorf("part %+v; sfdisk says %+v", p, w)
				}
				if k := partx[p.Number]; k != [2]int64{p.Off, p.Len} {
					t.Errorf("part %+v; partx says %v", p, k)
				}
				if p.Number == c.rootNumber != (p.Kind == "squashfs") {
					t.Errorf("part %+v has %q inside", p, p.Kind)
				}
			}
			p, err := Choose(parts, "")
			if err != nil || p.Number != c.rootNumber {
				t.Fatalf("Choose = %+v, %v", p, err)
			}
			in, length := p.Open(f)
			if s, err := squashfs.Open(in, length); err != nil {
				t.Error(err)
			} else if tree, err := s.Tree(); err != nil || tree.Lookup("hello") == nil {
				t.Errorf("the squashfs has no file: %v", err)
			}
			if c.kind == GPT {
				checkDiskfsGPT(t, f, parts, c.sector)
			}
		})
	}
}

// partxParts returns offset and length of the partitions by number, as util-linux's libblkid reads the disk. (The kernel would
// be the better judge, but the one of the development machine was built without partition tables.)
func partxParts(t *testing.T, disk string, sectorSize int) map[int][2]int64 {
	t.Helper()
	loop, detach := attach(t, disk, sectorSize, "-r")
	defer detach()
	parts := make(map[int][2]int64)
	for _, line := range strings.Split(strings.TrimSpace(testrig.Run(t, "partx", "-g", "-r", "-o", "NR,START,SECTORS,TYPE", loop)), "\n") {
		var n int
		var start, size int64
		var typ string
		if _, err := fmt.Sscan(line, &n, &start, &size, &typ); err != nil {
			t.Fatalf("partx says %q: %v", line, err)
		}
		if typ != "0x5" && typ != "0xf" {
			parts[n] = [2]int64{start * 512, size * 512}
		}
	}
	return parts
}

// checkDiskfsGPT compares with the GPT reader of go-diskfs.
func checkDiskfsGPT(t *testing.T, f *os.File, parts []Part, sectorSize int) {
	t.Helper()
	table, err := gpt.Read(f, sectorSize, sectorSize)
	if err != nil {
		t.Fatalf("go-diskfs: %v", err)
	}
	if len(table.Partitions) != len(parts) {
		t.Fatalf("go-diskfs: %d partitions, want %d", len(table.Partitions), len(parts))
	}
	for i, p := range table.Partitions {
		if q := parts[i]; p.GetStart() != q.Off || p.GetSize() != q.Len || p.Name != q.Label || p.Index != q.Number {
			t.Errorf("go-diskfs: %+v, want %+v", p, q)
		}
	}
}

var typeLine = regexp.MustCompile(`(?m)^([0-9A-F-]{36})\s+(.*)$`)

// TestTypeNames compares the table of GPT types with that of sfdisk.
func TestTypeNames(t *testing.T) {
	names := make(map[string]string)
	for _, l := range typeLine.FindAllStringSubmatch(testrig.Run(t, "sfdisk", "--label", "gpt", "--list-types"), -1) {
		names[strings.ToLower(l[1])] = l[2]
	}
	found := 0
	for guid, typ := range gptTypes {
		name, ok := names[guid]
		if !ok {
			continue // some types are younger than sfdisk, some foreign
		}
		found++
		isRoot := strings.HasPrefix(name, "Linux root") && !strings.Contains(name, "verity")
		if isRoot != (typ.role == roleRoot) || firstWord(name) != firstWord(typ.name) {
			t.Errorf("%s is %q to sfdisk, %q here", guid, name, typ.name)
		}
	}
	if found < 25 {
		t.Errorf("sfdisk knows only %d of the types: %d", found, len(names))
	}
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(strings.ReplaceAll(s, "-", ""), " ")
	return strings.ToLower(word)
}

// A miniGPT is a GPT disk of 64 sectors with four entries, made by hand to be damaged.
func miniGPT() []byte {
	b := make([]byte, 64*512)
	b[510], b[511], b[446+4], b[446+8], b[446+12] = 0x55, 0xaa, 0xee, 1, 63
	le := binary.LittleEndian
	for i, own := range []uint64{1, 63} {
		h := b[own*512:]
		copy(h, gptMagic)
		le.PutUint32(h[8:], 0x10000)
		le.PutUint32(h[12:], gptHeaderLen)
		le.PutUint64(h[24:], own)
		le.PutUint64(h[32:], 64-own)
		le.PutUint64(h[72:], []uint64{2, 62}[i])
		le.PutUint32(h[80:], 4)
		le.PutUint32(h[84:], gptEntryLen)
	}
	e := b[2*512:]
	copy(e, "\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09") // Linux root x86-64
	le.PutUint64(e[32:], 10)
	le.PutUint64(e[40:], 19)
	copy(b[62*512:63*512], b[2*512:3*512])
	copy(b[10*512:], "hsqs")
	fixGPT(b)
	return b
}

// fixGPT makes the checksums of both headers right, as far as they point to anything.
func fixGPT(b []byte) {
	le := binary.LittleEndian
	for _, at := range []int{512, len(b) - 512} {
		if at < 512 || at+512 > len(b) {
			continue
		}
		h := b[at : at+512]
		off, n := le.Uint64(h[72:]), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
		if size := uint64(len(b)); off <= size/512 && n <= size-off*512 {
			le.PutUint32(h[88:], crc32.ChecksumIEEE(b[off*512:off*512+n]))
		}
		if n := le.Uint32(h[12:]); n >= gptHeaderLen && n <= 512 {
			clear(h[16:20])
			le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
		}
	}
}

// TestDamagedGPT: each damage gives one line, and the backup helps where it can.
func TestDamagedGPT(t *testing.T) {
	le := binary.LittleEndian
	both := func(f func(h []byte)) func(b []byte) {
		return func(b []byte) {
			f(b[512:1024])
			f(b[63*512:])
			fixGPT(b)
		}
	}
	for _, c := range []struct {
		name   string
		damage func(b []byte)
		want   string // "" if it is read all the same
	}{
		{"sound", func([]byte) {}, ""},
		{"primary header", func(b []byte) { b[512+60]++ }, ""},
		{"primary entries", func(b []byte) { b[1024+60]++ }, ""},
		{"both headers", func(b []byte) { b[512+60]++; b[63*512+60]++ }, "GPT header in sector 1: wrong checksum"},
		{"both entries", func(b []byte) { b[1024+60]++; b[62*512+60]++ }, "GPT header in sector 1: its entries have a wrong checksum"},
		{"no headers", func(b []byte) { clear(b[512:1024]); clear(b[63*512:]) }, "neither the start nor the end"},
		{"huge count", both(func(h []byte) { le.PutUint32(h[80:], 1<<32-1) }), "4294967295 entries of 128 bytes"},
		{"huge entries", both(func(h []byte) { le.PutUint32(h[84:], 1<<31) }), "entries of 2147483648 bytes"},
		{"entries of no size", both(func(h []byte) { le.PutUint32(h[84:], 0) }), "entries of 0 bytes"},
		{"entries behind the end", both(func(h []byte) { le.PutUint64(h[72:], 1<<63) }), "behind the end of the image"},
		{"header too long", both(func(h []byte) { le.PutUint32(h[12:], 513) }), "513 bytes long"},
		{"elsewhere", both(func(h []byte) { le.PutUint64(h[24:], 7) }), "it says that it belongs in sector 7"},
		{"partition backwards", func(b []byte) { le.PutUint64(b[1024+40:], 9); fixGPT(b) }, "partition 1 runs from sector 10 to 9"},
		{"partition too long", func(b []byte) { le.PutUint64(b[1024+40:], 64); fixGPT(b) }, "partition 1 is to lie at byte 5120, 28160 bytes long, but the image ends at 32768"},
		{"partition at no sector", func(b []byte) { le.PutUint64(b[1024+40:], 1<<62); fixGPT(b) }, "partition 1 runs from"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := miniGPT()
			c.damage(b)
			kind, parts, err := Parts(bytes.NewReader(b), int64(len(b)))
			if kind != GPT {
				t.Errorf("kind %q", kind)
			}
			checkError(t, err, c.want)
			if c.want == "" && (len(parts) != 1 || parts[0].Off != 5120 || parts[0].Len != 5120 || parts[0].Kind != "squashfs") {
				t.Errorf("parts %+v", parts)
			}
		})
	}
}

// checkError wants a CorruptError or UnsupportedError of one line that has want in it, or none for "".
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("error %v", err)
		}
		return
	}
	var corrupt *CorruptError
	var unsupported *UnsupportedError
	if !errors.As(err, &corrupt) && !errors.As(err, &unsupported) {
		t.Fatalf("error %v, want a CorruptError with %q", err, want)
	}
	if msg := err.Error(); !strings.Contains(msg, want) || strings.ContainsAny(msg, "\n\x00") {
		t.Errorf("error %q, want %q in it", msg, want)
	}
}

// TestDamagedMBR damages the chain of logical partitions.
func TestDamagedMBR(t *testing.T) {
	le := binary.LittleEndian
	entry := func(b []byte, sector, i int, typ byte, start, size uint32) {
		e := b[sector*512+446+16*i:]
		e[4] = typ
		le.PutUint32(e[8:], start)
		le.PutUint32(e[12:], size)
		b[sector*512+510], b[sector*512+511] = 0x55, 0xaa
	}
	for _, c := range []struct {
		name   string
		damage func(b []byte)
		want   string
	}{
		{"sound", func([]byte) {}, ""},
		{"loop", func(b []byte) { entry(b, 20, 1, 5, 0, 5) }, "the chain of logical partitions comes back to sector 10"},
		{"chain behind the end", func(b []byte) { entry(b, 20, 1, 5, 100, 5) }, "a partition table is to lie at byte 56320"},
		{"no signature", func(b []byte) { b[20*512+510] = 0 }, "the partition table at byte 10240 has no boot signature"},
		{"logical partition too long", func(b []byte) { entry(b, 20, 0, 0x83, 1, 1<<32-1) }, "partition 6 is to lie at"},
		{"odd status", func(b []byte) { b[20*512+446] = 7 }, "neither active nor inactive"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := make([]byte, 64*512)
			entry(b, 0, 0, 0x83, 2, 3)
			entry(b, 0, 1, 5, 10, 50)
			entry(b, 10, 0, 0x83, 1, 5)
			entry(b, 10, 1, 5, 10, 20)
			entry(b, 20, 0, 0x82, 1, 5)
			copy(b[11*512:], "hsqs")
			c.damage(b)
			_, parts, err := Parts(bytes.NewReader(b), int64(len(b)))
			checkError(t, err, c.want)
			if got := fmt.Sprint(names(parts)); c.want == "" && got != "[partition 1 (Linux) partition 5 (Linux) partition 6 (Linux swap)]" {
				t.Errorf("parts %s", got)
			}
		})
	}
}

func names(parts []Part) []string {
	var out []string
	for _, p := range parts {
		out = append(out, p.Name)
	}
	return out
}
