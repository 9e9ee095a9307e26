package fidelity

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// A record is what the kernel shows of one name. Two records are equal if all fields are.
type record struct {
	mode, uid, gid uint32
	nlink          uint64 // directories: two and the number of subdirectories, counted here
	sec, nsec      int64
	rdev           uint64 // devices
	size           int64  // regular files
	target         string // symlinks
	first          string // the least path of the hard-link group
	content        uint64 // hash of a regular file's bytes
	xattrs         map[string]string
}

// loose says what a comparison leaves out.
type loose struct {
	wholeSeconds bool // the source keeps no parts of a second
	noACL        bool // the source has ACLs that its archive does not keep
	noRootTime   bool // bsdtar leaves the time of "." as it is
}

// A walker reads a directory by descriptors, so that no path is too long.
type walker struct {
	t     testing.TB
	loose loose
	seed  maphash.Seed
	out   map[string]*record
	ids   map[[2]uint64][]string // (device, inode) of names that are not directories
	buf   []byte
}

// walk returns what the kernel shows of the directory and of everything below, by path.
func walk(t testing.TB, dir string, l loose, seed maphash.Seed) map[string]*record {
	t.Helper()
	w := &walker{t: t, loose: l, seed: seed, out: map[string]*record{}, ids: map[[2]uint64][]string{}, buf: make([]byte, 1<<20)}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatalf("opening %s: %v", dir, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	testrig.Must(t, unix.Fstat(fd, &st))
	w.dir(fd, "", w.record(fmt.Sprintf("/proc/self/fd/%d/.", fd), "", &st), st.Nlink)
	for _, names := range w.ids {
		sort.Strings(names)
		for _, name := range names {
			w.out[name].first = names[0]
			if n := w.out[name].nlink; n != uint64(len(names)) {
				t.Errorf("%s: %q has %d links and %d names: %q", dir, name, n, len(names), names[:min(len(names), 3)])
				break
			}
		}
	}
	return w.out
}

// record enters the file at full, of which st is known.
func (w *walker) record(full, path string, st *unix.Stat_t) *record {
	r := &record{mode: st.Mode, uid: st.Uid, gid: st.Gid, nlink: uint64(st.Nlink), sec: st.Mtim.Sec, nsec: st.Mtim.Nsec}
	if w.loose.wholeSeconds {
		r.nsec = 0
	}
	if w.loose.noRootTime && path == "" {
		r.sec, r.nsec = 0, 0
	}
	if known := w.ids[[2]uint64{st.Dev, st.Ino}]; len(known) > 0 { // another name of a file: attributes and content are read once
		r.xattrs, r.content = w.out[known[0]].xattrs, w.out[known[0]].content
	} else {
		r.xattrs = w.xattrs(full, path)
	}
	w.out[path] = r
	return r
}

// dir enters what is in the directory fd, which is closed by the caller.
func (w *walker) dir(fd int, path string, r *record, nlink uint64) {
	entries := w.names(fd, path)
	r.nlink = 2
	for _, e := range entries {
		sub := e.name
		if path != "" {
			sub = path + "/" + e.name
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			w.t.Errorf("lstat of %q: %v", sub, err)
			continue
		}
		if got := uint32(e.kind) << 12; got != st.Mode&unix.S_IFMT {
			w.t.Errorf("readdir says %q has type %#o, lstat %#o", sub, got, st.Mode&unix.S_IFMT)
		}
		full := fmt.Sprintf("/proc/self/fd/%d/%s", fd, e.name)
		rec := w.record(full, sub, &st)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			r.nlink++
			below, err := unix.Openat(fd, e.name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err != nil {
				w.t.Errorf("opening %q: %v", sub, err)
				continue
			}
			w.dir(below, sub, rec, st.Nlink)
			unix.Close(below)
			continue
		}
		id := [2]uint64{st.Dev, st.Ino}
		known := len(w.ids[id]) > 0
		w.ids[id] = append(w.ids[id], sub)
		w.special(fd, e.name, sub, rec, &st, known)
	}
	if nlink != r.nlink && nlink != 1 { // 1: the file system does not count
		w.t.Errorf("directory %q has %d links and %d subdirectories", path, nlink, r.nlink-2)
	}
}

// special fills what the type of a file asks for.
func (w *walker) special(fd int, name, path string, r *record, st *unix.Stat_t, known bool) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		n, err := unix.Readlinkat(fd, name, w.buf)
		if err != nil || int64(n) != st.Size {
			w.t.Errorf("readlink of %q: %d of %d bytes, %v", path, n, st.Size, err)
		}
		r.target = string(w.buf[:max(n, 0)])
	case unix.S_IFBLK, unix.S_IFCHR:
		r.rdev = st.Rdev
	case unix.S_IFREG:
		if r.size = st.Size; !known && st.Size > 0 {
			r.content = w.content(fd, name, path, st.Size)
		}
	}
}

func (w *walker) content(fd int, name, path string, size int64) uint64 {
	f, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		w.t.Errorf("opening %q: %v", path, err)
		return 0
	}
	file := os.NewFile(uintptr(f), path)
	defer file.Close()
	var h maphash.Hash
	h.SetSeed(w.seed)
	n, err := io.CopyBuffer(struct{ io.Writer }{&h}, struct{ io.Reader }{file}, w.buf)
	if err != nil || n != size {
		w.t.Errorf("reading %q: %d of %d bytes, %v", path, n, size, err)
	}
	return h.Sum64()
}

type entry struct {
	name string
	kind byte // d_type: the type bits of a mode, shifted down
}

// names reads a directory to the end, twice, and wants the same names both times, none of them twice.
func (w *walker) names(fd int, path string) []entry {
	read := func(bufLen int) (out []entry) {
		if _, err := unix.Seek(fd, 0, io.SeekStart); err != nil {
			w.t.Errorf("rewinding %q: %v", path, err)
		}
		for {
			n, err := unix.Getdents(fd, w.buf[:bufLen])
			if err != nil {
				w.t.Errorf("reading directory %q: %v", path, err)
			}
			if n <= 0 {
				return out
			}
			for b := w.buf[:n]; len(b) > 0; { // struct linux_dirent64: ino, off, reclen, type, name
				length := int(b[16]) | int(b[17])<<8
				name, _, _ := strings.Cut(string(b[19:length]), "\x00")
				if name != "." && name != ".." {
					out = append(out, entry{name, b[18]})
				}
				b = b[length:]
			}
		}
	}
	order := func(a, b entry) int { return strings.Compare(a.name, b.name) }
	all := read(len(w.buf))
	few := read(600) // one or two names at a time: every place to go on from
	slices.SortFunc(all, order)
	slices.SortFunc(few, order)
	if !slices.Equal(all, few) {
		w.t.Errorf("directory %q has %d entries read at once, %d read in small pieces", path, len(all), len(few))
	}
	for i := 1; i < len(all); i++ {
		if all[i].name == all[i-1].name {
			w.t.Errorf("directory %q has %q twice", path, all[i].name)
		}
	}
	return all
}

func (w *walker) xattrs(full, path string) map[string]string {
	n, err := unix.Llistxattr(full, w.buf[:1<<16])
	if err == unix.ENOTSUP || n == 0 {
		return nil
	}
	if err != nil {
		w.t.Errorf("llistxattr of %q: %v", path, err)
		return nil
	}
	out := map[string]string{}
	for _, name := range strings.Split(strings.TrimSuffix(string(w.buf[:n]), "\x00"), "\x00") {
		if w.loose.noACL && strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		if _, twice := out[name]; twice {
			w.t.Errorf("%q has the attribute %q twice", path, name)
		}
		value := make([]byte, 1<<16)
		m, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			w.t.Errorf("lgetxattr of %q, %q: %v", path, name, err)
			continue
		}
		out[name] = string(value[:m])
	}
	return out
}

// sameDirs reports every difference between what the kernel shows at want and at got.
func sameDirs(t testing.TB, want, got string, l loose) {
	t.Helper()
	seed := maphash.MakeSeed()
	sameRecords(t, walk(t, want, l, seed), walk(t, got, l, seed))
}

func sameRecords(t testing.TB, want, got map[string]*record) {
	t.Helper()
	diffs := diffRecords(want, got)
	for _, d := range diffs[:min(len(diffs), 20)] {
		t.Error(d)
	}
	if len(diffs) > 20 {
		t.Errorf("and %d more differences", len(diffs)-20)
	}
}

func diffRecords(want, got map[string]*record) (out []string) {
	for _, path := range slices.Sorted(maps.Keys(want)) {
		w, g := want[path], got[path]
		if g == nil {
			out = append(out, fmt.Sprintf("%q is missing", short(path)))
			continue
		}
		for _, d := range w.diff(g) {
			out = append(out, fmt.Sprintf("%q: %s", short(path), d))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if want[path] == nil {
			out = append(out, fmt.Sprintf("%q is in the pack only", short(path)))
		}
	}
	return out
}

func (r *record) diff(g *record) (out []string) {
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.mode != g.mode {
		add("mode %#o, want %#o", g.mode, r.mode)
	}
	if r.uid != g.uid || r.gid != g.gid {
		add("owner %d:%d, want %d:%d", g.uid, g.gid, r.uid, r.gid)
	}
	if r.nlink != g.nlink {
		add("%d links, want %d", g.nlink, r.nlink)
	}
	if r.sec != g.sec || r.nsec != g.nsec {
		add("mtime %d.%09d, want %d.%09d", g.sec, g.nsec, r.sec, r.nsec)
	}
	if r.rdev != g.rdev {
		add("device %d:%d, want %d:%d", unix.Major(g.rdev), unix.Minor(g.rdev), unix.Major(r.rdev), unix.Minor(r.rdev))
	}
	if r.size != g.size {
		add("size %d, want %d", g.size, r.size)
	} else if r.content != g.content {
		add("another content")
	}
	if r.target != g.target {
		add("target %q, want %q", short(g.target), short(r.target))
	}
	if r.first != g.first {
		add("hard link to %q, want %q", short(g.first), short(r.first))
	}
	for _, name := range slices.Sorted(maps.Keys(r.xattrs)) {
		if v, ok := g.xattrs[name]; !ok {
			add("attribute %q is missing", short(name))
		} else if v != r.xattrs[name] {
			add("attribute %q is %q, want %q", short(name), short(v), short(r.xattrs[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.xattrs)) {
		if _, ok := r.xattrs[name]; !ok {
			add("attribute %q is in the pack only", short(name))
		}
	}
	return out
}

func short(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%s...(%d bytes)...%s", s[:40], len(s), s[len(s)-40:])
	}
	return s
}

// The comparison notices any single change.
func TestComparisonSees(t *testing.T) {
	testrig.NeedRoot(t)
	src := scratch(t)
	touch := func(dir string) { // after a change of entries the directory has its old time
		testrig.Must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{{Sec: 5}, {Sec: 5}}, 0))
	}
	fill := func(dir string) {
		testrig.Must(t, os.Mkdir(dir, 0o755))
		for _, name := range []string{"a", "b"} {
			testrig.Must(t, os.WriteFile(dir+"/"+name, bytes.Repeat([]byte(name), 5000), 0o644))
			testrig.Must(t, unix.Setxattr(dir+"/"+name, "user.x", []byte(name), 0))
			touch(dir + "/" + name)
		}
		testrig.Must(t, os.Link(dir+"/a", dir+"/c"))
		testrig.Must(t, os.Symlink("x", dir+"/link"))
		testrig.Must(t, unix.Mknod(dir+"/dev", unix.S_IFCHR|0o600, 0x103))
		for _, name := range []string{"link", "dev"} {
			testrig.Must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/"+name, []unix.Timespec{{Sec: 5}, {Sec: 5}}, unix.AT_SYMLINK_NOFOLLOW))
		}
		touch(dir)
	}
	fill(src + "/want")
	seed := maphash.MakeSeed()
	want := walk(t, src+"/want", loose{}, seed)
	for name, change := range map[string]func(dir string) error{
		"":      func(string) error { return nil },
		"mode":  func(d string) error { return unix.Chmod(d+"/a", 0o4644) },
		"owner": func(d string) error { return os.Chown(d+"/a", 0, 1) },
		"time": func(d string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, d+"/a", []unix.Timespec{{}, {Sec: 5, Nsec: 1}}, 0)
		},
		"xattr":   func(d string) error { return unix.Setxattr(d+"/a", "user.x", []byte("b"), 0) },
		"added":   func(d string) error { return unix.Setxattr(d+"/a", "user.y", nil, 0) },
		"removed": func(d string) error { return unix.Removexattr(d+"/a", "user.x") },
		"entry":   func(d string) error { return os.WriteFile(d+"/new", nil, 0o644) },
		"gone":    func(d string) error { return os.Remove(d + "/link") },
		"byte": func(d string) error {
			f, err := os.OpenFile(d+"/b", os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte{0}, 4999)
				f.Close()
				touch(d + "/b")
			}
			return err
		},
		"link": func(d string) error {
			return errors.Join(os.Remove(d+"/c"), os.Link(d+"/b", d+"/c"))
		},
	} {
		dir := src + "/got"
		fill(dir)
		testrig.Must(t, change(dir))
		touch(dir)
		diffs := diffRecords(want, walk(t, dir, loose{}, seed))
		if (len(diffs) == 0) != (name == "") {
			t.Errorf("change %q: %q", name, diffs)
		}
		testrig.Must(t, os.RemoveAll(dir))
	}
}
