package imagepack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

// foreign gives a pack another shape, which no writer of ours makes and every reader accepts: of a later minor version,
// with a node for each chunk, a root of one entry behind them, and places for chunks without bytes.
func foreign(t *testing.T, pack []byte) []byte {
	t.Helper()
	p, err := bpk.Open(bytes.NewReader(pack), int64(len(pack)))
	testrig.Must(t, err)
	out := append(bytes.Clone(pack), make([]byte, 100_000)...)
	var leaves []bpk.Entry
	add := func(entries []bpk.Entry) bpk.Block {
		node := bpk.EncodeNode(entries)
		out = append(out, node...)
		return bpk.Block{PackOff: int64(len(out) - len(node)), Len: int64(len(node)), SHA256: sha256.Sum256(node)}
	}
	if err := p.Chunks(func(e bpk.Entry) error {
		if e.Codec == bpk.CodecZero {
			e.Block = bpk.Block{PackOff: int64(len(out)), SHA256: [32]byte{1}}
		}
		leaves = append(leaves, bpk.Entry{Block: add([]bpk.Entry{e}), Page: e.Page, Pages: e.Pages})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	h := *p.Header
	top := bpk.Entry{Block: add(leaves), Pages: h.ImageSize / bpk.PageSize}
	h.Minor, h.Features, h.BodyDepth, h.BodyRoot = 9, 1<<31, 3, add([]bpk.Entry{top})
	h.Info, h.PackSize = bpk.Block{}, int64(len(out))
	copy(out, h.Encode())
	return out
}

// Split reads packs that others wrote, and what it writes is of its own version.
func TestSplitForeign(t *testing.T) {
	image := append(mixedPages(8, 500), make([]byte, 300*bpk.PageSize)...)
	path, _ := mustPack(t, newMemImage(image), WriteOptions{Boot: randomBoot(2, 500, 100)})
	b := foreign(t, testrig.ReadFile(t, path))
	p, err := bpk.Open(bytes.NewReader(b), int64(len(b)))
	testrig.Must(t, err)
	index := filepath.Join(testrig.MemoryDir(t), "x.bpi")
	if _, err := Split(t.Context(), p, index, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := decoded(t, index); err != nil || !bytes.Equal(got, image) {
		t.Fatalf("the image comes back as %d bytes, %v", len(got), err)
	}
	q := openPack(t, index)
	if h := q.Header; h.Minor != bpk.Minor || h.Features != bpk.FeatureSplit || h.BodyDepth != 1 || h.PackSize > p.Header.PackSize/2 {
		t.Errorf("the index has the header %+v", h)
	}
}

// A damaged pack is not split: nothing appears under the name of the index.
func TestSplitDamaged(t *testing.T) {
	image := mixedPages(8, 300)
	path, _ := mustPack(t, newMemImage(image), WriteOptions{Boot: randomBoot(2, 300, 100)})
	good := testrig.ReadFile(t, path)
	h, err := bpk.DecodeHeader(good)
	testrig.Must(t, err)
	for name, at := range map[string]int64{
		"boot zone": h.Boot.PackOff + h.Boot.Len - 1, "root": h.BodyRoot.PackOff + 3, "body": h.BodyRoot.PackOff + h.BodyRoot.Len + 3,
	} {
		b := bytes.Clone(good)
		b[at] ^= 1
		p, err := bpk.Open(bytes.NewReader(b), int64(len(b)))
		testrig.Must(t, err)
		index := filepath.Join(testrig.MemoryDir(t), "x.bpi")
		var corrupt *bpk.CorruptError
		if _, err := Split(t.Context(), p, index, nil); !errors.As(err, &corrupt) {
			t.Errorf("%s damaged: %v", name, err)
		}
		if _, err := os.Stat(index); err == nil {
			t.Errorf("%s damaged: there is an index", name)
		}
	}
}

// What lies under the name of a chunk already is taken for it only if it is, and neither waited for nor read into memory.
func TestSplitOverOtherFiles(t *testing.T) {
	image := mixedPages(8, 64)
	path, _ := mustPack(t, newMemImage(image), WriteOptions{})
	p := openPack(t, path)
	dir := testrig.MemoryDir(t)
	n := 0
	if err := p.Chunks(func(e bpk.Entry) error {
		name := filepath.Join(dir, bpk.ChunkName(e.SHA256))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if n++; n%2 == 0 {
			return syscall.Mkfifo(name, 0o600)
		}
		return errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, 1<<40))
	}); err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(dir, "x.bpi")
	ctx, cancel := context.WithTimeout(t.Context(), testrig.Patience)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := Split(ctx, p, index, nil)
		done <- err
	}()
	select {
	case err := <-done:
		testrig.Must(t, err)
	case <-ctx.Done():
		t.Fatal("Split hangs")
	}
	if got, err := decoded(t, index); err != nil || !bytes.Equal(got, image) || n < 2 {
		t.Errorf("the image of %d chunks comes back as %d bytes, %v", n, len(got), err)
	}
}

// Zeros of the base say nothing of the chunks that a client holds, whatever digest stands beside them.
func TestBaseOfZeros(t *testing.T) {
	path, _ := mustPack(t, newMemImage(mixedPages(8, 64)), WriteOptions{})
	p := openPack(t, path)
	b := testrig.ReadFile(t, path)
	h := *p.Header
	var claims []bpk.Entry
	if err := p.Chunks(func(e bpk.Entry) error {
		claims = append(claims, bpk.Entry{Block: bpk.Block{SHA256: e.SHA256}, Page: e.Page, Pages: e.Pages})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	root := bpk.EncodeNode(claims)
	copy(b[h.BodyRoot.PackOff:], root)
	h.BodyRoot.SHA256 = sha256.Sum256(root)
	copy(b, h.Encode())
	base, err := bpk.Open(bytes.NewReader(b), int64(len(b)))
	testrig.Must(t, err)
	if st, err := CompareBase(p, base); err != nil || st.New != st.Chunks || st.Chunks == 0 || st.NewBytes != st.Bytes {
		t.Errorf("CompareBase = %+v, %v", st, err)
	}
}
