package ext4_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"bootprof/imagepack/ext4"
	"bootprof/imagepack/imagemap"
	"bootprof/internal/testrig"
)

// FuzzOpen reads images with edits: three bytes each, the place among all bytes in or near metadata, and the new
// value. So inputs are small, which the fuzzer is good at, and no edit is lost in the middle of a file.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	var places [][]int
	for _, args := range smallKinds {
		b := smallImage(f, args...)
		r, err := ext4.Open(bytes.NewReader(b), int64(len(b)))
		testrig.Must(f, err)
		m := openMap(f, r)
		var at []int
		for line := 0; line < len(b); line += 16 {
			s := m.At(int64(line), 16)
			if len(s) > 0 && (s[0].Kind != imagemap.Data || len(s) > 1) && !bytes.Equal(b[line:line+16], make([]byte, 16)) {
				for i := range 16 {
					at = append(at, line+i)
				}
			}
		}
		images, places = append(images, b), append(places, at)
		images, places = append(images, bytes.Clone(b)), append(places, at)
		images[len(images)-1][superFeatures] |= 4 // a journal to replay: its map is made leniently
		for k := range uint8(2) {
			f.Add(uint8(len(images)-1)-k, []byte{0, 0, 1, 0, 200, 7, 1, 100, 255})
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, edits []byte) {
		b, at := bytes.Clone(images[int(kind)%len(images)]), places[int(kind)%len(images)]
		for ; len(edits) >= 3; edits = edits[3:] {
			b[at[int(binary.BigEndian.Uint16(edits))%len(at)]] = edits[2]
		}
		if _, err := readAll(b); known(err) != nil {
			t.Error(err)
		}
	})
}
