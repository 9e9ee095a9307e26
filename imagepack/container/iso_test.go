package container

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/internal/testrig"
)

// liveTree makes the tree of a live image, with names of many shapes and directories of several sectors.
func liveTree(t *testing.T) string {
	src := filepath.Join(testrig.MemoryDir(t), "src")
	squashImage(t, filepath.Join(src, "live/filesystem.squashfs"), "inside")
	for i := range 150 {
		testrig.WriteFile(t, filepath.Join(src, "pool/a-directory-of-several-sectors", fmt.Sprintf("package-number_%d.amd64.deb", i)), testrig.Noise(uint32(i), 100+i*37))
	}
	deep := src
	for i := range 14 {
		deep = filepath.Join(deep, fmt.Sprintf("d%d", i))
		testrig.WriteFile(t, filepath.Join(deep, "file.txt"), testrig.Noise(uint32(i), 3000))
	}
	testrig.WriteFile(t, filepath.Join(src, "names", strings.Repeat("long-", 40)+".txt"), []byte("long"))
	testrig.WriteFile(t, filepath.Join(src, "names", "ümläut ß.txt"), "umlaut")
	testrig.WriteFile(t, filepath.Join(src, "names", "UPPER.and.lower"), "case")
	testrig.WriteFile(t, filepath.Join(src, "names", ".hidden"), "hidden")
	testrig.WriteFile(t, filepath.Join(src, "names", "empty"), "")
	const isolinux = "/usr/lib/ISOLINUX/isolinux.bin"
	if _, err := os.Stat(isolinux); err != nil {
		testrig.Missing(t, "needs %s: scripts/setup.sh installs it", isolinux)
	}
	testrig.WriteFile(t, filepath.Join(src, "isolinux/isolinux.bin"), testrig.ReadFile(t, isolinux))
	testrig.WriteFile(t, filepath.Join(src, "boot/efi.img"), testrig.Noise(9, 1<<20))
	testrig.Must(t, os.Symlink("../live/filesystem.squashfs", filepath.Join(src, "names", "link")))
	return src
}

// filesOf returns the content of all regular files with content below dir.
func filesOf(t *testing.T, dir string) map[string]string {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if b := testrig.ReadFile(t, path); len(b) > 0 {
				rel, _ := filepath.Rel(dir, path)
				files[rel] = string(b)
			}
		}
		return err
	})
	testrig.Must(t, err)
	return files
}

// filesOfMap reads all files of an ISO through its map.
func filesOfMap(t *testing.T, m *imagemap.Map, img []byte) map[string]string {
	files := make(map[string]string)
	for _, s := range m.Segments() {
		if s.ImageOff < 0 || s.ImageLen <= 0 || s.ImageOff+s.ImageLen > int64(len(img)) {
			t.Fatalf("segment %+v is not in the image", s)
		}
		if s.Kind == imagemap.Data {
			if s.FileOff != int64(len(files[s.Path])) {
				t.Fatalf("segment %+v does not go on at %d", s, len(files[s.Path]))
			}
			files[s.Path] += string(img[s.ImageOff : s.ImageOff+s.ImageLen])
		}
	}
	return files
}

func sameFiles(t *testing.T, got, want map[string]string) {
	t.Helper()
	for path, content := range want {
		if g, ok := got[path]; !ok {
			t.Errorf("%q is missing", path)
		} else if g != content {
			t.Errorf("%q has %d bytes that are not its content of %d", path, len(g), len(content))
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%q is too many", path)
		}
	}
}

const eltorito = "-b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table"

// TestMadeISO reads ISOs as the usual programs write them, with all that makes them bootable.
func TestMadeISO(t *testing.T) {
	src := liveTree(t)
	efi := filepath.Join(src, "boot/efi.img")
	for _, c := range []struct {
		name, cmd string
		hybrid    bool
	}{
		{"xorriso Rock Ridge", "xorriso -as mkisofs -R", false},
		{"xorriso Rock Ridge and Joliet", "xorriso -as mkisofs -R -J -joliet-long", false},
		{"genisoimage Rock Ridge", "genisoimage -quiet -R", false},
		{"genisoimage not relocated", "genisoimage -quiet -R -D -J -joliet-long", false},
		{"isolinux hybrid", "xorriso -as mkisofs -R -J -joliet-long -isohybrid-mbr /usr/lib/ISOLINUX/isohdpfx.bin " + eltorito +
			" -eltorito-alt-boot -e boot/efi.img -no-emul-boot -isohybrid-gpt-basdat", true},
		{"grub hybrid with GPT", "xorriso -as mkisofs -R --grub2-mbr /usr/lib/ISOLINUX/isohdpfx.bin -partition_offset 16 " +
			"-appended_part_as_gpt -append_partition 2 0xef " + efi + " " + eltorito, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			iso := filepath.Join(t.TempDir(), "a.iso") // xorriso reads no file in /dev
			args := append(strings.Fields(c.cmd), "-o", iso, src)
			testrig.Run(t, args[0], args[1:]...)
			img := testrig.ReadFile(t, iso)
			if hybrid := img[510] == 0x55; hybrid != c.hybrid {
				t.Errorf("hybrid is %v", hybrid)
			}
			m, err := ISOMap(bytes.NewReader(img), int64(len(img)))
			testrig.Must(t, err)
			want, got := filesOf(t, src), filesOfMap(t, m, img)
			// The programs write a table into this file and make the other.
			const boot, catalog = "isolinux/isolinux.bin", "isolinux/boot.cat"
			if strings.Contains(c.cmd, eltorito) {
				copyHead := want[boot][:8] + got[boot][8:64] + want[boot][64:]
				want[boot], want[catalog] = copyHead, got[catalog]
			}
			sameFiles(t, got, want)
			checkCoverage(t, m, img)
			checkLocations(t, m, iso)
			checkDiskfs(t, m, iso)

			kind, parts, err := Parts(bytes.NewReader(img), int64(len(img)))
			if err != nil || kind != ISO9660 || len(parts) != 1 {
				t.Fatalf("Parts = %q, %+v, %v", kind, parts, err)
			}
			p, err := Choose(parts, "")
			if err != nil || p.Name != "live/filesystem.squashfs" || p.Kind != "squashfs" {
				t.Fatalf("Choose = %+v, %v", p, err)
			}
			in, size := p.Open(bytes.NewReader(img))
			s, err := squashfs.Open(in, size)
			testrig.Must(t, err)
			root, err := s.Tree()
			if err != nil || root.Lookup("hello") == nil {
				t.Errorf("the squashfs has no file: %v", err)
			}
		})
	}
}

// checkCoverage: what no segment owns is zero, but for boot loaders and partition tables of hybrid images.
func checkCoverage(t *testing.T, m *imagemap.Map, img []byte) {
	t.Helper()
	if img[510] == 0x55 {
		return
	}
	for off := int64(0); off < int64(len(img)); off += isoSector {
		if len(m.At(off, isoSector)) == 0 && bytes.Count(img[off:off+isoSector], []byte{0}) != isoSector &&
			!bytes.Contains(img[off:off+isoSector], []byte("MKI ")) && !bytes.Contains(img[off:off+isoSector], []byte("ISOIMAGE ")) {
			t.Errorf("sector %d is not zero and belongs to nothing: %.32q", off/isoSector, img[off:])
		}
	}
}

var lbaLine = regexp.MustCompile(`(?m)^File data lba: +\d+ , +(\d+) , +\d+ , +(\d+) , '/(.*)'$`)

// checkLocations compares with what xorriso says where files lie.
func checkLocations(t *testing.T, m *imagemap.Map, iso string) {
	t.Helper()
	out := testrig.Run(t, "xorriso", "-indev", iso, "-find", "/", "-type", "f", "-exec", "report_lba", "--")
	lines := lbaLine.FindAllStringSubmatch(out, -1)
	if len(lines) < 100 {
		t.Fatalf("xorriso reports %d files: %s", len(lines), out)
	}
	for _, l := range lines {
		lba, _ := strconv.ParseInt(l[1], 10, 64)
		size, _ := strconv.ParseInt(l[2], 10, 64)
		segs := m.Find(l[3], imagemap.Data, 0, size)
		if size > 0 && (len(segs) != 1 || segs[0].ImageOff != lba*isoSector || segs[0].ImageLen != size) {
			t.Errorf("%q: xorriso says block %d, %d bytes; the map %+v", l[3], lba, size, segs)
		}
	}
}

// checkDiskfs compares with the ISO reader of go-diskfs, for the names that it shows as they are.
func checkDiskfs(t *testing.T, m *imagemap.Map, iso string) {
	t.Helper()
	b, err := file.OpenFromPath(iso, true)
	testrig.Must(t, err)
	defer b.Close()
	fsys, err := iso9660.Read(b, 0, 0, 0)
	testrig.Must(t, err)
	for _, path := range []string{"live/filesystem.squashfs", "d0/d1/d2/file.txt", "boot/efi.img"} {
		f, err := fsys.Open(path)
		if err != nil {
			t.Errorf("go-diskfs: %v", err)
			continue
		}
		at := int64(f.(*iso9660.File).Location()) * isoSector
		if segs := m.Find(path, imagemap.Data, 0, 1); len(segs) != 1 || segs[0].ImageOff != at {
			t.Errorf("%s: go-diskfs says byte %d, the map %+v", path, at, segs)
		}
		f.Close()
	}
}

func fromLatin1(s string) string {
	var r []rune
	for _, c := range []byte(s) {
		r = append(r, rune(c))
	}
	return string(r)
}

// TestNamesWithoutRockRidge reads plain and Joliet names, against isoinfo.
func TestNamesWithoutRockRidge(t *testing.T) {
	src := liveTree(t)
	deepest := filepath.Join(src, "d0/d1/d2/d3/d4")
	if err := os.RemoveAll(deepest); err != nil { // plain ISO ends at 8 levels
		t.Fatal(err)
	}
	os.Remove(filepath.Join(src, "names/link"))
	for _, c := range []struct {
		name  string
		make  []string
		list  []string
		lower bool
	}{
		{"plain", []string{"genisoimage", "-quiet"}, nil, true},
		{"level 3", []string{"genisoimage", "-quiet", "-iso-level", "3"}, nil, true},
		{"Joliet", []string{"genisoimage", "-quiet", "-J"}, []string{"-J", "-j", "iso8859-1"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			iso := filepath.Join(t.TempDir(), "a.iso") // xorriso reads no file in /dev
			args := append(slices.Clone(c.make[1:]), "-input-charset", "utf-8", "-o", iso, src)
			testrig.Run(t, c.make[0], args...)
			img := testrig.ReadFile(t, iso)
			m, err := ISOMap(bytes.NewReader(img), int64(len(img)))
			testrig.Must(t, err)
			got := filesOfMap(t, m, img)
			want := make(map[string]string)
			for _, line := range strings.Split(testrig.Run(t, "isoinfo", append([]string{"-i", iso, "-f"}, c.list...)...), "\n") {
				name := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(line, "/"), ";1"), ".")
				if c.lower {
					name = strings.ToLower(name)
				} else {
					name = fromLatin1(name)
				}
				if content, ok := got[name]; ok {
					x := append([]string{"-i", iso, "-x", line}, c.list...)
					if want[name] = testrig.Run(t, "isoinfo", x...); want[name] != content {
						t.Errorf("%s: isoinfo extracts %d other bytes than the map's %d", name, len(want[name]), len(content))
					}
				}
			}
			if n := len(filesOf(t, src)); len(got) != n || len(want) != n {
				t.Errorf("%d files, isoinfo confirms %d, want %d", len(got), len(want), n)
			}
			checkCoverage(t, m, img)
			_, parts, err := Parts(bytes.NewReader(img), int64(len(img)))
			if err != nil || len(parts) != 1 {
				t.Fatalf("%+v, %v", parts, err)
			}
			if p, err := Choose(parts, ""); err != nil || p.Kind != "squashfs" {
				t.Errorf("Choose = %+v, %v", p, err)
			}
		})
	}
}
