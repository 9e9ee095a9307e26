package mountclient

import (
	"bytes"
	"slices"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
)

func FuzzJournal(f *testing.F) {
	rec := func(page, pages int64) []byte {
		return cachefile.Record{Range: bpk.Range{Page: page, Pages: pages}, SHA256: [32]byte{byte(page)}}.Append(nil)
	}
	f.Add(rec(5, 3), int64(100))
	f.Add(append(rec(9, 1), rec(1, 64)...), int64(100))
	f.Add(append(make([]byte, 64), rec(1, 64)...), int64(100))
	f.Add(rec(-1, -1)[:63], int64(1))
	f.Fuzz(func(t *testing.T, b []byte, pages int64) {
		if pages < 0 {
			return
		}
		recs, all, damaged, err := readJournal(bytes.NewReader(b), pages)
		if err != nil || int(all) != len(b)/cachefile.RecordSize || len(recs)+int(damaged) > int(all) {
			t.Fatalf("%d records and %d damaged ones in %d bytes, %v", len(recs), damaged, len(b), err)
		}
		for i, r := range recs {
			if r.Page+r.Pages > pages || i > 0 && r.Page < recs[i-1].Page {
				t.Fatalf("record %d: %v in an image of %d pages", i, r.Range, pages)
			}
		}
	})
}

// A record that pages were taken out undoes earlier ones of the same range, and no later one.
func TestJournalTakenOut(t *testing.T) {
	a, b := bpk.Range{Page: 10, Pages: 3}, bpk.Range{Page: 20, Pages: 64}
	var j []byte
	for _, r := range []cachefile.Record{{Range: a, SHA256: [32]byte{1}}, {Range: b, SHA256: [32]byte{2}}, {Range: a}, {Range: b}, {Range: b, SHA256: [32]byte{3}}} {
		j = r.Append(j)
	}
	recs, all, damaged, err := readJournal(bytes.NewReader(j), 100)
	if err != nil || all != 5 || damaged != 0 || len(recs) != 1 || recs[0] != (cachefile.Record{Range: b, SHA256: [32]byte{3}}) {
		t.Errorf("%v of %d, %d damaged, %v", recs, all, damaged, err)
	}
}

// Damaged records cost themselves only.
func TestJournalDamage(t *testing.T) {
	var b []byte
	var want []cachefile.Record
	for i := range int64(100) {
		r := cachefile.Record{Range: bpk.Range{Page: i * 64, Pages: i%64 + 1}}
		r.SHA256[i%32] = byte(i) + 1
		b = r.Append(b)
		if i%30 == 7 {
			b[len(b)-cachefile.RecordSize+int(i)%60] ^= 4
		} else {
			want = append(want, r)
		}
	}
	got, _, damaged, err := readJournal(bytes.NewReader(append(b, b[:63]...)), 64*100)
	if err != nil || !slices.Equal(got, want) || damaged != 4 {
		t.Errorf("%d records, %d damaged, %v", len(got), damaged, err)
	}
}
