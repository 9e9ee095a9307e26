package bpk_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

const docPath = "../../docs/format.md"

// exampleImage is the image of the worked example: text, zeros, calls of one function, noise.
func exampleImage() []byte {
	image := make([]byte, 4*page)
	copy(image, "The pages that a boot touches come first.\n")
	for _, at := range []int{0, 16, 64, 256} {
		p := image[2*page+at:]
		p[0] = 0xe8
		binary.LittleEndian.PutUint32(p[1:], uint32(0x4000-(2*page+at+5)))
	}
	x := uint32(1)
	for i := range image[3*page:] { // xorshift32
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		image[3*page+i] = byte(x)
	}
	return image
}

// dumpBlock finds a hex dump in the document by its title.
func dumpBlock(title string) *regexp.Regexp {
	return regexp.MustCompile("(?s)(" + regexp.QuoteMeta(title) + "\n\n```\n)(.*?)(```\n)")
}

// TestDocDump holds the worked example of docs/format.md to what the writer writes, byte for byte.
func TestDocDump(t *testing.T) {
	boot := []profiles.Range{{ImageOff: 2 * page, Len: page}, {ImageOff: 0, Len: page}}
	pack := makePack(t, exampleImage(), boot, "", `{"tool":"example"}`)
	testrig.Must(t, decodeAll(pack, exampleImage()))
	h, err := bpk.DecodeHeader(pack)
	testrig.Must(t, err)
	index := pack[h.BootIndex.PackOff:]
	dec, err := zstd.NewReader(nil)
	testrig.Must(t, err)
	defer dec.Close()
	table, err := dec.DecodeAll(index[4:4+binary.LittleEndian.Uint32(index)], nil)
	testrig.Must(t, err)
	// The noise of page 3 is stored raw: its dump would say nothing.
	noise := bytes.Index(pack, exampleImage()[3*page:])
	if noise < 0 {
		t.Fatal("page 3 is not stored as it is")
	}
	dump := squeeze(hex.Dump(pack[:(noise+31)/16*16]))
	tail := hexFrom(pack, noise+page-16)
	doc := testrig.ReadFile(t, docPath)
	for title, want := range map[string]string{
		"The pack:": dump + "(noise)\n" + tail,
		"The table of its boot index, decompressed:": hex.Dump(table),
	} {
		re := dumpBlock(title)
		m := re.FindSubmatchIndex(doc)
		if m == nil {
			t.Fatalf("%s has no dump under %q", docPath, title)
		}
		if *update {
			doc = append(append(bytes.Clone(doc[:m[4]]), want...), doc[m[5]:]...)
		} else if string(doc[m[4]:m[5]]) != want {
			t.Errorf("the dump under %q is not what the writer writes:\n%s", title, want)
		}
	}
	if *update {
		testrig.WriteFile(t, docPath, doc)
	}
	if n := bytes.Count(doc, []byte("\n")); n >= 300 {
		t.Errorf("%s has %d lines, want fewer than 300", docPath, n)
	}
}

// squeeze puts a star in the place of lines that repeat the one before, as hexdump(1) does.
func squeeze(dump string) string {
	var out strings.Builder
	last, stars := "", false
	for line := range strings.Lines(dump) {
		bytes := line[len("00000000"):]
		if bytes != last {
			out.WriteString(line)
		} else if !stars {
			out.WriteString("*\n")
		}
		stars = bytes == last
		last = bytes
	}
	return out.String()
}

// hexFrom dumps the end of b from a line border at or after off, with its offsets.
func hexFrom(b []byte, off int) string {
	off = (off + 15) / 16 * 16
	lines := bytes.SplitAfter([]byte(hex.Dump(b)), []byte("\n"))
	return string(bytes.Join(lines[off/16:], nil))
}
