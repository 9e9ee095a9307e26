package tree_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// Directories whose path from the root is longer than PATH_MAX, at every length around it.
func TestFromDirLongPaths(t *testing.T) {
	for extra := range 5 {
		dir := testrig.MemoryDir(t)
		name := strings.Repeat("n", 250+extra)
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		testrig.Must(t, err)
		const levels = 36 // twice PATH_MAX
		for i := range levels {
			testrig.Must(t, unix.Mkdirat(fd, name, 0o755))
			next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_CLOEXEC, 0)
			testrig.Must(t, err)
			testrig.Must(t, unix.Close(fd))
			fd = next
			f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			testrig.Must(t, err)
			_, err = unix.Write(f, fmt.Append(nil, i))
			testrig.Must(t, err)
			testrig.Must(t, unix.Fsetxattr(f, "user.level", fmt.Append(nil, i), 0))
			testrig.Must(t, unix.Ftruncate(f, 100_000))
			testrig.Must(t, unix.Close(f))
			testrig.Must(t, unix.Symlinkat(fmt.Sprint("to ", i), fd, "l"))
		}
		testrig.Must(t, unix.Close(fd))
		n := fromDir(t, dir, tree.DirOptions{})
		for i := range levels {
			if n = n.Lookup(name); n == nil {
				t.Fatalf("names of %d bytes: no directory at level %d", len(name), i)
			}
			f, l := n.Lookup("f"), n.Lookup("l")
			if f == nil || f.Size != 100_000 || len(f.Data) != 1 || len(f.Xattrs) != 1 || string(f.Xattrs[0].Value) != fmt.Sprint(i) || l == nil || l.LinkTarget != fmt.Sprint("to ", i) {
				t.Fatalf("names of %d bytes, level %d: %+v, %+v", len(name), i, f, l)
			}
			c, err := f.Content.Open()
			testrig.Must(t, err)
			b := make([]byte, 3)
			if _, err := c.ReadAt(b, 0); err != nil || strings.Trim(string(b), "\x00") != fmt.Sprint(i) {
				t.Fatalf("level %d: content %q, %v", i, b, err)
			}
			testrig.Must(t, c.Close())
		}
		testrig.Must(t, os.RemoveAll(dir))
	}
}
