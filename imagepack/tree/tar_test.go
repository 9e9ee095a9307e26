package tree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/imagepack/tree"
	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// TestFromTarIsWhatTarExtracts packs a directory with GNU tar in every format it has and compares the tree
// with what GNU tar extracts from the same archive.
func TestFromTarIsWhatTarExtracts(t *testing.T) {
	testrig.NeedRoot(t)
	rich := testrig.MemoryDir(t)
	treetest.MakeDir(t, rich, everything)
	poor := testrig.MemoryDir(t) // what ustar can hold
	treetest.MakeDir(t, poor, treetest.Features{})
	for _, p := range []string{"owner-large", "dir/deep", "special/char-large", "special/block-large", "special/long"} {
		testrig.Must(t, os.RemoveAll(filepath.Join(poor, p)))
	}
	testrig.Must(t, os.Remove(filepath.Join(poor, strings.Repeat("n", 255))))
	attrs := []string{"--xattrs", "--xattrs-include=*", "--acls"}
	cases := []struct {
		name, dir string
		args      []string
	}{
		{"posix", rich, append([]string{"--format=posix"}, attrs...)},
		{"posix sparse 1.0", rich, append([]string{"--format=posix", "--sparse", "--hole-detection=raw"}, attrs...)},
		{"posix sparse 0.1", rich, append([]string{"--format=posix", "--sparse", "--sparse-version=0.1"}, attrs...)},
		{"posix sparse 0.0", rich, append([]string{"--format=posix", "--sparse", "--sparse-version=0.0"}, attrs...)},
		{"gnu", rich, []string{"--format=gnu"}},
		{"gnu sparse", rich, []string{"--format=gnu", "--sparse"}},
		{"ustar", poor, []string{"--format=ustar"}},
		{"absolute", rich, []string{"--format=posix", "--transform=flags=r;s,^\\./,/,", "-P"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			archive := filepath.Join(testrig.MemoryDir(t), "a.tar")
			testrig.Run(t, "tar", append(c.args, "--numeric-owner", "-C", c.dir, "-cf", archive, ".")...)
			extracted := testrig.MemoryDir(t)
			testrig.Run(t, "tar", append(attrs, "--numeric-owner", "-p", "-C", extracted, "-xf", archive)...)
			root, closer, err := tree.FromTarFile(context.Background(), archive, tree.TarOptions{})
			testrig.Must(t, err)
			defer closer.Close()
			if c.name == "absolute" { // tar itself drops the slash only without -P
				testrig.Run(t, "touch", "-r", c.dir, extracted)
			}
			treetest.CompareDir(t, extracted, root)
			if strings.Contains(c.name, "sparse") {
				if n := root.Lookup("sparse-ends"); len(n.Data) != 2 {
					t.Errorf("sparse-ends: extents %v, want two", n.Data)
				}
				if n := root.Lookup("sparse-all"); n.Data == nil || len(n.Data) != 0 || n.Content != nil {
					t.Errorf("sparse-all: extents %v, content %v", n.Data, n.Content)
				}
			}
		})
	}
}

// TestFromTarManyHoles needs maps that go on in further header blocks.
func TestFromTarManyHoles(t *testing.T) {
	dir := testrig.MemoryDir(t)
	f, err := os.Create(dir + "/holes")
	testrig.Must(t, err)
	for i := range 300 {
		if _, err := f.WriteAt(fmt.Appendf(nil, "block %d", i), int64(i)*65536); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	testrig.WriteFile(t, dir+"/later", "what follows is still found")
	for _, format := range []string{"gnu", "posix"} {
		archive := filepath.Join(testrig.MemoryDir(t), "a.tar")
		testrig.Run(t, "tar", "--format="+format, "--sparse", "-C", dir, "-cf", archive, ".")
		if st, err := os.Stat(archive); err != nil || st.Size() > 5<<20 {
			t.Fatalf("%s: the archive is not sparse: %v, %v", format, st.Size(), err)
		}
		root, closer, err := tree.FromTarFile(context.Background(), archive, tree.TarOptions{})
		testrig.Must(t, err)
		if n := root.Lookup("holes"); len(n.Data) != 300 {
			t.Errorf("%s: %d extents, want 300", format, len(n.Data))
		}
		for _, d := range treetest.Diff(dir, root, treetest.Options{WholeSeconds: true}) {
			t.Errorf("%s: %s", format, d)
		}
		closer.Close()
	}
}

func TestFromTarFileCompressed(t *testing.T) {
	dir := testrig.MemoryDir(t)
	for i := range 20 {
		testrig.WriteFile(t, fmt.Sprintf("%s/f%d", dir, i), strings.Repeat(fmt.Sprintf("line %d\n", i), 10_000))
	}
	for flag, ext := range map[string]string{"--gzip": "gz", "--zstd": "zst", "--xz": "xz", "--bzip2": "bz2"} {
		t.Run(ext, func(t *testing.T) {
			tmp := testrig.MemoryDir(t)
			t.Setenv("TMPDIR", tmp)
			archive := filepath.Join(testrig.MemoryDir(t), "a.tar."+ext)
			testrig.Run(t, "tar", flag, "--format=posix", "-C", dir, "-cf", archive, ".")
			root, closer, err := tree.FromTarFile(context.Background(), archive, tree.TarOptions{})
			testrig.Must(t, err)
			treetest.CompareDir(t, dir, root)
			closer.Close()
			if left, _ := os.ReadDir(tmp); len(left) != 0 {
				t.Errorf("temporary files are left: %v", left)
			}
			b := testrig.ReadFile(t, archive)
			testrig.WriteFile(t, archive, b[:len(b)/2])
			if _, _, err := tree.FromTarFile(context.Background(), archive, tree.TarOptions{}); err == nil || !strings.Contains(err.Error(), archive) {
				t.Errorf("a truncated file: %v, want an error that names it", err)
			}
		})
	}
}

// entry makes an archive entry; content is that of a regular file.
func entry(name string, typ byte, more ...string) tarItem {
	i := tarItem{h: tar.Header{Name: name, Typeflag: typ, Mode: 0o644, ModTime: time.Unix(1_600_000_000, 0)}}
	if len(more) > 0 {
		if typ == tar.TypeReg {
			i.content = more[0]
		} else {
			i.h.Linkname = more[0]
		}
	}
	return i
}

type tarItem struct {
	h       tar.Header
	content string
}

func makeTar(t testing.TB, items []tarItem) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		i.h.Size = int64(len(i.content))
		testrig.Must(t, w.WriteHeader(&i.h))
		if _, err := io.WriteString(w, i.content); err != nil {
			t.Fatal(err)
		}
	}
	testrig.Must(t, w.Close())
	return b.Bytes()
}

func fromTar(b []byte) (*tree.Inode, error) {
	return tree.FromTar(context.Background(), bytes.NewReader(b), int64(len(b)), tree.TarOptions{})
}

// list writes a tree as "path type content-or-target", hard links as "path = first path".
func list(t testing.TB, root *tree.Inode) string {
	t.Helper()
	first := map[*tree.Inode]string{}
	var out []string
	err := tree.Walk(root, func(p string, n *tree.Inode) error {
		switch {
		case p == "":
		case first[n] != "":
			out = append(out, p+" = "+first[n])
		case n.IsDir():
			out = append(out, fmt.Sprintf("%s/ %o", p, n.Mode&0o7777))
		case n.Type() == tree.ModeSymlink:
			out = append(out, p+" -> "+n.LinkTarget)
		default:
			b := make([]byte, n.Size)
			if n.Content != nil {
				f, err := n.Content.Open()
				if err != nil {
					return err
				}
				if m, err := f.ReadAt(b, 0); m != len(b) {
					return err
				}
			}
			out = append(out, p+": "+string(b))
		}
		if first[n] == "" {
			first[n] = p
		}
		return nil
	})
	testrig.Must(t, err)
	return strings.Join(out, "\n")
}

func TestFromTarNames(t *testing.T) {
	const reg, dir, sym, link = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink
	for name, c := range map[string]struct {
		items []tarItem
		want  string
	}{
		"missing parents":       {[]tarItem{entry("a/b/c", reg, "x")}, "a/ 755\na/b/ 755\na/b/c: x"},
		"prefixes":              {[]tarItem{entry("./", dir), entry("./a", reg, "x"), entry("/b", reg, "y"), entry(".//./c", reg, "z")}, "a: x\nb: y\nc: z"},
		"later wins":            {[]tarItem{entry("a", reg, "x"), entry("a", sym, "b"), entry("b", reg, "1"), entry("b", reg, "22")}, "a -> b\nb: 22"},
		"directory again":       {[]tarItem{entry("d/x", reg, "x"), entry("d", dir)}, "d/ 644\nd/x: x"},
		"directory replaced":    {[]tarItem{entry("d/x", reg, "x"), entry("d", reg, "file")}, "d: file"},
		"below a symlink":       {[]tarItem{entry("usr/lib", dir), entry("lib", sym, "usr/lib"), entry("lib/x", reg, "x")}, "lib -> usr/lib\nusr/ 755\nusr/lib/ 644\nusr/lib/x: x"},
		"symlink stays inside":  {[]tarItem{entry("up", sym, "../../.."), entry("up/x", reg, "x")}, "up -> ../../..\nx: x"},
		"absolute symlink":      {[]tarItem{entry("a/l", sym, "/b"), entry("a/l/x", reg, "x")}, "a/ 755\na/l -> /b\nb/ 755\nb/x: x"},
		"hard link":             {[]tarItem{entry("b", reg, "x"), entry("./a", link, "./b")}, "a: x\nb = a"},
		"hard link first":       {[]tarItem{entry("a", link, "b"), entry("c", link, "a"), entry("b", reg, "x")}, "a: x\nb = a\nc = a"},
		"hard link overridden":  {[]tarItem{entry("a", link, "b"), entry("a", reg, "y"), entry("b", reg, "x")}, "a: y\nb: x"},
		"hard link to old file": {[]tarItem{entry("b", reg, "old"), entry("a", link, "b"), entry("b", reg, "new")}, "a: old\nb: new"},
		"hard link replaces":    {[]tarItem{entry("a", reg, "y"), entry("a", link, "b"), entry("b", reg, "x")}, "a: x\nb = a"},
	} {
		root, err := fromTar(makeTar(t, c.items))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := list(t, root); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestFromTarErrors(t *testing.T) {
	const reg, dir, sym, link = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink
	ok := makeTar(t, []tarItem{entry("file", reg, strings.Repeat("x", 5000))})
	acl := entry("file", reg, "x")
	acl.h.PAXRecords = map[string]string{"SCHILY.acl.access": "user::rw-,user:jo:r--,group::r--,mask::r--,other::---"}
	for name, c := range map[string]struct {
		tar  []byte
		want []string
	}{
		"empty":              {nil, []string{"empty"}},
		"text":               {bytes.Repeat([]byte("no tar "), 1000), []string{"not a tar archive"}},
		"dotdot":             {makeTar(t, []tarItem{entry("a/../../x", reg, "x")}), []string{`"a/../../x"`, `".."`}},
		"link target":        {makeTar(t, []tarItem{entry("a", link, "gone")}), []string{`"a"`, `"gone"`, "not in the archive"}},
		"link to itself":     {makeTar(t, []tarItem{entry("a", link, "a")}), []string{`"a"`, "not in the archive"}},
		"link to dotdot":     {makeTar(t, []tarItem{entry("a", link, "../etc")}), []string{`"../etc"`}},
		"link to directory":  {makeTar(t, []tarItem{entry("d", dir), entry("a", link, "d")}), []string{`"d"`, "directory"}},
		"below a file":       {makeTar(t, []tarItem{entry("a", reg, "x"), entry("a/b", reg, "x")}), []string{`"a/b"`, "not a directory"}},
		"symlink loop":       {makeTar(t, []tarItem{entry("a", sym, "a"), entry("a/b", reg, "x")}), []string{`"a/b"`, "symlinks"}},
		"long name":          {makeTar(t, []tarItem{entry(strings.Repeat("n", 256), reg, "x")}), []string{"255"}},
		"deep":               {makeTar(t, []tarItem{entry(strings.Repeat("d/", 3000), dir)}), []string{"deep"}},
		"cut in the content": {ok[:3000], []string{"ends inside"}},
		"cut in a header":    {ok[:300], []string{"ends inside"}},
		"ACL with a name":    {makeTar(t, []tarItem{acl}), []string{`"file"`, "user:jo", "--numeric-owner"}},
	} {
		_, err := fromTar(c.tar)
		var te *tree.TarError
		if !errors.As(err, &te) {
			t.Errorf("%s: error %v, want a TarError", name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: error %q does not say %q in one line", name, err, w)
			}
		}
	}
}

func FuzzFromTar(f *testing.F) {
	f.Add(makeTar(f, []tarItem{entry("d/file", tar.TypeReg, "content"), entry("l", tar.TypeSymlink, "d"),
		entry("l/h", tar.TypeLink, "d/file"), entry("p", tar.TypeLink, "q"), entry("q", tar.TypeFifo)}))
	dir := testrig.MemoryDir(f)
	if h, err := os.Create(dir + "/holes"); err == nil {
		for i := range 6 { // more than a header holds
			_, _ = h.WriteAt([]byte("data"), int64(i)*65536)
		}
		h.Close()
	}
	for _, args := range [][]string{{"--format=gnu"}, {"--format=posix"}, {"--format=posix", "--sparse-version=0.1"}} {
		f.Add([]byte(testrig.Run(f, "tar", append(args, "--sparse", "-b1", "-C", dir, "-cf", "-", ".")...)))
	}
	records := entry("file", tar.TypeReg, "x")
	records.h.PAXRecords = map[string]string{"LIBARCHIVE.xattr.user.a%3D": "AP8", "SCHILY.xattr.user.%25": "y", "SCHILY.acl.access": "user::rw-,user:7:r--,group::r--,mask::rwx,other::r--"}
	f.Add(makeTar(f, []tarItem{{h: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"uid": "7", "mtime": "-1.5"}}}, records}))
	buf := make([]byte, 4096)
	f.Fuzz(func(t *testing.T, b []byte) {
		root, err := fromTar(b)
		if err != nil {
			return
		}
		_ = tree.Walk(root, func(p string, n *tree.Inode) error {
			if len(p) > 1<<16 {
				return errors.New("deep")
			}
			if n.Content == nil {
				return nil
			}
			c, err := n.Content.Open()
			if err != nil {
				t.Fatalf("%q: %v", p, err)
			}
			defer c.Close()
			for _, off := range []int64{0, n.Size / 2, n.Size - 1} {
				want := min(int64(len(buf)), n.Size-off)
				if m, err := c.ReadAt(buf, off); int64(m) != want || err != nil && err != io.EOF {
					t.Fatalf("%q: reading at %d of %d: %d bytes, %v", p, off, n.Size, m, err)
				}
			}
			return nil
		})
	})
}
