package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/ext4"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// smallImage makes an image of 256 KiB with a bit of everything.
func smallImage(t testing.TB, args ...string) []byte {
	t.Helper()
	dir := testrig.MemoryDir(t)
	testrig.Must(t, os.MkdirAll(dir+"/d/e", 0o755))
	testrig.WriteFile(t, dir+"/file", testrig.Noise(1, 3000))
	testrig.WriteFile(t, dir+"/large", testrig.Noise(2, 40_000)) // has indirect blocks
	testrig.WriteFile(t, dir+"/d/inline", testrig.Noise(3, 100))
	testrig.Must(t, os.Truncate(dir+"/d/inline", 5000))
	testrig.Must(t, os.Symlink("short", dir+"/d/fast"))
	testrig.Must(t, os.Symlink(strings.Repeat("long/", 30), dir+"/d/slow"))
	testrig.Must(t, os.Link(dir+"/file", dir+"/d/again"))
	if os.Geteuid() == 0 {
		testrig.Run(t, "setfattr", "-n", "user.a", "-v", strings.Repeat("v", 30), dir+"/file")
		testrig.Run(t, "setfattr", "-n", "user.b", "-v", strings.Repeat("w", 300), dir+"/file")
		testrig.Run(t, "setfacl", "-m", "u:1234:r", dir+"/d/e")
	}
	for i := range 60 { // a directory with an index needs more than a block
		testrig.Must(t, os.Symlink("x", fmt.Sprintf("%s/d/e/%s-%d", dir, strings.Repeat("n", 40), i)))
	}
	image := mkfs(t, 256<<10, append([]string{"-b", "1024", "-N", "96", "-d", dir}, args...)...)
	b, err := os.ReadFile(image)
	testrig.Must(t, err)
	return b
}

var smallKinds = [][]string{
	{"-t", "ext2", "-I", "128"},
	{"-t", "ext4", "-O", "^has_journal,^resize_inode,^metadata_csum,inline_data,ea_inode"},
	{"-t", "ext4", "-O", "^has_journal,^resize_inode,^metadata_csum,^64bit,bigalloc", "-C", "2048"},
	{"-t", "ext4", "-O", "^has_journal,^resize_inode,metadata_csum,ea_inode"},
}

// readAll reads tree, map and free blocks of the image, and at most 128 KiB of each content. What it returns first
// tells two trees apart.
func readAll(image []byte) (string, error) {
	r, err := ext4.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return "", err
	}
	if m, err := r.Map(); err == nil {
		for _, s := range m.Segments() {
			if s.ImageLen <= 0 || s.ImageOff < 0 || s.ImageOff+s.ImageLen > int64(len(image)) || s.FileLen < 0 {
				panic(fmt.Sprintf("segment %+v", s))
			}
		}
	} else if err := known(err); err != nil {
		panic(err)
	}
	free, freeErr := r.Free()
	root, err := r.Tree()
	if err == nil {
		err = freeErr
	}
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintln(&out, free)
	buf := make([]byte, 64<<10)
	err = tree.Walk(root, func(p string, n *tree.Inode) error {
		if out.Len() < 1<<20 {
			fmt.Fprintf(&out, "%q %o %d %d %d.%d %d:%d %q %q %d %v %d\n", p, n.Mode, n.UID, n.GID, n.MtimeSec, n.MtimeNsec,
				n.RdevMajor, n.RdevMinor, n.Xattrs, n.LinkTarget, n.Size, n.Data, len(n.Entries))
		}
		if n.Content == nil {
			return nil
		}
		c, err := n.Content.Open()
		if err != nil {
			return err
		}
		defer c.Close()
		for _, off := range []int64{0, n.Size - 10} {
			if _, err := c.ReadAt(buf, max(0, off)); err != nil && err != io.EOF {
				return err
			}
		}
		return nil
	})
	return out.String(), err
}

// known returns nil for errors of the known types.
func known(err error) error {
	var ce *ext4.CorruptError
	var ue *ext4.UnsupportedError
	if errors.As(err, &ce) || errors.As(err, &ue) {
		return nil
	}
	return err
}

// TestDamaged cuts images short and flips bits of every byte that is metadata: what comes is an error of a known type or a
// tree that can be walked, never a panic. Where there are checksums the tree is the same or an error.
func TestDamaged(t *testing.T) {
	testrig.RareGC(t)
	step := 3
	if testing.Short() {
		step = 15
	}
	for _, args := range smallKinds {
		b := smallImage(t, args...)
		sound, err := readAll(b)
		testrig.Must(t, err)
		for n := 0; n < len(b); n += 511 {
			var ce *ext4.CorruptError
			if _, err := ext4.Open(bytes.NewReader(b[:n]), int64(n)); !errors.As(err, &ce) {
				t.Fatalf("cut to %d of %d bytes: %v, want a CorruptError", n, len(b), err)
			}
		}
		r, err := ext4.Open(bytes.NewReader(b), int64(len(b)))
		testrig.Must(t, err)
		m := openMap(t, r)
		flips := 0
		for i := range b {
			s := m.At(int64(i), 1)
			if len(s) == 0 || s[0].Kind == imagemap.Data && len(s) == 1 || b[i] == 0 && i%29 != 0 || i%step > 0 {
				continue
			}
			x := []byte{0x01, 0x80, 0xff}[flips%3]
			flips++
			b[i] ^= x
			var got string
			var err error
			took := testrig.Allocated(func() { got, err = readAll(b) })
			b[i] ^= x
			if known(err) != nil || err != nil && strings.Contains(err.Error(), "\n") {
				t.Fatalf("byte %d ^ %#x: %q", i, x, err)
			}
			if took > 32<<20 {
				t.Fatalf("byte %d ^ %#x: reading an image of %d bytes took %d bytes of memory", i, x, len(b), took)
			}
			// The block of a symlink's target has no checksum.
			if err == nil && r.Info().Checksums && got != sound && s[0].Path != "d/slow" {
				t.Errorf("byte %d ^ %#x, of %+v, was not noticed", i, x, s[0])
			}
		}
		if flips < 2400/step {
			t.Errorf("%v: %d flips only", args, flips)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 1500), make([]byte, 4096)} {
		if ext4.Probe(bytes.NewReader(b)) {
			t.Errorf("Probe knows %d zeros", len(b))
		}
	}
}

// TestContradictions has debugfs make images that no kernel makes.
func TestContradictions(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		do   []string // for debugfs
		want string
	}{
		{"loop", smallKinds[3], []string{"link /d /d/loop"}, `"/d/loop": inode`},
		{"root below", smallKinds[0], []string{"link / /d/root"}, `"/d/root": inode 2 has another name already`},
		{"shared blocks", smallKinds[3], []string{"copy_inode /large /d/inline"}, "belongs to two files"},
		{"links", smallKinds[0], []string{"link /file /third", "sif /file links_count 1"}, "has another name already"},
		{"deleted", smallKinds[1], []string{"sif /file links_count 0"}, "is not in use"},
		{"no type", smallKinds[0], []string{"sif /file mode 0"}, "has the mode 0"},
		{"file type", smallKinds[0], []string{"sif /d mode 0100644"}, ""},
		{"inode 8", smallKinds[3], []string{"link <8> /journal"}, `the name "journal" of inode 8`},
		{"shared tree", smallKinds[0], []string{"sif /d/inline block[IND] $IND"}, "belongs to two files"},
		{"indirect loop", smallKinds[0], []string{"sif /large block[DIND] $IND"}, "belongs to two files"},
		{"far block", smallKinds[0], []string{"sif /file block[1] 123456"}, "blocks [123456 +1) of 256"},
		{"target", smallKinds[0], []string{"sif /d/slow size 5000"}, "symlink target of 5000 bytes"},
		{"size", smallKinds[3], []string{"sif /file size 0x4000000000000001"}, "a size of 4611686018427387905"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := filepath.Join(testrig.MemoryDir(t), "image")
			testrig.WriteFile(t, image, smallImage(t, c.args...))
			for _, d := range c.do {
				if strings.Contains(d, "$IND") { // the indirect block of /large
					_, after, _ := strings.Cut(testrig.Run(t, "debugfs", "-R", "stat /large", image), "(IND):")
					number, _, _ := strings.Cut(after, ",")
					d = strings.ReplaceAll(d, "$IND", number)
				}
				testrig.Run(t, "debugfs", "-w", "-R", d, image)
			}
			b, err := os.ReadFile(image)
			testrig.Must(t, err)
			_, err = readAll(b)
			var ce *ext4.CorruptError
			if c.want != "" && (!errors.As(err, &ce) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want a CorruptError with %s", err, c.want)
			}
			if known(err) != nil {
				t.Error(err)
			}
		})
	}
}

// TestOdd has debugfs make images that are sound, but that mke2fs does not make.
func TestOdd(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		do   []string // for debugfs
	}{
		{"shared blocks", smallKinds[3], []string{"feature shared_blocks", "copy_inode /large /d/inline"}},
		{"blocks behind the end", smallKinds[3], []string{"sif /large size 1500"}}, // as fs-verity has them
		{"indirect blocks behind the end", smallKinds[0], []string{"sif /large size 100"}},
		{"holes at the end", smallKinds[0], []string{"sif /large size 100000000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := filepath.Join(testrig.MemoryDir(t), "image")
			testrig.WriteFile(t, image, smallImage(t, c.args...))
			for _, d := range c.do {
				testrig.Run(t, "debugfs", "-w", "-R", d, image)
			}
			r, root := openTree(t, image)
			// Of blocks that are in no file now, dumpe2fs says that they are in use.
			if c.name != "shared blocks" {
				checkCovered(t, image, r, root)
			}
			m := openMap(t, r)
			want := testrig.Noise(2, 40_000)
			large := root.Lookup("large")
			got := make([]byte, large.Size)
			f, err := large.Content.Open()
			testrig.Must(t, err)
			defer f.Close()
			if _, err := f.ReadAt(got, 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			n := min(len(got), len(want))
			if !bytes.Equal(got[:n], want[:n]) || len(bytes.Trim(got[n:], "\x00")) > 0 {
				t.Error("the content is another")
			}
			if c.name == "shared blocks" {
				at := m.Find("large", imagemap.Data, 0, 1)[0]
				if len(m.At(at.ImageOff, 1)) != 2 {
					t.Errorf("shared blocks are in %v", m.At(at.ImageOff, 1))
				}
			}
		})
	}
}

func TestNotSupported(t *testing.T) {
	u32 := binary.LittleEndian.PutUint32
	for _, c := range []struct {
		name string
		args []string
		edit func(b []byte)
		do   string // for debugfs
		want string
	}{
		{"journal", []string{"-O", "journal_dev", "-b", "1024"}, nil, "", "ext4 image that is the external journal of another: not supported"},
		{"compression", nil, func(b []byte) { b[superFeatures] |= 1 }, "", "ext4 image with compression: not supported"},
		{"unknown", nil, func(b []byte) { u32(b[superFeatures:], 0x80001042) }, "", "ext4 image with incompatible features 0x80001000: not supported"},
		{"checksum type", nil, func(b []byte) { b[1024+0x175] = 2 }, "", "ext4 image with checksums of type 2: not supported"},
		{"encrypted file", []string{"-O", "encrypt"}, nil, "sif /d/f flags 0x80800", `ext4 image with encrypted files ("/d/f"): not supported`},
		{"encrypted directory", []string{"-O", "encrypt"}, nil, "sif /d flags 0x80800", `ext4 image with encrypted files ("/d"): not supported`},
		{"recovery", nil, nil, "feature needs_recovery", "ext4 image with a journal to replay: not supported; run e2fsck on it or mount it once"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testrig.MemoryDir(t)
			testrig.Must(t, os.Mkdir(dir+"/d", 0o755))
			testrig.WriteFile(t, dir+"/d/f", testrig.Noise(1, 3000))
			args := append([]string{"-t", "ext4", "-d", dir}, c.args...)
			if c.name == "journal" {
				args = c.args
			}
			image := mkfs(t, 4<<20, args...)
			if c.do != "" {
				testrig.Run(t, "debugfs", "-w", "-R", c.do, image)
			}
			b, err := os.ReadFile(image)
			testrig.Must(t, err)
			if c.edit != nil {
				c.edit(b)
			}
			var ue *ext4.UnsupportedError
			if _, err := readAll(b); !errors.As(err, &ue) || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
			if c.do == "" {
				return
			}
			// The map still tells what is where.
			r, err := ext4.Open(bytes.NewReader(b), int64(len(b)))
			testrig.Must(t, err)
			m := openMap(t, r)
			if c.name == "encrypted directory" {
				if len(m.Find("d", imagemap.Dir, 0, 1)) == 0 || len(m.Find("d/f", imagemap.Inode, 0, 0)) != 0 {
					t.Error("the map of an encrypted directory does not have it alone")
				}
			} else if len(m.Find("d/f", imagemap.Data, 0, 3000)) == 0 {
				t.Error("the map does not have d/f")
			}
		})
	}
}

const superFeatures = 1024 + 0x60 // incompatible ones

// TestJournalToReplay copies an image while it is mounted.
func TestJournalToReplay(t *testing.T) {
	testrig.NeedRoot(t)
	image := mkfs(t, 16<<20, "-t", "ext4", "-b", "1024")
	fill(t, image, func(dir string) { testrig.WriteFile(t, dir+"/before", testrig.Noise(1, 5000)) })
	dir := testrig.MountWith(t, "ext4", image, "rw")
	testrig.WriteFile(t, dir+"/after", testrig.Noise(2, 5000))
	testrig.Must(t, os.Remove(dir+"/before"))
	syncfs(t, dir)
	copied := image + ".copy"
	testrig.Run(t, "cp", image, copied)
	testrig.Unmount(t, dir)
	r := openImage(t, copied)
	var ue *ext4.UnsupportedError
	if _, err := r.Tree(); !errors.As(err, &ue) || !r.Info().NeedsRecovery {
		t.Fatalf("%v of %+v, want an UnsupportedError", err, r.Info())
	}
	if _, err := r.Free(); !errors.As(err, &ue) {
		t.Errorf("free blocks with a journal to replay: %v", err)
	}
	m := openMap(t, r)
	if len(m.Find("lost+found", imagemap.Inode, 0, 0)) == 0 {
		t.Error("the map of an image with a journal to replay is empty")
	}
	testrig.Run(t, "e2fsck", "-p", copied)
	_, root := openTree(t, copied)
	again := testrig.MountWith(t, "ext4", copied, "ro,noload")
	treetest.CompareDir(t, again, root)
	if root.Lookup("after") == nil || root.Lookup("before") != nil {
		t.Error("the tree is not what was written last")
	}
}
