package bpk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// wantRefused wants an error that a reader of a pack may give: of a type that tells what to do, in one line that
// says what is wrong.
func wantRefused(t testing.TB, err error, says string) {
	t.Helper()
	var corrupt *CorruptError
	var version *VersionError
	if !errors.As(err, &corrupt) && !errors.As(err, &version) {
		t.Errorf("%T: %v", err, err)
	} else if s := err.Error(); strings.Contains(s, "\n") || strings.Contains(s, "BUG") || !strings.Contains(s, says) {
		t.Errorf("%q does not say %q in a line for a user", s, says)
	}
}

// What is made by hand is read, also where an index has another shape than the writer's.
func TestFormsByHand(t *testing.T) {
	for name, c := range map[string]struct {
		features uint32
		set      func(m *handMade)
	}{
		"manifest":                  {FeatureBeside, func(m *handMade) {}},
		"split":                     {FeatureSplit, func(m *handMade) {}},
		"of a later minor version":  {FeatureBeside, func(m *handMade) { m.head.Minor, m.head.Features = 3, FeatureBeside|1<<20 }},
		"without info":              {FeatureSplit, func(m *handMade) { m.info = nil }},
		"zone without a place":      {FeatureBeside, func(m *handMade) { m.head.Boot.PackOff = madeRoot }},
		"two levels":                {FeatureBeside, twoLevels},
		"two levels, split":         {FeatureSplit, twoLevels},
		"packOff of zeros":          {FeatureBeside, func(m *handMade) { m.leaf[0].PackOff = madeSize }},
		"a chunk file that nothing": {FeatureSplit, func(m *handMade) { m.chunks["chunks/ab/abcd"] = []byte("names") }},
	} {
		t.Run(name, func(t *testing.T) {
			m := makeByHand(c.features)
			c.set(m)
			p, err := openInMemory(m.encode(), m.image, m.chunks)
			testrig.Must(t, err)
			if got, err := decodeParts(t, p); err != nil || !bytes.Equal(got, m.image) {
				t.Errorf("the image comes back as %d bytes, %v", len(got), err)
			}
			for i := range p.Boot.Chunks {
				if c := p.Boot.Chunks[i]; c.Block != m.boot.Chunks[i].Block {
					t.Errorf("boot chunk %d lies at %+v, want %+v", i, c.Block, m.boot.Chunks[i].Block)
				}
			}
		})
	}
}

// twoLevels puts a node for each entry under the root.
func twoLevels(m *handMade) {
	for i, e := range m.leaf {
		m.leaf[i] = m.node(6000+200*int64(i), []Entry{e})
	}
	m.head.BodyDepth = 2
}

// Each field of a manifest that is not what it must be is refused.
func TestManifestRefused(t *testing.T) {
	chunk := func(i int, set func(c *BootChunk)) func(m *handMade) {
		return func(m *handMade) { set(&m.boot.Chunks[i]) }
	}
	entry := func(i int, set func(e *Entry)) func(m *handMade) { return func(m *handMade) { set(&m.leaf[i]) } }
	for _, c := range []struct {
		name, says string
		set        func(m *handMade)
	}{
		{"unknown feature", "update bootprof", func(m *handMade) { m.head.Features |= 1 << 2 }},
		{"split, too", "a manifest that is split", func(m *handMade) { m.head.Features |= FeatureSplit }},
		{"split instead", "out of bounds", func(m *handMade) { m.head.Features = FeatureSplit }},
		{"neither", "out of bounds", func(m *handMade) { m.head.Features = 0 }},
		{"boot zone", "a manifest with a boot zone of 1 bytes", func(m *handMade) { m.head.Boot.Len = 1 }},
		{"boot zone before the index", "out of order", func(m *handMade) { m.head.Boot.PackOff = 0 }},
		{"boot pages", "3 pages instead of 2", func(m *handMade) { m.head.BootPages = 2 }},
		{"image size", "does not cover", func(m *handMade) { m.head.ImageSize += PageSize }},
		{"chunk in a frame", "chunk 1 is not a plain piece", chunk(1, func(c *BootChunk) { c.frame1st = false })},
		{"chunk with a filter", "chunk 0 is not a plain piece", chunk(0, func(c *BootChunk) { c.Filter = FilterX86 })},
		{"unknown filter", "chunk 0 out of bounds", chunk(0, func(c *BootChunk) { c.Filter = 2 })},
		{"chunk shorter than its pages", "chunk 1 is not a plain piece", chunk(1, func(c *BootChunk) { c.Len = PageSize })},
		{"chunk longer than its pages", "chunk 0 is not a plain piece", chunk(0, func(c *BootChunk) { c.Len++ })},
		{"chunk of no pages", "chunk 0 out of bounds", chunk(0, func(c *BootChunk) { c.Pages, c.Len = 0, 0 })},
		{"chunk without bytes", "chunk 0 out of bounds", chunk(0, func(c *BootChunk) { c.Len = 0 })},
		{"chunk over two ranges", "chunk 0 is not a plain piece", func(m *handMade) {
			m.boot.Chunks[0].Pages, m.boot.Chunks[0].Len = 2, 2*PageSize
			m.boot.Chunks[1].Pages, m.boot.Chunks[1].Len = 1, PageSize
		}},
		{"chunk over two ranges, as long as the first", "chunk 0 is not a plain piece", func(m *handMade) {
			m.boot.Chunks[0].Pages, m.boot.Chunks[1].Pages, m.boot.Chunks[1].Len = 2, 1, PageSize
		}},
		{"chunk of more pages than there are", "chunk 1 out of bounds", chunk(1, func(c *BootChunk) { c.Pages, c.Len = 3, 3*PageSize })},
		{"chunk missing", "do not fill", func(m *handMade) { m.boot.Chunks = m.boot.Chunks[:1] }},
		{"chunk too many", "out of bounds", func(m *handMade) { m.boot.Chunks = append(m.boot.Chunks, m.boot.Chunks[1]) }},
		{"range outside the image", "range outside", func(m *handMade) { m.boot.Ranges[0].Page = 6 }},
		{"boot chunk of another digest", "boot chunk of pages 1 to 2 at byte 4096 of x.img is damaged: wrong SHA-256", chunk(1, func(c *BootChunk) { c.SHA256[0]++ })},

		{"codec zstd", "entry 1: a chunk that lies in another file", entry(1, func(e *Entry) { e.Codec = CodecZstd })},
		{"unknown codec", "entry 1: a chunk that lies in another file", entry(1, func(e *Entry) { e.Codec = 3 })},
		{"place of another page", "entry 1: a chunk that lies in another file", entry(1, func(e *Entry) { e.PackOff += PageSize })},
		{"place beside a page", "entry 1: a chunk that lies in another file", entry(1, func(e *Entry) { e.PackOff++ })},
		{"place in the pack", "entry 1: a chunk that lies in another file", entry(1, func(e *Entry) { e.PackOff = 600 })},
		{"place 0", "entry 1: a chunk that lies in another file", entry(1, func(e *Entry) { e.PackOff = 0 })},
		{"place before 0", "entry 1: a chunk that lies in another file", entry(1, func(e *Entry) { e.PackOff -= 1 << 63 >> 1 })},
		{"shorter than its page", "entry 3: a chunk that lies in another file", entry(3, func(e *Entry) { e.Len-- })},
		{"without bytes", "entry 3: a chunk that lies in another file", entry(3, func(e *Entry) { e.Len = 0 })},
		{"zeros with bytes", "entry 0: chunk of 1 bytes, codec 0", entry(0, func(e *Entry) { e.Len = 1 })},
		{"zeros in the image", "entry 0 outside the pack", entry(0, func(e *Entry) { e.PackOff = madeSize + 1 })},
		{"with a boot page", "8192 bytes for 1 pages", func(m *handMade) {
			b := m.image[3*PageSize : 5*PageSize]
			m.leaf[1].Pages, m.leaf[1].Len, m.leaf[1].SHA256 = 2, 2*PageSize, sha256.Sum256(b)
			m.leaf = append(m.leaf[:2], m.leaf[3])
		}},
		{"gap", "leaves a gap", func(m *handMade) { m.leaf = append(m.leaf[:1], m.leaf[2:]...) }},
		{"another digest", "body chunk of pages 3 to 3 at byte 12288 of x.img is damaged: wrong SHA-256", entry(1, func(e *Entry) { e.SHA256[0]++ })},
		{"node in the image", "entry 0 outside the pack", func(m *handMade) { twoLevels(m); m.leaf[0].PackOff = madeSize + 4096 }},
		{"node over the end", "entry 0 outside the pack", func(m *handMade) { twoLevels(m); m.leaf[0].PackOff = madeSize - 63 }},
		{"node of a node", "body index node at byte 6200", func(m *handMade) {
			twoLevels(m)
			m.leaf[1] = m.node(6200, []Entry{{Block: Block{madeRoot, 64, [32]byte{}}, Page: 3, Pages: 1}})
		}},

		{"image cut off in a boot chunk", "boot chunk at byte 16384 of x.img is damaged: the file is cut off", func(m *handMade) { m.image = m.image[:5*PageSize-1] }},
		{"image cut off in a body chunk", "body chunk at byte 20480 of x.img is damaged: the file is cut off", func(m *handMade) { m.image = m.image[:6*PageSize-1] }},
		{"image empty", "the file is cut off", func(m *handMade) { m.image = nil }},
		{"image changed", "boot chunk of pages 0 to 0 at byte 16384 of x.img is damaged: wrong SHA-256", func(m *handMade) { m.image[4*PageSize+9]++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := makeByHand(FeatureBeside)
			c.set(m)
			wantRefused(t, openAndDecode(t, m), c.says)
		})
	}
}

func openAndDecode(t testing.TB, m *handMade) error {
	t.Helper()
	p, err := openInMemory(m.encode(), m.image, m.chunks)
	if err == nil {
		_, err = decodeParts(t, p)
	}
	return err
}

// Each field of a split pack that is not what it must be is refused.
func TestSplitRefused(t *testing.T) {
	entry := func(i int, set func(e *Entry)) func(m *handMade) { return func(m *handMade) { set(&m.leaf[i]) } }
	name := func(m *handMade, i int) string { return ChunkName(m.leaf[i].SHA256) }
	for _, c := range []struct {
		name, says string
		set        func(m *handMade)
	}{
		{"unknown feature", "update bootprof", func(m *handMade) { m.head.Features |= 1 << 15 }},
		{"manifest, too", "a manifest that is split", func(m *handMade) { m.head.Features |= FeatureBeside }},
		{"manifest instead", "a manifest with a boot zone", func(m *handMade) { m.head.Features = FeatureBeside }},
		{"neither", "wrong SHA-256", func(m *handMade) { m.head.Features = 0 }},
		{"boot zone without bytes", "chunk 0 out of bounds", func(m *handMade) { m.head.Boot.Len = 0 }},
		{"boot chunk damaged", "boot chunk of pages 1 to 2 at byte", func(m *handMade) { m.zone[len(m.zone)-1]++ }},
		{"a place", "entry 0: a chunk that lies in another file", entry(0, func(e *Entry) { e.PackOff = 6000 })},
		{"a place before 0", "entry 0: a chunk that lies in another file", entry(0, func(e *Entry) { e.PackOff = -1 })},
		{"place of zeros", "entry 0 outside the pack", entry(0, func(e *Entry) { e.Block, e.Codec = Block{PackOff: madeSize + 1}, CodecZero })},
		{"unknown codec", "codec 3", entry(0, func(e *Entry) { e.Codec = 3 })},
		{"without bytes", "entry 0: chunk of 0 bytes", entry(0, func(e *Entry) { e.Len = 0 })},
		{"zeros with bytes", "codec 0", entry(0, func(e *Entry) { e.Codec = CodecZero })},
		{"too long for its pages", "entry 1: chunk of 73729 bytes", entry(1, func(e *Entry) { e.Len = 2*PageSize + maxStoredExcess + 1 })},
		{"too many pages", "does not cover", func(m *handMade) { m.leaf = m.leaf[:1] }},
		{"wrong codec", "8 bytes for 2 pages", func(m *handMade) { m.leaf[0] = m.chunk(0, 4, CodecRaw, []byte("12345678")) }},
		{"raw chunk with a boot page", "8192 bytes for 1 pages", func(m *handMade) { m.leaf[1] = m.chunk(4, 2, CodecRaw, m.image[4*PageSize:]) }},
		{"chunk that is no zstd frame", "of pages 0 to 3", func(m *handMade) { m.leaf[0] = m.chunk(0, 4, CodecZstd, []byte("no frame")) }},
		{"node as a chunk file", "a node in the header", func(m *handMade) {
			b := EncodeNode(m.leaf)
			sum := sha256.Sum256(b)
			m.chunks[ChunkName(sum)] = b
			m.leaf = []Entry{{Block: Block{0, int64(len(b)), sum}, Pages: 6}}
			m.head.BodyDepth = 2
		}},
		{"file missing", "the file is missing", func(m *handMade) { delete(m.chunks, name(m, 1)) }},
		{"file too long", "4097 bytes instead of 4096", func(m *handMade) { m.chunks[name(m, 1)] = make([]byte, PageSize+1) }},
		{"file too short", "4095 bytes instead of 4096", func(m *handMade) { m.chunks[name(m, 1)] = make([]byte, PageSize-1) }},
		{"file empty", "0 bytes instead of 4096", func(m *handMade) { m.chunks[name(m, 1)] = nil }},
		{"file of another chunk", "wrong SHA-256", func(m *handMade) { m.chunks[name(m, 1)] = make([]byte, PageSize) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := makeByHand(FeatureSplit)
			c.set(m)
			wantRefused(t, openAndDecode(t, m), c.says)
		})
	}
}

// writeForm writes a form as files and returns the path of the pack.
func writeForm(t testing.TB, m *handMade) string {
	t.Helper()
	dir := testrig.MemoryDir(t)
	files := map[string][]byte{"x.bpi": m.encode()}
	if m.head.Features&FeatureBeside != 0 {
		files = map[string][]byte{"x.bpi.bpm": m.encode(), "x.bpi": m.image}
	}
	for name, b := range m.chunks {
		files[name] = b
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		testrig.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		testrig.WriteFile(t, path, b)
	}
	if m.head.Features&FeatureBeside != 0 {
		return filepath.Join(dir, "x.bpi.bpm")
	}
	return filepath.Join(dir, "x.bpi")
}

// What lies beside a pack on a disk may be anything: it is refused in a line that names it, and not waited for.
func TestOpenFileBeside(t *testing.T) {
	replace := func(path string, make func() error) {
		testrig.Must(t, errors.Join(os.Remove(path), make()))
	}
	link := func(to string) func(path string) {
		return func(path string) { replace(path, func() error { return os.Symlink(to, path) }) }
	}
	resize := func(by int64) func(path string) {
		return func(path string) {
			st, err := os.Stat(path)
			testrig.Must(t, err)
			testrig.Must(t, os.Truncate(path, st.Size()+by))
		}
	}
	for _, features := range []uint32{FeatureBeside, FeatureSplit} {
		for _, c := range []struct {
			name, says string
			set        func(path string)
		}{
			{"whole", "", func(string) {}},
			{"longer", "instead of", resize(1)},
			{"shorter", "instead of", resize(-1)},
			{"very long", "instead of", resize(1 << 40)},
			{"missing", "", func(path string) { replace(path, func() error { return nil }) }},
			{"directory", "not a regular file", func(path string) { replace(path, func() error { return os.Mkdir(path, 0o755) }) }},
			{"FIFO", "not a regular file", func(path string) { replace(path, func() error { return syscall.Mkfifo(path, 0o600) }) }},
			{"device", "not a regular file", link("/dev/zero")},
			{"link to itself", "too many levels", func(path string) { link(filepath.Base(path))(path) }},
		} {
			t.Run(fmt.Sprintf("features %d, %s", features, c.name), func(t *testing.T) {
				m := makeByHand(features)
				path := writeForm(t, m)
				beside, _ := ImageName(path)
				if features == FeatureSplit {
					beside = filepath.Join(filepath.Dir(path), ChunkName(m.leaf[1].SHA256))
				}
				c.set(beside)
				done := make(chan error, 1)
				go func() {
					p, closer, err := OpenFile(path)
					if err == nil {
						_, err = decodeParts(t, p)
						err = errors.Join(err, closer.Close())
					}
					done <- err
				}()
				select {
				case err := <-done:
					if c.name == "whole" {
						if err != nil {
							t.Error(err)
						}
						return
					}
					var corrupt *CorruptError
					damaged := errors.As(err, &corrupt) || c.name == "missing" && errors.Is(err, os.ErrNotExist)
					if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), beside) || strings.Contains(err.Error(), "\n") ||
						strings.Contains(c.says, "instead") && !damaged || c.name == "missing" && !damaged {
						t.Errorf("%T: %v", err, err)
					}
				case <-time.After(testrig.Patience):
					t.Fatal("the reader hangs")
				}
			})
		}
	}
}

// The image of a manifest and the file of a chunk have names that nothing inside a pack can choose.
func TestNames(t *testing.T) {
	for manifest, want := range map[string]string{
		"root.squashfs.bpm": "root.squashfs", "a/b.bpm": "a/b", "x.bpm.bpm": "x.bpm", "../x.bpm": "../x",
		"x": "", "x.bpk": "", ".bpm": "", "a/.bpm": "", "/.bpm": "", "bpm": "", "x.BPM": "", "": "", "x.bpm/": "",
	} {
		if got, ok := ImageName(manifest); ok != (want != "") || ok && got != want {
			t.Errorf("ImageName(%q) = %q, %t", manifest, got, ok)
		}
	}
	sum := sha256.Sum256(nil)
	if got := ChunkName(sum); got != "chunks/e3/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("ChunkName = %s", got)
	}
}

// A pack that was opened without its chunks gives none, and its indexes all the same.
func TestOpenWithoutChunks(t *testing.T) {
	for _, features := range []uint32{FeatureBeside, FeatureSplit} {
		b := makeByHand(features).encode()
		p, err := Open(bytes.NewReader(b), int64(len(b)))
		testrig.Must(t, err)
		n := 0
		if err := p.Chunks(func(Entry) error { n++; return nil }); err != nil || n < 2 {
			t.Errorf("features %d: %d chunks, %v", features, n, err)
		}
		if _, err := decodeParts(t, p); err == nil {
			t.Errorf("features %d: decoded without the chunks", features)
		}
	}
}

// A manifest as large as one can be has no packOff that wraps around.
func TestManifestAtTheLimits(t *testing.T) {
	h := sampleHeader()
	h.Features, h.Boot.Len, h.PackSize, h.ImageSize = FeatureBeside, 0, MaxPackSize, MaxImageSize
	if _, err := DecodeHeader(h.Encode()); err != nil {
		t.Fatal(err)
	}
	last := int64(MaxImageSize/PageSize - 1)
	x := NewBootIndex([]Range{{last, 1}})
	x.AddChunk(Block{Len: PageSize}, 1, true, FilterNone)
	stored, err := x.Encode()
	testrig.Must(t, err)
	h.BootPages = 1
	if x, err = DecodeBootIndex(h, stored); err != nil {
		t.Fatal(err)
	}
	if off, ok := h.InImage(x.Chunks[0].PackOff); !ok || off != last*PageSize {
		t.Errorf("the last page lies at %d of the image, %t", off, ok)
	}
	for _, features := range []uint32{0, FeatureBeside, FeatureSplit} {
		h.Features = features
		e := Entry{Block: Block{PackOff: -h.PackSize, Len: PageSize}, Page: last, Pages: 1, Codec: CodecRaw}
		if _, err := DecodeNode(h, EncodeNode([]Entry{e}), 0, Range{last, 1}); err == nil {
			t.Errorf("features %d: a chunk before the pack was accepted", features)
		}
	}
}
