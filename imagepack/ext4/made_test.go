package ext4_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/imagepack/ext4"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// TestTreeIsWhatWasPacked has mke2fs fill images that this kernel does not mount, or not for writing, and compares
// with the directory that they were filled from.
func TestTreeIsWhatWasPacked(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, treetest.Features{NegativeTime: true})
	testrig.Must(t, os.Remove(dir+"/special/link-again")) // mke2fs 1.47 makes two files of hard-linked symlinks
	testrig.Must(t, os.Chtimes(dir+"/special", time.Unix(1_700_000_000, 0), time.Unix(1_700_000_000, 0)))
	for _, c := range []struct {
		name string
		args []string
	}{
		{"64K", []string{"-t", "ext4", "-b", "65536"}},
		{"64K ext2", []string{"-t", "ext2", "-b", "65536"}},
		{"8K", []string{"-t", "ext4", "-b", "8192"}},
		{"16K 1K inodes", []string{"-t", "ext4", "-b", "16384", "-I", "1024"}},
		{"quota", []string{"-t", "ext4", "-b", "4096", "-O", "quota,project"}},
		{"inline", []string{"-t", "ext4", "-b", "4096", "-O", "inline_data"}},
		{"casefold", []string{"-t", "ext4", "-b", "4096", "-O", "casefold", "-E", "encoding=utf8"}},
		{"encryption possible", []string{"-t", "ext4", "-b", "4096", "-O", "encrypt"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "64K" && c.name != "inline" {
				testrig.Slow(t)
			}
			image := mkfs(t, imageSize, append([]string{"-F", "-d", dir}, c.args...)...)
			if c.name == "casefold" {
				// The flag of case-insensitive directories, and the names' order that goes with it.
				testrig.Run(t, "debugfs", "-w", "-R", "set_inode_field /dir flags 0x40080000", image)
			}
			r, root := openTree(t, image)
			if n := root.Lookup("lost+found"); n == nil || n.Mode != tree.ModeDir|0o700 {
				t.Errorf("lost+found is %+v", n)
			}
			same := *root
			same.Entries = without(same.Entries, "lost+found")
			// mke2fs gives the root's time to lost+found's making.
			info, err := os.Stat(dir)
			testrig.Must(t, err)
			same.MtimeSec = info.ModTime().Unix()
			if c.name == "inline" { // mke2fs 1.47 forgets a hole at the end of a file then
				mounted := testrig.MountWith(t, "ext4", image, "ro,noload")
				treetest.CompareDir(t, mounted, root)
				checkMap(t, image, mounted, r, root)
				return
			}
			for _, d := range treetest.Diff(dir, &same, treetest.Options{WholeSeconds: true}) {
				t.Error(d)
			}
			checkCovered(t, image, r, root)
		})
	}
}

func without(l []tree.Entry, name string) []tree.Entry {
	var out []tree.Entry
	for _, e := range l {
		if e.Name != name {
			out = append(out, e)
		}
	}
	return out
}

// TestLargeFile reads a file beyond 4 TiB and compares with the kernel.
func TestLargeFile(t *testing.T) {
	testrig.NeedRoot(t)
	for _, c := range []struct {
		name string
		size int64
		args []string
	}{
		{"extents", 5<<40 + 12345, []string{"-t", "ext4", "-b", "4096"}},
		{"indirect", 15 << 30, []string{"-t", "ext3", "-b", "1024"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := mkfs(t, imageSize, c.args...)
			offs := []int64{0, 1<<32 - 5, 1<<32 + 1<<20, c.size / 2, c.size - 10}
			fill(t, image, func(dir string) {
				f, err := os.Create(dir + "/large")
				testrig.Must(t, err)
				testrig.Must(t, f.Truncate(c.size))
				for _, off := range offs {
					_, err := f.WriteAt([]byte("0123456789"), off)
					testrig.Must(t, err)
				}
				testrig.Must(t, f.Close())
			})
			_, root := openTree(t, image)
			n := root.Lookup("large")
			if n.Size != c.size {
				t.Fatalf("size %d, want %d", n.Size, c.size)
			}
			dir := testrig.MountWith(t, "ext4", image, "ro,noload")
			kernel, err := os.Open(dir + "/large")
			testrig.Must(t, err)
			defer kernel.Close()
			content, err := n.Content.Open()
			testrig.Must(t, err)
			defer content.Close()
			got, want := make([]byte, 3<<20), make([]byte, 3<<20)
			for _, off := range offs {
				off = max(0, off-1<<20)
				m, err := content.ReadAt(got, off)
				w, werr := kernel.ReadAt(want, off)
				if m != w || err != werr || !bytes.Equal(got[:m], want[:w]) {
					t.Errorf("at %d: %d bytes, %v; the kernel gives %d, %v", off, m, err, w, werr)
				}
			}
			var data int64
			for _, e := range n.Data {
				data += e.Len
			}
			if data == 0 || data > 1<<20 {
				t.Errorf("%d bytes of data in %v", data, n.Data)
			}
		})
	}
}

// TestReadAtAnywhere compares reads of all positions and lengths around block borders with the content.
func TestReadAtAnywhere(t *testing.T) {
	dir := testrig.MemoryDir(t)
	content := testrig.Noise(3, 3*1024+100)
	clear(content[1024:2048]) // a hole
	testrig.WriteFile(t, dir+"/file", content)
	testrig.WriteFile(t, dir+"/inline", content[:120])
	for _, args := range [][]string{{"-t", "ext4", "-O", "inline_data", "-I", "256"}, {"-t", "ext2"}} {
		_, root := openTree(t, mkfs(t, 4<<20, append(args, "-b", "1024", "-d", dir)...))
		for name, want := range map[string][]byte{"file": content, "inline": content[:120]} {
			c, err := root.Lookup(name).Content.Open()
			testrig.Must(t, err)
			size := len(want)
			edges := []int{0, 1, 59, 60, 61, 119, 120, 121, 1023, 1024, 1025, 2047, 2048, 2049, 3071, 3072, 3171, 3172, 3173, 9000}
			for _, off := range edges {
				for _, end := range edges {
					if end < off {
						continue
					}
					p := bytes.Repeat([]byte{0xee}, end-off)
					n, err := c.ReadAt(p, int64(off))
					want := want[min(off, len(want)):min(end, len(want))]
					if !bytes.Equal(p[:n], want) || err != nil && err != io.EOF || (err == io.EOF) != (n < len(p) || off >= size) {
						t.Fatalf("%v: %s [%d .. %d): %d bytes, %v", args, name, off, end, n, err)
					}
				}
			}
			c.Close()
		}
	}
}

// TestExternalJournal reads a clean image whose journal is on another device: there is nothing to replay.
func TestExternalJournal(t *testing.T) {
	testrig.NeedRoot(t)
	journal := mkfs(t, 4<<20, "-b", "1024", "-O", "journal_dev")
	device := strings.TrimSpace(testrig.Run(t, "losetup", "-f", "--show", journal))
	t.Cleanup(func() { testrig.Run(t, "losetup", "-d", device) })
	dir := testrig.MemoryDir(t)
	testrig.WriteFile(t, filepath.Join(dir, "file"), testrig.Noise(1, 5000))
	image := mkfs(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "device="+device, "-d", dir)
	r, root := openTree(t, image)
	if n := root.Lookup("file"); n == nil || n.Size != 5000 {
		t.Errorf("file is %v", n)
	}
	checkCovered(t, image, r, root)
}

func TestConcurrentReads(t *testing.T) {
	dir := testrig.MemoryDir(t)
	for i := range 20 {
		testrig.WriteFile(t, fmt.Sprintf("%s/%d", dir, i), testrig.Noise(uint32(i), 5000+i*3000))
	}
	r, root := openTree(t, mkfs(t, 4<<20, "-t", "ext4", "-b", "1024", "-d", dir))
	same := *root
	same.Entries = without(same.Entries, "lost+found")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, d := range treetest.Diff(dir, &same, treetest.Options{WholeSeconds: true, NoXattrs: true}) {
				if !strings.HasPrefix(d, "\"\"") { // the root's time
					t.Error(d)
				}
			}
		})
		wg.Go(func() {
			if again, err := r.Tree(); again != root || err != nil {
				t.Errorf("another tree, %v", err)
			}
			openMap(t, r)
		})
	}
	wg.Wait()
}

// TestMemory reads a file system of 10 GB whose blocks and inodes are many.
func TestMemory(t *testing.T) {
	dir := testrig.MemoryDir(t)
	for i := range 3000 {
		testrig.Must(t, os.Symlink(strings.Repeat("x", i%200+1), fmt.Sprintf("%s/%d", dir, i)))
	}
	image := mkfs(t, 10<<30, "-t", "ext4", "-b", "1024", "-d", dir)
	var root *tree.Inode
	var m *imagemap.Map
	var free []ext4.Range
	took := testrig.Allocated(func() {
		var r *ext4.Reader
		var err error
		r, root = openTree(t, image)
		m = openMap(t, r)
		free, err = r.Free()
		testrig.Must(t, err)
	})
	if took > 64<<20 {
		t.Errorf("%d MB of memory", took>>20)
	}
	if len(root.Entries) != 3001 || len(m.Segments()) < 3000 || len(free) == 0 {
		t.Errorf("%d files, %d segments, %d free ranges", len(root.Entries), len(m.Segments()), len(free))
	}
}
