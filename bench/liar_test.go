package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bootprof/bench/link"
	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

// A damaged copy differs where its Lie says, and neither in size nor in date.
func TestLies(t *testing.T) {
	const zone, zoneLen, size = 3*bpk.PageSize + 100, 10 * bpk.PageSize, 40 * bpk.PageSize
	head := bpk.Header{Major: bpk.Major, ImageSize: 1 << 20, PackSize: size, Boot: bpk.Block{PackOff: zone, Len: zoneLen}, BootPages: 20,
		BootIndex: bpk.Block{PackOff: bpk.HeaderSize, Len: 100}, BodyRoot: bpk.Block{PackOff: zone + zoneLen, Len: 100}, BodyDepth: 1}
	pack := append(head.Encode(), make([]byte, size-bpk.HeaderSize)...)
	path := filepath.Join(t.TempDir(), "p.bpk")
	testrig.WriteFile(t, path, pack)
	date := time.Unix(1_600_000_000, 0)
	testrig.Must(t, os.Chtimes(path, date, date))
	for lie, want := range map[Lie]struct{ first, bytes int }{LieAll: {0, 40}, LieZone: {zone, 10}, LieOnce: {zone + zoneLen/2, 1}} {
		root := filepath.Join(t.TempDir(), "www")
		testrig.Must(t, lyingDir(root, Way{Served: path}, lie))
		made := filepath.Join(root, "p.bpk")
		b := testrig.ReadFile(t, made)
		if info, err := os.Stat(made); err != nil || len(b) != size || !info.ModTime().Equal(date) {
			t.Fatalf("%s: %d bytes of %v, %v; want %d of %v", lie, len(b), info.ModTime(), err, size, date)
		}
		first, n := -1, 0
		for i := range b {
			if b[i] != pack[i] {
				if first < 0 {
					first = i
				}
				n++
			}
		}
		if first != want.first || n != want.bytes {
			t.Errorf("%s: %d bytes differ from %d on; want %d from %d", lie, n, first, want.bytes, want.first)
		}
	}
	if err := LieZone.damage(path, filepath.Join(t.TempDir(), "absent", "p.bpk")); err == nil {
		t.Error("a copy in no directory: no error")
	}
	testrig.WriteFile(t, path, bytes.Repeat([]byte{1}, 8192))
	if err := LieZone.damage(path, filepath.Join(t.TempDir(), "p.bpk")); err == nil {
		t.Error("no pack: no error")
	}
}

// Of desync's files the index is right, and each chunk has one wrong byte.
func TestLyingChunks(t *testing.T) {
	dir := t.TempDir()
	index, store := filepath.Join(dir, "image.caibx"), filepath.Join(dir, "image.castr")
	chunk := make([]byte, 1000)
	for _, name := range []string{index, filepath.Join(store, "ab", "abc.cacnk")} {
		testrig.WriteFile(t, name, chunk)
	}
	way := Way{Served: index, Beside: []string{store}}
	root := filepath.Join(t.TempDir(), "www")
	testrig.Must(t, lyingDir(root, way, LieZone))
	for name, want := range map[string]int{"image.caibx": 0, "image.castr/ab/abc.cacnk": 1} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || len(b) != len(chunk) {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		if got := len(b) - bytes.Count(b, []byte{0}); got != want {
			t.Errorf("%s: %d bytes wrong, want %d", name, got, want)
		}
	}
	if err := lyingDir(filepath.Join(t.TempDir(), "www"), way, LieOnce); err == nil {
		t.Error("one byte of a chunk store: no error")
	}
}

func TestParseMirror(t *testing.T) {
	fast := link.Params{Bits: 100e6, RTT: 20 * time.Millisecond}
	for s, want := range map[string]Mirror{"100mbit/20ms": {Link: fast}, "100mbit/20ms:zone": {fast, LieZone}, "100mbit/20ms:once": {fast, LieOnce}} {
		if m, err := ParseMirror(s); err != nil || m != want || m.String() != s {
			t.Errorf("%q: %v, %v; want %v", s, m, err, want)
		}
	}
	for _, s := range []string{"100mbit/20ms:", "100mbit/20ms:some", "fast:zone", ""} {
		if m, err := ParseMirror(s); err == nil {
			t.Errorf("%q: %v, no error", s, m)
		}
	}
}
