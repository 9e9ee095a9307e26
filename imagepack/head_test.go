package imagepack

import (
	"testing"

	"bootprof/imagepack/bpk"
)

// Stats tell what a client reads before the first boot byte.
func TestStatsHead(t *testing.T) {
	img := newMemImage(mixedPages(1, 500))
	path, st := mustPack(t, img, WriteOptions{Boot: randomBoot(1, 500, 40), BootLevel: BootFast})
	h := openPack(t, path).Header
	if want := bpk.HeaderSize + h.BootIndex.Len + h.BodyRoot.Len; st.Head != want || st.BootIndex == 0 {
		t.Errorf("%d bytes, want %d", st.Head, want)
	}
}
