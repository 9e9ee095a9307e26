package mountclient

import (
	"fmt"
	"slices"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// groupOf returns three chunks of a form that one request brings, behind what the opening brings, and where they lie
// in their file.
func groupOf(t *testing.T, p *bpk.Pack) (group []bpk.Entry, offs []int64) {
	t.Helper()
	var all []bpk.Entry
	if err := p.Chunks(func(e bpk.Entry) error {
		all = append(all, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range len(all) - 2 {
		group, offs = all[i:i+3], nil
		var flights []*flight
		for _, e := range group {
			off, ok := p.Header.InImage(e.PackOff)
			if !ok {
				off = e.PackOff
			}
			offs = append(offs, off)
			flights = append(flights, &flight{entry: e})
		}
		short := slices.ContainsFunc(group, func(e bpk.Entry) bool { return e.Len < 8<<10 })
		if !short && offs[0] > openingBytes && len(adjacent(flights)) == 3 {
			return group, offs
		}
	}
	t.Fatal("no three chunks side by side")
	return nil, nil
}

// A chunk is there as soon as its own bytes are, while the rest of its request stands still; a damaged one is fetched again
// alone meanwhile.
func TestDemandChunksLandOneByOne(t *testing.T) {
	t.Parallel()
	f := folderOf(t, noZone)
	for _, form := range []string{formPack, formManifest} {
		for damaged := -1; damaged < 2; damaged++ {
			t.Run(fmt.Sprintf("%s, damaged: %d", form, damaged), func(t *testing.T) {
				s := serveDir(t, f.dir)
				file := s.file(map[string]string{formPack: formPack, formManifest: formImage}[form])
				c := mustOpen(t, s.url(form), nil)
				c.fetch.setInUse()
				if err := readAt(t, c, soon(t), f.image, 0, 1); err != nil { // brings the index
					t.Fatal(err)
				}
				group, offs := groupOf(t, f.formOf(form))
				first, last := group[0], group[2]
				stop := offs[2] + last.Len/2
				bad := int64(0)
				if damaged >= 0 {
					bad = 1
				}
				flips := bad
				before := len(file.Requests())
				file.Script(func(r faultserver.Request) *faultserver.Fault {
					return &faultserver.Fault{Name: "stands still", Change: func(r *faultserver.Request, a *faultserver.Answer, b []byte) {
						if flips > 0 && r.Touches(offs[damaged]) {
							flips--
							faultserver.Flip(offs[damaged]).Change(r, a, b)
						}
						if r.Touches(stop) {
							faultserver.Stall(max(0, stop-r.Off)).Change(r, a, b)
						}
					}}
				})
				all := make(chan error, 1)
				go func() {
					all <- readAt(t, c, soon(t), f.image, first.Page*bpk.PageSize, (last.Page+last.Pages-first.Page)*bpk.PageSize)
				}()
				if !file.Wait(before+1, testrig.Patience) {
					t.Fatal("no request for the chunks")
				}
				for _, e := range group[:2] {
					if err := readAt(t, c, soon(t), f.image, e.Page*bpk.PageSize, e.Pages*bpk.PageSize); err != nil {
						t.Fatalf("a chunk whose bytes came: %v", err)
					}
				}
				if _, lacks := c.store.missing(last.Page, last.Pages); !lacks {
					t.Error("the last chunk came: this tests nothing")
				}
				select {
				case err := <-all:
					t.Fatalf("the read of all three ended: %v", err)
				default:
				}
				file.Script(nil)
				if err := <-all; err != nil {
					t.Error(err)
				}
				for i, off := range offs[:2] {
					want := 1
					if i == damaged {
						want = 2
					}
					if n := touching(file, off); n != want {
						t.Errorf("%d requests for chunk %d, want %d", n, i, want)
					}
				}
				if n := c.fetch.src.count.corrupt.Load(); n != bad {
					t.Errorf("%d damaged chunks counted, want %d", n, bad)
				}
				if n := len(c.demand.flights); n != 0 {
					t.Errorf("%d flights left", n)
				}
			})
		}
	}
}
