package tree_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// pax makes an archive of one file with the records.
func pax(t testing.TB, mode int64, records map[string]string) []byte {
	t.Helper()
	e := entry("file", tar.TypeReg, "x")
	e.h.Mode, e.h.PAXRecords = mode, records
	return makeTar(t, []tarItem{e})
}

func TestTarXattrs(t *testing.T) {
	const acl = "user::rw-,user:7:r--,group::r--,mask::rwx,other::r--"
	binary := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	for name, c := range map[string]struct {
		records map[string]string
		want    string // attributes
		mode    uint32 // of a file that the archive says is 0600
	}{
		"plain":                {map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.b": "\x00\xff", "SCHILY.xattr.security.c": ""}, "security.c= trusted.b=\x00\xff user.a=1", 0o600},
		"of the file system":   {map[string]string{"SCHILY.xattr.btrfs.compression": "zstd", "SCHILY.xattr.system.nfs4_acl": "x"}, "", 0o600},
		"escaped by GNU tar":   {map[string]string{"SCHILY.xattr.user.%3D%25%3d%41": "1"}, "user.=%%3d%41=1", 0o600},
		"libarchive":           {map[string]string{"LIBARCHIVE.xattr.user.a%3Db%0A": "AP8", "SCHILY.xattr.user.a": "b\n=\x00\xff"}, "user.a=b\n=\x00\xff", 0o600},
		"libarchive, padded":   {map[string]string{"LIBARCHIVE.xattr.user.a": "AA=="}, "user.a=\x00", 0o600},
		"SELinux":              {map[string]string{"RHT.security.selinux": "a:b:c"}, "security.selinux=a:b:c\x00", 0o600},
		"ACL gives the mode":   {map[string]string{"SCHILY.acl.access": acl}, "system.posix_acl_access=" + binary, 0o674},
		"so does a binary one": {map[string]string{"SCHILY.xattr.system.posix_acl_access": binary}, "system.posix_acl_access=" + binary, 0o674},
		"ACL that is a mode":   {map[string]string{"SCHILY.acl.access": "user::r-x,group::-w-,other::--x"}, "", 0o521},
		"default ACL":          {map[string]string{"SCHILY.acl.default": acl}, "system.posix_acl_default=" + binary, 0o600},
	} {
		root, err := fromTar(pax(t, 0o600, c.records))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		n := root.Lookup("file")
		for _, x := range n.Xattrs {
			got = append(got, x.Name+"="+string(x.Value))
		}
		if s := strings.Join(got, " "); s != c.want || n.Mode != tree.ModeRegular|c.mode {
			t.Errorf("%s: mode %o, attributes %q, want %o, %q", name, n.Mode&0o7777, s, c.mode, c.want)
		}
	}
	for _, bad := range []map[string]string{
		{"LIBARCHIVE.xattr.user.a": "!!"}, {"LIBARCHIVE.xattr.user.%zz": "AA"}, {"SCHILY.acl.access": "user::rwz"},
		{"SCHILY.xattr.system.posix_acl_access": "x"}, {"SCHILY.xattr.system.posix_acl_default": binary[:20]}, {"SCHILY.acl.access": "user::rw-"},
		{"SCHILY.acl.access": "user::rw-,user:7:r--,group::r--,other::r--"},
		{"SCHILY.acl.default": "user::rw-,user::rw-,other::r--"}, {"SCHILY.xattr.system.posix_acl_access": binary[:36]},
		{"SCHILY.xattr.user.a": strings.Repeat("x", 1<<16+1)}, {"SCHILY.xattr.user." + strings.Repeat("n", 255): ""},
	} {
		if _, err := fromTar(pax(t, 0o600, bad)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.50v: error %v", bad, err)
		}
	}
}

// Global headers hold for what follows them and has no record of its own.
func TestTarGlobalHeader(t *testing.T) {
	global := func(records map[string]string) tarItem {
		return tarItem{h: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "global", PAXRecords: records}}
	}
	own := entry("own", tar.TypeReg, "x")
	own.h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "1"}
	own.h.Uid = 3_000_000 // more than the header's field holds: has a record
	root, err := fromTar(makeTar(t, []tarItem{
		entry("before", tar.TypeReg, "x"),
		global(map[string]string{"comment": "0123", "uid": "77", "gid": "4294967294", "mtime": "-5.25"}),
		entry("after", tar.TypeReg, "x"), own,
		global(map[string]string{"uid": "", "mtime": "9.5"}),
		entry("last", tar.TypeDir),
	}))
	testrig.Must(t, err)
	for name, want := range map[string]tree.Inode{
		"before": {MtimeSec: 1_600_000_000},
		"after":  {UID: 77, GID: 4294967294, MtimeSec: -6, MtimeNsec: 750_000_000},
		"own":    {UID: 3_000_000, GID: 4294967294, MtimeSec: -6, MtimeNsec: 750_000_000},
		"last":   {GID: 4294967294, MtimeSec: 9, MtimeNsec: 500_000_000},
	} {
		n := root.Lookup(name)
		if n.UID != want.UID || n.GID != want.GID || n.MtimeSec != want.MtimeSec || n.MtimeNsec != want.MtimeNsec {
			t.Errorf("%s: owner %d:%d, mtime %d.%09d, want %d:%d, %d.%09d", name, n.UID, n.GID, n.MtimeSec, n.MtimeNsec,
				want.UID, want.GID, want.MtimeSec, want.MtimeNsec)
		}
	}
	for key, bad := range map[string]string{"path": "x", "linkpath": "x", "size": "7", "uid": "-1", "gid": "4294967296"} {
		if _, err := fromTar(makeTar(t, []tarItem{global(map[string]string{key: bad}), entry("x", tar.TypeReg)})); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s=%q", key, bad)) {
			t.Errorf("%s=%s: error %v", key, bad, err)
		}
	}
}

// An archive without the zeros at its end is refused, as it may have lost entries.
func TestTarEndMark(t *testing.T) {
	whole := makeTar(t, []tarItem{entry("a", tar.TypeReg, "x"), entry("b", tar.TypeDir), entry("c", tar.TypeFifo)})
	for n := 512; n <= len(whole); n += 512 {
		_, err := fromTar(whole[:n])
		if cut := n < len(whole)-512; (err != nil) != cut { // one block of zeros will do
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestIsTar(t *testing.T) {
	dir := testrig.MemoryDir(t)
	testrig.WriteFile(t, dir+"/file \xff\xfe", strings.Repeat("x", 1000))
	for _, format := range []string{"v7", "ustar", "gnu", "oldgnu", "posix"} {
		archive := filepath.Join(testrig.MemoryDir(t), "x.tar")
		testrig.Run(t, "tar", "--format="+format, "-C", dir, "-cf", archive, ".")
		whole := testrig.ReadFile(t, archive)
		out := whole[:512]
		if !tree.IsTar(out) {
			t.Errorf("%s: no tar", format)
		}
		for i := range 512 {
			b := bytes.Clone(out)
			if b[i] ^= 0x15; tree.IsTar(b) && (i < 148 || i >= 156) {
				t.Errorf("%s: a tar, with byte %d changed", format, i)
			}
		}
		if format == "v7" {
			if root, err := fromTar(whole); err != nil || root.Lookup("file \xff\xfe").Size != 1000 {
				t.Errorf("v7: %v", err)
			}
		}
	}
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 512), "short": make([]byte, 511), "text": bytes.Repeat([]byte("text "), 200)} {
		if tree.IsTar(b) {
			t.Errorf("%s: a tar", name)
		}
	}
}
