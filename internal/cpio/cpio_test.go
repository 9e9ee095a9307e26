package cpio

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

// sample has every type, data of every length modulo four, names of different lengths, and missing parents.
func sample() *Archive {
	a := &Archive{}
	a.Symlink("bin", "usr/bin")
	a.Device("dev/console", ModeChar, 0o600, 5, 1)
	a.Device("dev/vda", ModeBlock, 0o660, 254, 3)
	a.Dir("proc", 0o555)
	for i := range 9 {
		a.File("usr/bin/"+strings.Repeat("x", i+1), 0o755, bytes.Repeat([]byte{'a' + byte(i)}, i))
	}
	a.File("usr/bin-more", 0o644, nil) // sorts between usr/bin and what is below it
	return a
}

func archive(t *testing.T, a *Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := a.WriteTo(&b)
	testrig.Must(t, err)
	if n != int64(b.Len()) || n%blockBytes != 0 {
		t.Errorf("WriteTo returned %d and wrote %d bytes, want whole blocks of %d", n, b.Len(), blockBytes)
	}
	return b.Bytes()
}

// TestReadByBsdtar has another program tell what is in an archive, and unpack it.
func TestReadByBsdtar(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.cpio")
	testrig.WriteFile(t, file, archive(t, sample()))
	var got []string
	for line := range strings.Lines(testrig.Run(t, "bsdtar", "-tvf", file)) {
		f := strings.Fields(line)
		// "-rwxr-xr-x  1 0 0 3 Jan  1  1970 usr/bin/xxxx": a device has "5,1" for the size.
		got = append(got, strings.Join(append([]string{f[0], f[2], f[3], f[4]}, f[8:]...), " "))
	}
	want := []string{
		"lrwxrwxrwx 0 0 7 bin -> usr/bin",
		"drwxr-xr-x 0 0 0 dev",
		"crw------- 0 0 5,1 dev/console",
		"brw-rw---- 0 0 254,3 dev/vda",
		"dr-xr-xr-x 0 0 0 proc",
		"drwxr-xr-x 0 0 0 usr",
		"drwxr-xr-x 0 0 0 usr/bin",
		"-rw-r--r-- 0 0 0 usr/bin-more",
	}
	for i := range 9 {
		want = append(want, "-rwxr-xr-x 0 0 "+string(rune('0'+i))+" usr/bin/"+strings.Repeat("x", i+1))
	}
	if !slices.Equal(got, want) {
		t.Errorf("bsdtar lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	testrig.Run(t, "bsdtar", "-xf", file, "-C", dir, "usr/bin")
	for i := range 9 {
		got, err := os.ReadFile(filepath.Join(dir, "usr/bin", strings.Repeat("x", i+1)))
		if want := strings.Repeat(string(rune('a'+i)), i); err != nil || string(got) != want {
			t.Errorf("file %d: %q, %v; want %q", i, got, err, want)
		}
	}
}

func TestSameBytes(t *testing.T) {
	a, b := sample(), sample()
	first := archive(t, a)
	if !bytes.Equal(first, archive(t, b)) || !bytes.Equal(first, archive(t, a)) {
		t.Error("the same entries gave other bytes")
	}
}

func TestRefuses(t *testing.T) {
	tests := []struct {
		name string
		add  func(*Archive)
		want string
	}{
		{"absolute", func(a *Archive) { a.Dir("/proc", 0o755) }, "not clean"},
		{"empty", func(a *Archive) { a.Dir("", 0o755) }, "not clean"},
		{"dot", func(a *Archive) { a.Dir("a/./b", 0o755) }, "not clean"},
		{"up", func(a *Archive) { a.File("a/../b", 0o644, nil) }, "not clean"},
		{"nul", func(a *Archive) { a.File("a\x00b", 0o644, nil) }, "NUL"},
		{"long", func(a *Archive) { a.File(strings.Repeat("x", maxName), 0o644, nil) }, "too long"},
		{"trailer", func(a *Archive) { a.File(trailer, 0o644, nil) }, "ends an archive"},
		{"twice", func(a *Archive) { a.Dir("a", 0o755); a.File("a", 0o644, nil) }, "twice"},
		{"below a file", func(a *Archive) { a.File("a", 0o644, nil); a.File("a/b", 0o644, nil) }, "no directory"},
		{"no target", func(a *Archive) { a.Symlink("a", "") }, "without a target"},
		{"socket", func(a *Archive) { a.Add(Entry{Path: "s", Mode: 0o140755}) }, "no type"},
		{"data of a directory", func(a *Archive) { a.Add(Entry{Path: "d", Mode: ModeDir, Data: []byte("x")}) }, "can be none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a Archive
			tt.add(&a)
			var b bytes.Buffer
			if _, err := a.WriteTo(&b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if b.Len() != 0 {
				t.Errorf("%d bytes were written", b.Len())
			}
		})
	}
}

type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteError(t *testing.T) {
	if _, err := sample().WriteTo(&failing{left: 300}); !errors.Is(err, errFull) {
		t.Errorf("got %v, want %v", err, errFull)
	}
}
