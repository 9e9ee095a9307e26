package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

// compress runs a compressor from stdin to stdout.
func compress(t testing.TB, b []byte, name string, args ...string) []byte {
	t.Helper()
	return []byte(testrig.RunInput(t, string(b), name, args...))
}

// smallTar is an archive of one file of size bytes, which do not compress to nothing.
func smallTar(t testing.TB, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := make([]byte, size)
	for i, x := 0, uint32(1); i < size; i++ {
		x = x*1664525 + 1013904223
		text[i] = 'a' + byte(x>>28)
	}
	testrig.Must(t, w.WriteHeader(&tar.Header{Name: "d/a", Mode: 0o644, Size: int64(size)}))
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	testrig.Must(t, w.Close())
	return b.Bytes()
}

// largeDict makes the last block of an xz file ask for a dictionary of 4 GiB.
func largeDict(t testing.TB, b []byte) []byte {
	t.Helper()
	b = bytes.Clone(b)
	for at := (len(b) - 4) &^ 3; at > 0; at -= 4 {
		n := (int(b[at]) + 1) * 4
		if b[at] == 0 || at+n > len(b) || crc32.ChecksumIEEE(b[at:at+n-4]) != binary.LittleEndian.Uint32(b[at+n-4:]) {
			continue
		}
		i := bytes.Index(b[at:at+n], []byte{0x21, 1}) // LZMA2, one byte of properties
		if i < 0 {
			continue
		}
		b[at+i+2] = 40
		binary.LittleEndian.PutUint32(b[at+n-4:], crc32.ChecksumIEEE(b[at:at+n-4]))
		return b
	}
	t.Fatal("no block header in the xz file")
	return nil
}

func fromBytes(t testing.TB, b []byte, opts TarOptions) (*Inode, io.Closer, error) {
	t.Helper()
	path := filepath.Join(testrig.MemoryDir(t), "a.tar.x")
	testrig.WriteFile(t, path, b)
	return FromTarFile(context.Background(), path, opts)
}

// A few bytes may ask for a dictionary of gigabytes.
func TestFromTarFileDictionary(t *testing.T) {
	plain := smallTar(t, 100_000)
	xz := compress(t, plain, "xz", "-0c")
	blocks := compress(t, plain, "xz", "-0c", "--block-size=40000")
	cases := map[string][]byte{
		"xz":               largeDict(t, xz),
		"xz, third block":  largeDict(t, blocks),
		"xz, other stream": append(compress(t, plain[:5120], "xz", "-0c"), append(make([]byte, 4), largeDict(t, compress(t, plain[5120:], "xz", "-0c"))...)...),
		"zstd":             append([]byte("\x28\xb5\x2f\xfd\x00\xa0"), 1, 0, 0), // a window of 1 GiB
		"zstd, other frame": append(compress(t, plain, "zstd", "-1c"),
			append([]byte("\x28\xb5\x2f\xfd\x00\xa0"), 1, 0, 0)...),
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", testrig.MemoryDir(t))
			var err error
			took := testrig.Allocated(func() { _, _, err = fromBytes(t, b, TarOptions{}) })
			if err == nil || !strings.Contains(err.Error(), "a dictionary of more than 128 MiB") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want one line about the dictionary", err)
			}
			if took > 64<<20 {
				t.Errorf("%d MB were allocated", took>>20)
			}
			if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
				t.Errorf("temporary files are left: %v", left)
			}
		})
	}
	for name, b := range map[string][]byte{
		"blocks": blocks, "streams": append(compress(t, plain[:5120], "xz", "-0c"), append(make([]byte, 8), compress(t, plain[5120:], "xz", "-1c")...)...),
		"filter": compress(t, plain, "xz", "-c", "--x86", "--lzma2=preset=1"),
	} {
		root, c, err := fromBytes(t, b, TarOptions{})
		if err != nil || root.Lookup("d").Lookup("a").Size != 100_000 {
			t.Fatalf("xz with several %s: %v", name, err)
		}
		c.Close()
	}
}

// What a file unpacks to is cut off, so that a round takes neither long nor much space.
func FuzzFromTarFile(f *testing.F) {
	plain := smallTar(f, 2000)
	xz := compress(f, plain, "xz", "-0c")
	f.Add(plain)
	f.Add(xz)
	f.Add(largeDict(f, xz))
	f.Add(compress(f, plain, "xz", "-0c", "--block-size=1000"))
	f.Add(append(bytes.Clone(xz), xz...))
	f.Add(compress(f, plain, "gzip", "-c"))
	f.Add(compress(f, plain, "bzip2", "-c"))
	f.Add(compress(f, plain, "zstd", "-c"))
	path := filepath.Join(testrig.MemoryDir(f), "in")
	f.Fuzz(func(t *testing.T, b []byte) {
		testrig.WriteFile(t, path, b)
		root, c, err := FromTarFile(context.Background(), path, TarOptions{maxUnpacked: 1 << 20})
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 512)
		_ = Walk(root, func(p string, n *Inode) error {
			if n.Content == nil || len(p) > 1<<12 {
				return nil
			}
			r, err := n.Content.Open()
			if err != nil {
				t.Fatalf("%q: %v", p, err)
			}
			defer r.Close()
			if m, err := r.ReadAt(buf, 0); int64(m) != min(n.Size, 512) || err != nil && err != io.EOF {
				t.Fatalf("%q: %d of %d bytes, %v", p, m, n.Size, err)
			}
			return nil
		})
	})
}
