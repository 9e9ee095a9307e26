package tree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

var everything = treetest.Features{Nanoseconds: true, NegativeTime: true, LateTime: true, ACL: true}

func fromDir(t testing.TB, dir string, o tree.DirOptions) *tree.Inode {
	t.Helper()
	root, err := tree.FromDir(context.Background(), dir, o)
	testrig.Must(t, err)
	return root
}

func TestFromDirIsWhatTheKernelShows(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, everything)
	root := fromDir(t, dir, tree.DirOptions{})
	treetest.CompareDir(t, dir, root)

	for name, extents := range map[string][]tree.Extent{
		"sparse-all":    {},
		"sparse-ends":   {{Off: 0, Len: 4096}, {Off: 4<<20 - 4096, Len: 4096}},
		"sparse-middle": {{Off: 1 << 20, Len: 4096}, {Off: 2 << 20, Len: 4096}},
	} {
		if n := root.Lookup(name); n == nil || n.Data == nil || !slices.Equal(n.Data, extents) {
			t.Errorf("%s: extents %v, want %v", name, n.Data, extents)
		}
	}
	if n := root.Lookup("text-4097"); n.Data != nil {
		t.Errorf("a file without holes has extents %v", n.Data)
	}
	if a, b := root.Lookup("linked"), root.Lookup("dir").Lookup("another name"); a != b {
		t.Error("hard-linked names are two inodes")
	}
}

// TestDiffSees makes sure that the comparison all these tests rest on does notice differences.
func TestDiffSees(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, everything)
	changes := map[string]func(root *tree.Inode){
		"mode":    func(r *tree.Inode) { r.Lookup("text-1").Mode ^= 1 },
		"owner":   func(r *tree.Inode) { r.Lookup("text-1").GID++ },
		"mtime":   func(r *tree.Inode) { r.Lookup("text-1").MtimeNsec ^= 1 },
		"xattr":   func(r *tree.Inode) { r.Lookup("attrs").Lookup("cap").Xattrs = nil },
		"target":  func(r *tree.Inode) { r.Lookup("special").Lookup("link").LinkTarget = "x" },
		"device":  func(r *tree.Inode) { r.Lookup("special").Lookup("null").RdevMinor++ },
		"entry":   func(r *tree.Inode) { r.Entries = r.Entries[1:] },
		"size":    func(r *tree.Inode) { r.Lookup("text-4096").Size-- },
		"content": func(r *tree.Inode) { r.Lookup("text-4096").Content = r.Lookup("random-4096").Content },
		"zeros":   func(r *tree.Inode) { r.Lookup("text-4096").Content = nil },
		"extents": func(r *tree.Inode) { n := r.Lookup("sparse-ends"); n.Data = n.Data[:1] },
		"link":    func(r *tree.Inode) { n := *r.Lookup("linked"); d := r.Lookup("dir"); setEntry(d, "another name", &n) },
	}
	for name, change := range changes {
		root := fromDir(t, dir, tree.DirOptions{})
		change(root)
		if d := treetest.Diff(dir, root, treetest.Options{}); len(d) == 0 {
			t.Errorf("%s: the change was not noticed", name)
		}
	}
}

func setEntry(dir *tree.Inode, name string, n *tree.Inode) {
	for i := range dir.Entries {
		if dir.Entries[i].Name == name {
			dir.Entries[i].Inode = n
		}
	}
}

func TestFromDirOwner0AndExclude(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	treetest.MakeDir(t, dir, treetest.Features{})
	root := fromDir(t, dir, tree.DirOptions{Owner0: true,
		Exclude: []string{"text-*", "/special/*", "dir/deep", "many"}})
	if n := root.Lookup("owner-large"); n.UID != 0 || n.GID != 0 {
		t.Errorf("owner %d:%d with Owner0", n.UID, n.GID)
	}
	paths := map[string]bool{}
	_ = tree.Walk(root, func(p string, _ *tree.Inode) error { paths[p] = true; return nil })
	for p, want := range map[string]bool{
		"text-4096": false, "random-4096": true, "special": true, "special/null": false,
		"dir/another name": true, "dir/deep": false, "attrs/many": false, "attrs/cap": true,
	} {
		if paths[p] != want {
			t.Errorf("%q in the tree: %v, want %v", p, paths[p], want)
		}
	}
	for _, bad := range []string{"[", "", "/"} {
		if _, err := tree.FromDir(context.Background(), dir, tree.DirOptions{Exclude: []string{bad}}); err == nil {
			t.Errorf("exclude pattern %q is accepted", bad)
		}
	}
}

func TestFromDirMountsBelow(t *testing.T) {
	testrig.NeedRoot(t)
	dir := testrig.MemoryDir(t)
	for _, d := range []string{"tmpfs", "bind", "source"} {
		testrig.Must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	testrig.WriteFile(t, dir+"/source/file", "x")
	mount := func(source, target, fs string, flags uintptr) {
		testrig.Must(t, unix.Mount(source, target, fs, flags, ""))
		t.Cleanup(func() {
			if err := unix.Unmount(target, 0); err != nil {
				t.Error(err)
			}
		})
	}
	mount("none", dir+"/tmpfs", "tmpfs", 0)
	mount(dir+"/source", dir+"/bind", "", unix.MS_BIND)
	testrig.WriteFile(t, dir+"/tmpfs/file", "x")

	root := fromDir(t, dir, tree.DirOptions{})
	if n := root.Lookup("tmpfs"); n == nil || !n.IsDir() || len(n.Entries) != 0 {
		t.Errorf("a mount below is %v, want an empty directory", n)
	}
	if n := root.Lookup("bind"); n.Lookup("file") == nil {
		t.Error("a bind mount of the same file system is empty")
	}
	if n := fromDir(t, dir, tree.DirOptions{CrossMounts: true}).Lookup("tmpfs"); n.Lookup("file") == nil {
		t.Error("a mount below is empty with CrossMounts")
	}
}

func TestChangedFile(t *testing.T) {
	changes := map[string]func(path string) error{
		"grown":    func(p string) error { return os.Truncate(p, 20) },
		"shorter":  func(p string) error { return os.Truncate(p, 3) },
		"touched":  func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1, 0)) },
		"a fifo":   func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
		"replaced": func(p string) error { return errors.Join(os.Remove(p), os.WriteFile(p, []byte("012345678"), 0o600)) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			dir := testrig.MemoryDir(t)
			p := filepath.Join(dir, "file")
			testrig.WriteFile(t, p, "0123456789")
			c := fromDir(t, dir, tree.DirOptions{}).Lookup("file").Content
			before, err := c.Open()
			testrig.Must(t, err)
			defer before.Close()
			buf := make([]byte, 10)
			if _, err := before.ReadAt(buf, 0); err != nil {
				t.Fatal(err)
			}
			testrig.Must(t, change(p))
			after, err := c.Open()
			if err == nil {
				after.Close()
			}
			var ce *tree.ChangedError
			if !errors.As(err, &ce) || ce.Path != p {
				t.Errorf("opening gives %v, want a ChangedError of %s", err, p)
			}
			if strings.HasPrefix(name, "re") || name == "a fifo" {
				return // the file opened before still is what it was
			}
			if n, err := before.ReadAt(buf, 0); !errors.As(err, &ce) || n != 0 {
				t.Errorf("reading gives %d bytes, %v, want a ChangedError", n, err)
			}
		})
	}
}

func TestFromDirErrors(t *testing.T) {
	dir := testrig.MemoryDir(t)
	testrig.WriteFile(t, dir+"/file", "x")
	for path, want := range map[string]string{dir + "/none": "no such file", dir + "/file": "not a directory"} {
		if _, err := tree.FromDir(context.Background(), path, tree.DirOptions{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that says %q", path, err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := tree.FromDir(ctx, dir, tree.DirOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	link := filepath.Join(testrig.MemoryDir(t), "link")
	testrig.Must(t, os.Symlink(dir, link))
	if fromDir(t, link, tree.DirOptions{}).Lookup("file") == nil {
		t.Error("a symlink to a directory is not followed")
	}
}

func BenchmarkFromDir40000(b *testing.B) {
	dir := testrig.MemoryDir(b)
	for i := range 200 {
		d := fmt.Sprintf("%s/dir-%03d", dir, i)
		testrig.Must(b, os.Mkdir(d, 0o755))
		for j := range 200 {
			testrig.WriteFile(b, fmt.Sprintf("%s/file-%03d", d, j), string(bytes.Repeat([]byte("x"), j)))
		}
	}
	for b.Loop() {
		fromDir(b, dir, tree.DirOptions{})
	}
}
