package cachefile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
)

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range []Record{
		{bpk.Range{Page: 0, Pages: 1}, [32]byte{}},
		{bpk.Range{Page: 36, Pages: 64}, [32]byte{1, 31: 2}},
		{bpk.Range{Page: 99, Pages: 1}, sha256.Sum256([]byte("x"))},
	} {
		b := r.Append([]byte("before"))[6:]
		if got, ok := Decode(b, 100); !ok || got != r || len(b) != RecordSize {
			t.Errorf("%v, %t; want %v", got, ok, r)
		}
		for i := range b {
			b[i] ^= 1
			if _, ok := Decode(b, 100); ok {
				t.Errorf("%v with byte %d changed is taken", r.Range, i)
			}
			b[i] ^= 1
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, r := range []bpk.Range{{Page: -1, Pages: 1}, {Page: 0, Pages: 0}, {Page: 0, Pages: 65}, {Page: 100, Pages: 1}, {Page: 99, Pages: 2}, {Page: 1<<63 - 1, Pages: 64}, {Page: 0, Pages: -1}} {
		if _, ok := Decode(Record{Range: r}.Append(nil), 100); ok {
			t.Errorf("%v is taken", r)
		}
	}
	if _, ok := Decode(make([]byte, RecordSize), 100); ok {
		t.Error("zeros are taken")
	}
	if _, ok := Decode(nil, 100); ok {
		t.Error("nothing is taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Record{Range: bpk.Range{Page: 5, Pages: 3}}.Append(nil), int64(100))
	f.Add(Record{Range: bpk.Range{Page: 1<<63 - 1, Pages: 2}}.Append(nil), int64(1<<40))
	f.Fuzz(func(t *testing.T, b []byte, pages int64) {
		r, ok := Decode(b, pages)
		if ok && (r.Page < 0 || r.Pages < 1 || r.Pages > RecordPages || r.Page+r.Pages > pages || len(b) < RecordSize) {
			t.Errorf("%v in an image of %d pages", r.Range, pages)
		}
	})
}

// testImage is an image with runs of zeros.
func testImage(pages int) []byte {
	b := make([]byte, pages*bpk.PageSize)
	rand.NewChaCha8([32]byte{3}).Read(b)
	clear(b[10*bpk.PageSize : 20*bpk.PageSize])
	clear(b[30*bpk.PageSize : 31*bpk.PageSize])
	return b
}

func TestWrite(t *testing.T) {
	image := testImage(1000)
	digest := sha256.Sum256(image)
	dir := t.TempDir() + "/made"
	ranges := []bpk.Range{{Page: 500, Pages: 200}, {Page: 5, Pages: 30}, {Page: 999, Pages: 1}, {Page: 0, Pages: 0}}
	for range 2 { // the second one replaces the first
		if err := Write(t.Context(), dir, digest, int64(len(image)), ranges, func(dst []byte, off int64) error {
			copy(dst, image[off:])
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	imageName, journalName := Names(dir, digest)
	want := make([]byte, len(image))
	covered := map[int64]bool{}
	journal, err := os.ReadFile(journalName)
	if err != nil || len(journal)%RecordSize != 0 {
		t.Fatalf("%d bytes, %v", len(journal), err)
	}
	for ; len(journal) > 0; journal = journal[RecordSize:] {
		r, ok := Decode(journal, 1000)
		part := image[r.Page*bpk.PageSize : (r.Page+r.Pages)*bpk.PageSize]
		if !ok || sha256.Sum256(part) != r.SHA256 {
			t.Errorf("record of %v: whole: %t", r.Range, ok)
		}
		for p := r.Page; p < r.Page+r.Pages; p++ {
			if covered[p] {
				t.Errorf("page %d twice", p)
			}
			covered[p] = true
		}
	}
	for _, r := range ranges {
		copy(want[r.Page*bpk.PageSize:(r.Page+r.Pages)*bpk.PageSize], image[r.Page*bpk.PageSize:])
	}
	if got, err := os.ReadFile(imageName); err != nil || !bytes.Equal(got, want) || len(covered) != 231 {
		t.Errorf("image file: %v, equal: %t; %d pages in the journal", err, bytes.Equal(got, want), len(covered))
	}
	for _, name := range []string{imageName, journalName} {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil || st.Mode&0o777 != 0o600 {
			t.Errorf("%s: mode %o, %v", name, st.Mode, err)
		}
		if name == imageName && st.Blocks*512 > 221*bpk.PageSize {
			t.Errorf("%d bytes on disk for 220 pages that are not zeros", st.Blocks*512)
		}
	}
	if ents, _ := os.ReadDir(dir); len(ents) != 2 {
		t.Errorf("%d files in the directory", len(ents))
	}
}

// A write that fails leaves what was there.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("broken")
	calls := 0
	fail := func([]byte, int64) error {
		if calls++; calls > 2 {
			return broken
		}
		return nil
	}
	if err := Write(t.Context(), dir, [32]byte{1}, 1<<20, []bpk.Range{{Page: 0, Pages: 256}}, fail); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, dir, [32]byte{1}, 1<<20, []bpk.Range{{Page: 0, Pages: 1}}, fail); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := Write(t.Context(), dir, [32]byte{1}, 1<<20, []bpk.Range{{Page: 255, Pages: 2}}, fail); err == nil {
		t.Error("pages outside the image are written")
	}
	if ents, _ := os.ReadDir(dir); len(ents) != 0 {
		t.Errorf("left behind: %v", ents)
	}
}

func TestChunkRecordRoundTrip(t *testing.T) {
	for _, r := range []ChunkRecord{
		{Range: bpk.Range{Page: 0, Pages: 1}},
		{Stored: [32]byte{1, 31: 2}, Sum: [32]byte{3, 31: 4}, Range: bpk.Range{Page: 36, Pages: 64}, Codec: bpk.CodecZstd},
	} {
		b := r.Append([]byte("before"))[6:]
		if got, ok := DecodeChunk(b, 100); !ok || got != r || len(b) != ChunkRecordSize {
			t.Errorf("%+v, %t; want %+v", got, ok, r)
		}
		for i := range b {
			b[i] ^= 1
			if _, ok := DecodeChunk(b, 100); ok {
				t.Errorf("%+v with byte %d changed is taken", r.Range, i)
			}
			b[i] ^= 1
		}
	}
	for _, r := range []bpk.Range{{Page: -1, Pages: 1}, {Page: 0, Pages: 0}, {Page: 0, Pages: bpk.MaxChunkPages + 1}, {Page: 99, Pages: 2}, {Page: 1<<63 - 1, Pages: 64}} {
		if _, ok := DecodeChunk(ChunkRecord{Range: r}.Append(nil), 100); ok {
			t.Errorf("%v is taken", r)
		}
	}
}
