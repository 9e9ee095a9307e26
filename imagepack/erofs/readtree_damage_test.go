package erofs

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// readSome reads the tree of an image and pieces of its contents. Errors of contents are returned last.
func readSome(image []byte) error {
	root, err := ReadTree(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	names, budget := 0, 64
	_ = tree.Walk(root, func(p string, n *tree.Inode) error {
		if names++; n.Content == nil || budget == 0 {
			return nil
		}
		budget--
		c, cerr := n.Content.Open()
		if cerr != nil {
			err = cerr
			return nil
		}
		defer c.Close()
		for _, off := range []int64{0, n.Size / 2, n.Size - 10} {
			if m, rerr := c.ReadAt(buf, max(0, off)); rerr != nil && rerr != io.EOF {
				err = rerr
			} else if m == 0 {
				err = errors.New("nothing read")
			}
		}
		return nil
	})
	return err
}

// metaBytes returns the places of all bytes of an image that are no content.
func metaBytes(t testing.TB, image []byte) []int {
	t.Helper()
	m, err := ReadMap(bytes.NewReader(image), int64(len(image)))
	if err != nil && !errors.Is(err, ErrCompressed) {
		t.Fatal(err)
	}
	var out []int
	for _, s := range m.Segments() {
		if s.Kind != imagemap.Data {
			for i := s.ImageOff; i < s.ImageOff+s.ImageLen; i++ {
				if i >= superOff {
					out = append(out, int(i))
				}
			}
		}
	}
	return out
}

// damageSeeds are small images of all kinds.
func damageSeeds(t testing.TB) [][]byte {
	t.Helper()
	seeds := goldens(t)
	delete(seeds, "prefixes") // its kinds are in others
	delete(seeds, "lz4-blocks-1024")
	var out [][]byte
	for _, name := range slices.Sorted(maps.Keys(seeds)) {
		out = append(out, seeds[name])
	}
	out = append(out, readAll(t, mustPlan(t, newDir(
		tree.Entry{Name: "d", Inode: newDir(tree.Entry{Name: "f", Inode: newFile(9000, 1)})},
		tree.Entry{Name: "l", Inode: newLink("d")},
		tree.Entry{Name: "s", Inode: sparseFile(1<<20, tree.Extent{Off: 20_000, Len: 1})},
		tree.Entry{Name: "x", Inode: xattrTree()}))))
	src := testrig.MemoryDir(t)
	for name, b := range map[string][]byte{
		"text":  bytes.Repeat([]byte("text "), 9000),
		"mixed": append(readAll(t, mustPlan(t, newDir())), bytes.Repeat([]byte("more"), 20_000)...),
		"tail":  []byte("tail"),
	} {
		testrig.WriteFile(t, src+"/"+name, b)
	}
	for _, args := range [][]string{
		{"-zlz4", "-C16384", "-Elegacy-compress"}, {"-zlz4", "-Eztailpacking"}, {"--chunksize=4096", "-Eforce-chunk-indexes"},
	} {
		b := testrig.ReadFile(t, mkfs(t, src, args...))
		out = append(out, b)
	}
	return out
}

// TestReadTreeOfDamaged damages metadata at random and contents at random: what comes is a one-line error of a known
// type or a tree, in bounded memory.
func TestReadTreeOfDamaged(t *testing.T) {
	testrig.RareGC(t)
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	r := rand.New(rand.NewPCG(5, 5))
	for i, image := range damageSeeds(t) {
		if err := readSome(image); err != nil {
			t.Fatalf("image %d before it is damaged: %v", i, err)
		}
		places := metaBytes(t, image)
		failed := 0
		for range rounds {
			b := bytes.Clone(image)
			for range 1 + r.IntN(3) {
				b[places[r.IntN(len(places))]] = byte(r.IntN(256))
				b[superOff+superSize+r.IntN(len(b)-superOff-superSize)] ^= byte(r.IntN(256))
			}
			var err error
			took := testrig.Allocated(func() { err = readSome(b) })
			if took > 256<<20 {
				t.Errorf("image %d: %d MiB of memory for %d KiB", i, took>>20, len(b)>>10)
			}
			if err == nil {
				continue
			}
			failed++
			var ce *CorruptError
			var ue *UnsupportedError
			if !errors.As(err, &ce) && !errors.As(err, &ue) && !errors.Is(err, ErrNotErofs) || strings.Contains(err.Error(), "\n") {
				t.Errorf("image %d: %v", i, err)
			}
		}
		if failed == 0 {
			t.Errorf("image %d: no damage was noticed", i)
		}
	}
}

func TestReadTreeCutShort(t *testing.T) {
	image := goldens(t)["lzma-fragments"]
	for n := 0; n < len(image); n += 1021 {
		if err := readSome(image[:n]); err == nil {
			t.Fatalf("cut to %d of %d bytes: no error", n, len(image))
		}
	}
}

// TestReadTreeErrors has edits that no chance brings about.
func TestReadTreeErrors(t *testing.T) {
	plain := readAll(t, mustPlan(t, newDir(tree.Entry{Name: "d", Inode: newDir(tree.Entry{Name: "f", Inode: newFile(9000, 1)})})))
	root := int(superOff + superSize)
	tail := root + inodeExtendedSize // the root's entries: ".", "..", "d"
	for _, c := range []struct {
		name string
		edit func(b []byte)
		want any
	}{
		{"cycle", func(b []byte) { le.PutUint64(b[tail+24:], uint64(root/32)) }, new(*CorruptError)},
		{"nanoseconds", func(b []byte) { le.PutUint32(b[root+40:], 1e9) }, new(*CorruptError)},
		{"devices", func(b []byte) { b[superOff+80] |= incompatDevices; b[superOff+86] = 1 }, new(*UnsupportedError)},
		{"inode format", func(b []byte) { b[root] |= 0x20 }, new(*UnsupportedError)},
		{"compressed directory", func(b []byte) { b[root] = b[root]&1 | layoutCompressed<<1 }, new(*UnsupportedError)},
		{"packed inode", func(b []byte) { b[superOff+80] |= incompatFragments; le.PutUint64(b[superOff+96:], uint64(root/32)) }, new(*CorruptError)},
	} {
		b := bytes.Clone(plain)
		c.edit(b)
		if err := readSome(b); err == nil || !errors.As(err, c.want) {
			t.Errorf("%s: %v, want a %T", c.name, err, c.want)
		}
	}
}

// FuzzReadTree damages the metadata of one of a few images. The changes are triples: a place among the bytes that are
// no content, in 16 bits, and the new byte.
func FuzzReadTree(f *testing.F) {
	images := damageSeeds(f)
	var places [][]int
	for i, b := range images {
		places = append(places, metaBytes(f, b))
		for k := 0; k < 8; k++ {
			f.Add(uint8(i), []byte{byte(k), byte(k * 37), 0xff, 0, 100, byte(k)})
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		i := int(which) % len(images)
		b := bytes.Clone(images[i])
		for ; len(changes) >= 3; changes = changes[3:] {
			b[places[i][(int(changes[0])<<8+int(changes[1]))%len(places[i])]] = changes[2]
		}
		if err := readSome(b); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q", err)
		}
		if m, err := ReadMap(bytes.NewReader(b), int64(len(b))); m != nil && err != nil && !errors.Is(err, ErrCompressed) {
			t.Error(err)
		}
	})
}

// TestHugeIndex has a file of 8 GiB whose 4 MiB of indexes are one byte over and over: neither the tree nor an open content
// may keep them.
func TestHugeIndex(t *testing.T) {
	testrig.Slow(t)
	b := readAll(t, mustPlan(t, newDir(tree.Entry{Name: "f", Inode: newFile(9000, 1)})))
	root := int(superOff + superSize)
	at := len(b)
	const lclusters = 2 << 20
	b = append(b, make([]byte, 128+lclusters*2+4096)...)
	le.PutUint64(b[root+inodeExtendedSize+24:], uint64(at/nidUnit))
	le.PutUint16(b[at:], 1|layoutCompressed<<1)
	le.PutUint16(b[at+4:], tree.ModeRegular|0o644)
	le.PutUint64(b[at+8:], lclusters<<12)
	le.PutUint16(b[at+inodeExtendedSize+4:], adviseCompact2B|adviseBig1|adviseBig2)
	for _, fill := range []byte{0, 0xaa} { // all PLAIN; all NONHEAD, but for the first
		for i := at + 72; i < len(b); i++ {
			b[i] = fill
		}
		b[at+72] = 0
		b[at+73] = 0
		took := testrig.Allocated(func() { _ = readSome(b) })
		_, _ = ReadMap(bytes.NewReader(b), int64(len(b))) // it must return
		if took > 16<<20 {
			t.Errorf("%#x: %d MiB of memory for %d MiB", fill, took>>20, len(b)>>20)
		}
	}
}
