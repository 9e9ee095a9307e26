package treetest

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Features selects what MakeDir adds beyond what every file system and archive can hold. The zero value
// makes a directory that squashfs keeps whole, but for parts of seconds.
type Features struct {
	Nanoseconds  bool // mtimes with a part of a second; else whole seconds
	NegativeTime bool // a file of 1960
	ACL          bool // POSIX access and default ACLs (squashfs drops them)
	LateTime     bool // a file of 2150, beyond 32 bits of seconds
	Wide         int  // entries of one more directory, "wide"
}

// MakeDir fills the empty directory dir with one of everything: all file types, odd modes, owners, names and
// mtimes, device numbers, hard links, attributes, sparse, empty and larger files. It needs root. The same
// features give the same tree.
func MakeDir(t testing.TB, dir string, f Features) {
	t.Helper()
	m := &maker{t: t, dir: dir, rnd: rand.New(rand.NewSource(7)), sec: 1_600_000_000, f: f}
	m.files()
	m.specials()
	m.xattrs()
	if f.Wide > 0 {
		m.mkdir("wide", 0o755)
		for i := range f.Wide {
			m.write(fmt.Sprintf("wide/entry-%06d", i), 0o644, nil)
		}
	}
	m.times()
}

type maker struct {
	t   testing.TB
	dir string
	rnd *rand.Rand
	sec int64
	f   Features
}

func (m *maker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *maker) path(name string) string { return m.dir + "/" + name }

func (m *maker) write(name string, mode uint32, b []byte) {
	m.t.Helper()
	m.must(os.WriteFile(m.path(name), b, 0o600))
	m.must(unix.Chmod(m.path(name), mode))
}

func (m *maker) mkdir(name string, mode uint32) {
	m.t.Helper()
	m.must(os.Mkdir(m.path(name), 0o700))
	m.must(unix.Chmod(m.path(name), mode))
}

func (m *maker) random(n int) []byte {
	b := make([]byte, n)
	m.rnd.Read(b)
	return b
}

// text is compressible content of n bytes that differs from call to call.
func (m *maker) text(n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of %d\n", m.rnd.Intn(1000), n)
	}
	return b.Bytes()[:n]
}

func (m *maker) files() {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 100_000, 131_071, 131_072, 131_073, 1 << 20, 2<<20 + 17} {
		m.write(fmt.Sprintf("text-%d", n), 0o644, m.text(n))
		m.write(fmt.Sprintf("random-%d", n), 0o600, m.random(n))
	}
	for i, mode := range []uint32{0, 0o7777, 0o4755, 0o2755, 0o1644, 0o111} {
		m.write(fmt.Sprintf("mode-%d", i), mode, m.text(i))
	}
	m.write("owner", 0o640, m.text(10))
	m.must(os.Lchown(m.path("owner"), 1000, 70_000))
	m.write("owner-large", 0o640, m.text(11))
	m.must(os.Lchown(m.path("owner-large"), 4_000_000_000, 33))

	m.write("linked", 0o644, m.text(5000))
	m.mkdir("dir", 0o1777)
	m.mkdir("dir/deep", 0o2750)
	m.mkdir("dir/deep/empty", 0o500)
	m.must(os.Link(m.path("linked"), m.path("dir/another name")))
	m.must(os.Link(m.path("linked"), m.path("dir/deep/third")))
	m.write("\xff\xfe not UTF-8 \x01\n\\", 0o644, m.text(20))
	m.write(strings.Repeat("n", 255), 0o644, m.text(21))
	deep := "dir/deep"
	for i := range 20 {
		deep = filepath.Join(deep, fmt.Sprintf("level-%d-%s", i, strings.Repeat("x", 40)))
		m.mkdir(deep, 0o755)
	}
	m.write(deep+"/bottom", 0o644, m.text(22))

	m.sparse("sparse-all", 3<<20)
	m.sparse("sparse-odd", 1<<20+5)
	m.sparse("sparse-ends", 4<<20, 0, 4<<20-4096)
	m.sparse("sparse-middle", 5<<20+100, 1<<20, 2<<20)
	m.sparse("sparse-tail", 1<<20+100, 1<<20)
	m.write("zeros", 0o644, make([]byte, 300_000))
}

// sparse makes a file of size bytes with up to 4 KiB of data at each of the offsets.
func (m *maker) sparse(name string, size int64, offs ...int64) {
	m.t.Helper()
	f, err := os.Create(m.path(name))
	m.must(err)
	m.must(f.Truncate(size))
	for _, off := range offs {
		_, err := f.WriteAt(m.random(int(min(4096, size-off))), off)
		m.must(err)
	}
	m.must(f.Close())
}

func (m *maker) specials() {
	m.mkdir("special", 0o755)
	mknod := func(name string, mode uint32, major, minor uint32) {
		m.t.Helper()
		m.must(unix.Mknod(m.path("special/"+name), mode, int(unix.Mkdev(major, minor))))
		m.must(unix.Chmod(m.path("special/"+name), mode&0o7777))
	}
	mknod("null", unix.S_IFCHR|0o666, 1, 3)
	mknod("char-large", unix.S_IFCHR|0o600, 511, 70_000)
	mknod("block", unix.S_IFBLK|0o660, 7, 255)
	mknod("block-large", unix.S_IFBLK|0o660, 259, 1_000_000)
	mknod("fifo", unix.S_IFIFO|0o640, 0, 0)
	mknod("socket", unix.S_IFSOCK|0o755, 0, 0)
	m.must(os.Link(m.path("special/null"), m.path("special/null-again")))
	m.must(os.Symlink("null", m.path("special/link")))
	m.must(os.Link(m.path("special/link"), m.path("special/link-again")))
	m.must(os.Symlink("/absolute/nowhere/\xff", m.path("special/dangling")))
	m.must(os.Symlink(strings.Repeat("long/", 500), m.path("special/long")))
	m.must(os.Lchown(m.path("special/dangling"), 5, 6))
}

// capNetRaw is security.capability with cap_net_raw=ep, revision 2.
var capNetRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func (m *maker) xattrs() {
	set := func(name, attr string, v []byte) {
		m.t.Helper()
		m.must(unix.Lsetxattr(m.path(name), attr, v, 0))
	}
	m.mkdir("attrs", 0o755)
	set("attrs", "user.on.directory", []byte("yes"))
	m.write("attrs/many", 0o644, m.text(10))
	for i := range 12 {
		set("attrs/many", fmt.Sprintf("user.attr-%02d", i), m.random(i*20))
	}
	m.write("attrs/cap", 0o755, m.text(1000))
	set("attrs/cap", "security.capability", capNetRaw)
	set("attrs/cap", "trusted.overlay.opaque", []byte("y"))
	shared := m.random(900) // the same large value twice: kept once, out of line, by squashfs
	for _, name := range []string{"attrs/shared-1", "attrs/shared-2"} {
		m.write(name, 0o644, m.text(30))
		set(name, "user.shared", shared)
		set(name, "user.own", []byte(name))
	}
	set("special/dangling", "trusted.on.symlink", []byte("link"))
	set("special/fifo", "trusted.on.fifo", []byte{0, 1, 2})
	if m.f.ACL {
		acl := func(perm byte) []byte { // user::rw-, user:1234:perm, group::r--, mask::rw-, other::---
			b := []byte{2, 0, 0, 0}
			for _, e := range [][]byte{{1, 6, 255}, {2, perm, 0}, {4, 4, 255}, {16, 6, 255}, {32, 0, 255}} {
				id := []byte{0xff, 0xff, 0xff, 0xff}
				if e[2] == 0 {
					id = []byte{0xd2, 4, 0, 0}
				}
				b = append(append(b, e[0], 0, e[1], 0), id...)
			}
			return b
		}
		m.write("attrs/acl", 0o660, nil)
		set("attrs/acl", "system.posix_acl_access", acl(4))
		m.mkdir("attrs/acl-default", 0o755)
		set("attrs/acl-default", "system.posix_acl_default", acl(6))
	}
}

// times gives every file a time of its own, deepest first so that directories keep theirs.
func (m *maker) times() {
	var paths []string
	m.must(filepath.WalkDir(m.dir, func(p string, _ os.DirEntry, err error) error {
		paths = append(paths, p)
		return err
	}))
	for i := len(paths) - 1; i >= 0; i-- {
		ts := unix.Timespec{Sec: m.sec + int64(i)*1000}
		switch {
		case m.f.NegativeTime && filepath.Base(paths[i]) == "text-1":
			ts.Sec = -300_000_000
		case m.f.LateTime && filepath.Base(paths[i]) == "text-4096":
			ts.Sec = 5_680_000_000
		}
		if m.f.Nanoseconds {
			ts.Nsec = int64(i)*7_919_001 + 123_456_789
			ts.Nsec %= 1_000_000_000
		}
		m.must(unix.UtimesNanoAt(unix.AT_FDCWD, paths[i], []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}
