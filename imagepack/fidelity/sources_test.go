package fidelity

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/tree/treetest"
	"bootprof/internal/testrig"
)

// all is everything that tmpfs and EROFS hold alike.
var all = treetest.Features{Nanoseconds: true, NegativeTime: true, LateTime: true, ACL: true}

// A source is a directory under construction.
type source struct {
	t   testing.TB
	dir string
	rnd *rand.Rand
}

func newSource(t testing.TB, dir string) *source {
	return &source{t, dir, rand.New(rand.NewPCG(3, 4))}
}

func (s *source) path(name string) string { return s.dir + "/" + name }

func (s *source) mkdir(name string, mode uint32) {
	s.t.Helper()
	testrig.Must(s.t, os.Mkdir(s.path(name), 0o700))
	testrig.Must(s.t, unix.Chmod(s.path(name), mode))
}

func (s *source) file(name string, n int) {
	s.t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.rnd.Uint32())
	}
	testrig.Must(s.t, os.WriteFile(s.path(name), b, 0o644))
}

func (s *source) attr(name, attr string, value []byte) {
	s.t.Helper()
	if err := unix.Lsetxattr(s.path(name), attr, value, 0); err != nil {
		s.t.Fatalf("setxattr of %q, %q, %d bytes: %v", name, attr, len(value), err)
	}
}

func (s *source) mknod(name string, mode uint32, major, minor uint32) {
	s.t.Helper()
	testrig.Must(s.t, unix.Mknod(s.path(name), mode, int(unix.Mkdev(major, minor))))
	testrig.Must(s.t, unix.Chmod(s.path(name), mode&0o7777))
}

func (s *source) time(name string, sec, nsec int64) {
	s.t.Helper()
	ts := unix.Timespec{Sec: sec, Nsec: nsec}
	testrig.Must(s.t, unix.UtimesNanoAt(unix.AT_FDCWD, s.path(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

func (s *source) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.rnd.Uint32())
	}
	return b
}

// acl is a POSIX ACL with a named user and group, as attributes carry it.
func acl(id uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 6, ^uint32(0)}, {2, 4, id}, {4, 4, ^uint32(0)}, {8, 6, id / 2}, {16, 6, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// owners, modes and times at their limits. Times are of 64 bits only if far is set.
func (s *source) inodes(far bool) {
	testrig.Must(s.t, os.Chown(s.dir, 12, 70_000))
	testrig.Must(s.t, unix.Chmod(s.dir, 0o3751))
	s.mkdir("inodes", 0o755)
	for i, mode := range []uint32{0, 0o1, 0o1000, 0o2000, 0o4000, 0o7000, 0o7777, 0o4711, 0o2770} {
		s.file(fmt.Sprintf("inodes/file-%04o", mode), i*700)
		testrig.Must(s.t, unix.Chmod(s.path(fmt.Sprintf("inodes/file-%04o", mode)), mode))
		s.mkdir(fmt.Sprintf("inodes/dir-%04o", mode), mode)
		s.file(fmt.Sprintf("inodes/dir-%04o/in it", mode), 10)
		testrig.Must(s.t, unix.Mkfifo(s.path(fmt.Sprintf("inodes/fifo-%04o", mode)), 0o600))
		testrig.Must(s.t, unix.Chmod(s.path(fmt.Sprintf("inodes/fifo-%04o", mode)), mode))
	}
	for _, id := range []int{1, 65534, 65535, 65536, 1 << 31, 1<<31 - 1, 4294967294} {
		name := fmt.Sprintf("inodes/owner-%d", id)
		s.file(name, 5)
		testrig.Must(s.t, os.Lchown(s.path(name), id, 4294967294-id))
		testrig.Must(s.t, os.Symlink("x", s.path(name+"-link")))
		testrig.Must(s.t, os.Lchown(s.path(name+"-link"), 4294967294-id, id))
	}
	times := []int64{0, 1, -1, 1<<31 - 1, 1 << 31, 1<<32 - 1, -1 << 31}
	if far {
		times = append(times, 1<<32, 1<<33+5, 1<<34, -1<<31-1, -1<<40, 1<<40)
	}
	for _, sec := range times {
		name := fmt.Sprintf("inodes/time%d", sec)
		s.file(name, 3)
		testrig.Must(s.t, os.Symlink(name, s.path(name+"-link")))
		s.mkdir(name+"-dir", 0o755)
		for i, end := range []string{"", "-link", "-dir"} {
			s.time(name+end, sec, int64(i*499_999_999+1))
		}
	}
}

// names at their limits.
func (s *source) names() {
	s.mkdir("names", 0o755)
	for i, name := range []string{"-", "!", "--help", "...", "..x", ".x", " ", "\n", "\t\x01\x7f", "\\", "\"'", "*?[", "\xff", "\xc3\x28", "é", "e\u0301",
		strings.Repeat("\xff", 255), strings.Repeat("é", 127) + "x", strings.Repeat("n", 254), "a=b", "a,b:c", "file#", "%2F"} {
		s.file("names/"+name, i)
		testrig.Must(s.t, os.Symlink(name, s.path("names/"+name[:min(len(name), 250)]+".ln")))
	}
	for i, target := range []string{strings.Repeat("t", 4095), strings.Repeat("t/", 2016), strings.Repeat("x", 4032), strings.Repeat("\xfe", 4031), "\xff", "/", "a\nb"} {
		testrig.Must(s.t, os.Symlink(target, s.path(fmt.Sprintf("names/target-%d", i))))
	}
}

// deep makes a chain of directories, 252 bytes of path each, with files at its end.
func (s *source) deep(levels int) {
	fd, err := unix.Open(s.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	testrig.Must(s.t, err)
	for i := range levels {
		name := fmt.Sprintf("%s%d", strings.Repeat("deep.", 50), i%10)
		testrig.Must(s.t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_CLOEXEC, 0)
		testrig.Must(s.t, err)
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	testrig.Must(s.t, err)
	_, err = unix.Write(f, []byte("at the bottom"))
	testrig.Must(s.t, err)
	testrig.Must(s.t, unix.Symlinkat("bottom", fd, "link"))
	testrig.Must(s.t, unix.Close(f))
	testrig.Must(s.t, unix.Close(fd))
}

// attrs at their limits. Without big, only what any archive keeps.
func (s *source) attrs(big bool) {
	s.attr(".", "trusted.on.root", []byte("root"))
	s.attr(".", "security.selinux", []byte("system_u:object_r:root_t:s0\x00"))
	s.mkdir("xattrs", 0o755)
	s.attr("xattrs", "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	for i, n := range []int{0, 1, 2048, 4031, 4096} { // the inode is near a page without content
		for j, v := range []int{0, 1, 900, 1023, 1024, 1025, 3000} {
			name := fmt.Sprintf("xattrs/file-%d-%d", i, j)
			s.file(name, n)
			s.attr(name, "security.selinux", []byte("system_u:object_r:bin_t:s0\x00"))
			s.attr(name, "user.value", s.random(v))
			s.attr(name, "trusted.same", []byte("same for all"))
		}
	}
	for _, kind := range []string{"fifo", "char", "block", "socket"} {
		name := "xattrs/" + kind
		s.mknod(name, map[string]uint32{"fifo": unix.S_IFIFO, "char": unix.S_IFCHR, "block": unix.S_IFBLK, "socket": unix.S_IFSOCK}[kind]|0o600, 5, 6)
		s.attr(name, "security.selinux", []byte("system_u:object_r:device_t:s0\x00"))
		s.attr(name, "trusted.kind", []byte(kind))
	}
	testrig.Must(s.t, os.Symlink("fifo", s.path("xattrs/link")))
	s.attr("xattrs/link", "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"))
	s.file("xattrs/odd names", 1)
	for _, name := range []string{"user.a", "user.A", "user.=\n\\", "user.\xff\xfe", "user." + strings.Repeat("n", 250), "user..", "trusted.overlay.", "security.ima"} {
		s.attr("xattrs/odd names", name, []byte(name))
	}
	s.attr("xattrs/odd names", "user.nul", []byte{0, 0, 0})
	// What overlayfs keeps: opaque directories, redirects, whiteouts.
	s.mkdir("xattrs/opaque", 0o755)
	s.attr("xattrs/opaque", "trusted.overlay.opaque", []byte("y"))
	s.attr("xattrs/opaque", "user.overlay.opaque", []byte("y"))
	s.attr("xattrs/opaque", "trusted.overlay.redirect", []byte("/other/place"))
	s.mknod("xattrs/opaque/whiteout", unix.S_IFCHR, 0, 0)
	s.mknod("xattrs/opaque/whiteout too", unix.S_IFCHR|0o644, 0, 0)
	s.file("xattrs/caps", 100)
	s.attr("xattrs/caps", "security.capability", append([]byte{1, 0, 0, 2, 0, 0x20, 0, 0}, make([]byte, 12)...))
	s.file("xattrs/caps-namespaced", 100) // revision 3: with the root user of a namespace
	s.attr("xattrs/caps-namespaced", "security.capability", append(append([]byte{1, 0, 0, 3, 0, 0x20, 0, 0}, make([]byte, 12)...), 0xe8, 3, 0, 0))
	if !big {
		return
	}
	s.file("xattrs/64k", 10)
	s.attr("xattrs/64k", "user.large", s.random(65535))
	s.attr("xattrs/64k", "trusted.large", s.random(65535))
	s.file("xattrs/many", 6000)
	for i := range 250 {
		s.attr("xattrs/many", fmt.Sprintf("user.attr.%03d.%s", i, strings.Repeat("x", 200)), s.random(i))
	}
	s.attr(".", "system.posix_acl_default", acl(7))
	s.mkdir("xattrs/acls", 0o775)
	for _, id := range []uint32{0, 1, 65536, 4294967293} {
		name := fmt.Sprintf("xattrs/acls/file-%d", id)
		s.file(name, 10)
		s.attr(name, "system.posix_acl_access", acl(id))
		s.mkdir(name+"-dir", 0o755)
		s.attr(name+"-dir", "system.posix_acl_default", acl(id))
		s.attr(name+"-dir", "system.posix_acl_access", acl(id+1))
	}
}

// links: groups of names of every type, across directories.
func (s *source) links() {
	s.mkdir("links", 0o755)
	s.mkdir("links/z", 0o755)
	s.mkdir("links/a", 0o755)
	s.file("links/m-file", 9000)
	s.file("links/m-empty", 0)
	s.attr("links/m-empty", "user.on.empty", []byte("x"))
	s.mknod("links/m-fifo", unix.S_IFIFO|0o600, 0, 0)
	s.mknod("links/m-char", unix.S_IFCHR|0o600, 4, 64)
	s.mknod("links/m-block", unix.S_IFBLK|0o600, 4095, 1<<20-1)
	s.mknod("links/m-socket", unix.S_IFSOCK|0o600, 0, 0)
	testrig.Must(s.t, os.Symlink("somewhere", s.path("links/m-link")))
	for _, name := range []string{"m-file", "m-empty", "m-fifo", "m-char", "m-block", "m-socket", "m-link"} {
		for _, other := range []string{"z/", "a/", "a-", "z-"} {
			testrig.Must(s.t, os.Link(s.path("links/"+name), s.path("links/"+other+name)))
		}
	}
	s.file("links/same content 1", 9000)
	b, err := os.ReadFile(s.path("links/m-file"))
	testrig.Must(s.t, err)
	testrig.Must(s.t, os.WriteFile(s.path("links/same content 2"), b, 0o644)) // no link
}

// sparse files; data at the offsets.
func (s *source) holes(size int64, offs ...int64) {
	s.t.Helper()
	name := s.path(fmt.Sprintf("holes-%d-%d", size, len(offs)))
	f, err := os.Create(name)
	testrig.Must(s.t, err)
	testrig.Must(s.t, f.Truncate(size))
	for _, off := range offs {
		_, err := f.WriteAt(s.random(int(min(5000, size-off))), off)
		testrig.Must(s.t, err)
	}
	testrig.Must(s.t, f.Close())
}

func (s *source) sparse() {
	s.holes(1)
	s.holes(4095)
	s.holes(4096)
	s.holes(4097)
	s.holes(100_000)
	s.holes(100_000, 99_999)
	s.holes(100_001, 0, 50_000)
	s.holes(10<<20, 0, 5<<20-1, 10<<20-1)
	var many []int64
	for i := range int64(150) {
		many = append(many, i*3*8192)
	}
	s.holes(150*3*8192, many...)
}

// remove removes files and gives their directory its time back.
func (s *source) remove(names ...string) {
	s.t.Helper()
	for _, name := range names {
		dir := filepath.Dir(s.path(name))
		var st unix.Stat_t
		testrig.Must(s.t, unix.Lstat(dir, &st))
		testrig.Must(s.t, os.RemoveAll(s.path(name)))
		testrig.Must(s.t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{st.Mtim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// makeSmall makes a directory of small files, for slow compressors.
func makeSmall(t testing.TB, dir string) {
	t.Helper()
	testrig.Must(t, os.Mkdir(dir, 0o755))
	s := newSource(t, dir)
	s.inodes(false)
	s.attrs(false)
	s.links()
}
