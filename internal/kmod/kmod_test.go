package kmod_test

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"bootprof/internal/kmod"
	"bootprof/internal/testrig"
)

func file(data string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(data)} }

// compressed runs a program of the host, so that what is read is not of our own making.
func compressed(t *testing.T, data, program string, args ...string) *fstest.MapFile {
	t.Helper()
	return file(testrig.RunInput(t, data, program, args...))
}

func TestLoad(t *testing.T) {
	const a, b, c, d = "\x7fELF a", "\x7fELF b", "\x7fELF c", "\x7fELF d"
	dir := fstest.MapFS{
		"modules.dep":     file("fs/a.ko.xz: lib/b.ko.zst lib/c-c.ko.gz\nlib/b.ko.zst: lib/c-c.ko.gz\nlib/c-c.ko.gz:\nd.ko:\n"),
		"modules.builtin": file("kernel/fs/in-side.ko\n"),
		"fs/a.ko.xz":      compressed(t, a, "xz", "--check=crc32"),
		"lib/b.ko.zst":    compressed(t, b, "zstd", "-q"),
		"lib/c-c.ko.gz":   compressed(t, c, "gzip"),
		"d.ko":            file(d),
	}
	got, missing, err := kmod.Load(dir, []string{"a", "in_side", "c_c", "d", "none"})
	want := []kmod.Module{{Name: "c-c.ko", Data: []byte(c)}, {Name: "b.ko", Data: []byte(b)}, {Name: "a.ko", Data: []byte(a)}, {Name: "d.ko", Data: []byte(d)}}
	if err != nil || !reflect.DeepEqual(got, want) || !reflect.DeepEqual(missing, []string{"none"}) {
		t.Errorf("got %v, missing %v, %v; want %v, missing none", got, missing, err, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	bomb := compressed(t, "\x7fELF"+strings.Repeat("\x00", 65<<20), "gzip", "-1")
	for _, c := range []struct {
		name string
		dir  fstest.MapFS
		want string
	}{
		{"no directory of modules", fstest.MapFS{}, "there is no modules.dep"},
		{"a file that is missing", fstest.MapFS{"modules.dep": file("a.ko:\n")}, "a.ko"},
		{"a path that leads out", fstest.MapFS{"modules.dep": file("../../a.ko:\n")}, "../../a.ko"},
		{"no module", fstest.MapFS{"modules.dep": file("a.ko:\n"), "a.ko": file("text")}, "no kernel module"},
		{"damaged", fstest.MapFS{"modules.dep": file("a.ko.xz:\n"), "a.ko.xz": file("\x7fELF")}, "a.ko.xz"},
		{"too large", fstest.MapFS{"modules.dep": file("a.ko.gz:\n"), "a.ko.gz": bomb}, "larger than 64 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := kmod.Load(c.dir, []string{"a"}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("a.ko: b.ko\nb.ko:\n", []byte("\x7fELF"), "")
	f.Add("a.ko.zst:\n", []byte("(\xb5/\xfd"), ".zst")
	f.Add("a.ko.xz:\n", []byte("\xfd7zXZ"), ".xz")
	f.Fuzz(func(t *testing.T, deps string, data []byte, ext string) {
		dir := fstest.MapFS{"modules.dep": file(deps), "a.ko" + ext: &fstest.MapFile{Data: data}, "b.ko": file("\x7fELF")}
		kmod.Load(dir, []string{"a"})
	})
}
