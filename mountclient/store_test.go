package mountclient

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
)

// refImage is an image in which every page differs and some are zeros.
func refImage(pages int) []byte {
	b := make([]byte, pages*bpk.PageSize)
	for p := range pages {
		if p%7 != 3 {
			rand.NewChaCha8([32]byte{byte(p), byte(p >> 8), 1}).Read(b[p*bpk.PageSize : (p+1)*bpk.PageSize])
		}
	}
	return b
}

func pagesOf(image []byte, rs ...bpk.Range) (out []byte) {
	for _, r := range rs {
		out = append(out, image[r.Page*bpk.PageSize:(r.Page+r.Pages)*bpk.PageSize]...)
	}
	return out
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func testMemoryStore(t *testing.T, pages int, budgetPages int64) *store {
	t.Helper()
	s, err := newMemoryStore(int64(pages)*bpk.PageSize, budgetPages*bpk.PageSize, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

// Readers, writers, and releases that drop pages, all at once: what a read gives is the image, or nothing.
func TestStoreRandomized(t *testing.T) {
	const pages, rounds = 200, 1500
	image := refImage(pages)
	s := testMemoryStore(t, pages, 40)
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			buf := make([]byte, 12*bpk.PageSize)
			for range rounds {
				rng := bpk.Range{Page: r.Int64N(pages - 12), Pages: 1 + r.Int64N(12)}
				switch r.IntN(4) {
				case 0:
					data := pagesOf(image, rng)
					if isZero(data) {
						data = nil
					}
					if err := s.put([]bpk.Range{rng}, data); err != nil {
						t.Error(err)
						return
					}
				case 1:
					s.release(rng)
				default:
					off := rng.Page*bpk.PageSize + r.Int64N(bpk.PageSize)
					n := 1 + r.Int64N(11*bpk.PageSize)
					ok, err := s.read(buf[:n], off)
					if err != nil || ok && !bytes.Equal(buf[:n], image[off:off+n]) {
						t.Errorf("read [%d +%d): %v, wrong bytes: %t", off, n, err, ok)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	bits := int64(0)
	for p := range int64(pages) {
		if s.bit(p) {
			bits++
		}
	}
	if s.held != bits || s.busy[0]+s.busy[1] != 0 {
		t.Errorf("%d pages held, %d bits set, %d busy", s.held, bits, s.busy)
	}
}

func TestStoreBudget(t *testing.T) {
	const pages = 300
	image := refImage(pages)
	s := testMemoryStore(t, pages, 100)
	for p := int64(0); p < pages; p += 10 {
		r := bpk.Range{Page: p, Pages: 10}
		if err := s.put([]bpk.Range{r}, pagesOf(image, r)); err != nil {
			t.Fatal(err)
		}
		s.release(r)
		if n := s.heldPages(); n > 100 {
			t.Errorf("%d pages held after [%d +10)", n, p)
		}
	}
	if _, lacks := s.missing(200, 100); lacks {
		t.Error("the pages released last are gone")
	}
	if page, lacks := s.missing(0, 1); !lacks || page != 0 {
		t.Error("the pages released first are there")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(s.f.Fd()), &st); err != nil || st.Blocks*512 > 110*bpk.PageSize {
		t.Errorf("%d bytes of memory for 100 pages, %v", st.Blocks*512, err)
	}
	// A dropped page comes back with its own bytes.
	if err := s.put([]bpk.Range{{Page: 0, Pages: 1}}, pagesOf(image, bpk.Range{Page: 0, Pages: 1})); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, bpk.PageSize)
	if ok, err := s.read(buf, 0); !ok || err != nil || !bytes.Equal(buf, image[:bpk.PageSize]) {
		t.Errorf("after the return: %t, %v", ok, err)
	}
}

// Pages that nobody released stay, whatever the budget: a reader may still want them.
func TestStoreKeepsWhatIsNotReleased(t *testing.T) {
	s := testMemoryStore(t, 100, 10)
	r := bpk.Range{Page: 0, Pages: 100}
	if err := s.put([]bpk.Range{r}, pagesOf(refImage(100), r)); err != nil {
		t.Fatal(err)
	}
	s.release(bpk.Range{Page: 50, Pages: 2})
	if n := s.heldPages(); n != 98 {
		t.Errorf("%d pages held, want 98", n)
	}
}

func TestStoreLacking(t *testing.T) {
	s := testMemoryStore(t, 64*3, 0)
	for _, p := range []int64{3, 4, 63, 64, 100} {
		if err := s.put([]bpk.Range{{Page: p, Pages: 1}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		in   []bpk.Range
		want string
	}{
		{nil, "[]"},
		{[]bpk.Range{{Page: 3, Pages: 2}}, "[]"},
		{[]bpk.Range{{Page: 2, Pages: 4}}, "[{2 1} {5 1}]"},
		{[]bpk.Range{{Page: 62, Pages: 4}, {Page: 100, Pages: 1}, {Page: 101, Pages: 1}}, "[{62 1} {65 1} {101 1}]"},
		{[]bpk.Range{{Page: 101, Pages: 1}, {Page: 102, Pages: 1}}, "[{101 2}]"},
	} {
		if got := fmt.Sprint(s.lacking(c.in)); got != c.want {
			t.Errorf("%v: lacking %s, want %s", c.in, got, c.want)
		}
	}
}

func TestStoreArrival(t *testing.T) {
	s := testMemoryStore(t, 10, 0)
	a, b := s.arrival(5), s.arrival(5)
	other := s.arrival(6)
	if err := s.put([]bpk.Range{{Page: 4, Pages: 2}}, nil); err != nil {
		t.Fatal(err)
	}
	<-a
	<-b
	select {
	case <-other:
		t.Error("a page that did not come wakes its reader")
	default:
	}
	if s.arrival(5) != nil {
		t.Error("a page that is there is waited for")
	}
}

// tmpfs mounts a file system of the given size in KiB.
func tmpfs(t testing.TB, kb int) string {
	t.Helper()
	testrig.NeedMounts(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kb)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func fileStore(t *testing.T, dir string, pages int) *store {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "pages"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Truncate(int64(pages) * bpk.PageSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(f, int64(pages)*bpk.PageSize, testLog(t))
	t.Cleanup(func() { s.close() })
	return s
}

// Pages that the disk has no room for are kept in memory; reads across both are right.
func TestStoreSpillsWhenTheDiskIsFull(t *testing.T) {
	const pages = 100
	image := refImage(pages)
	s := fileStore(t, tmpfs(t, 160), pages)
	for p := int64(0); p < pages; p += 4 {
		r := bpk.Range{Page: p, Pages: 4}
		data := pagesOf(image, r)
		if err := s.put([]bpk.Range{r}, data); err != nil {
			t.Fatal(err)
		}
	}
	if s.spill == nil {
		t.Fatal("nothing was spilt: the disk is too large for this test")
	}
	buf := make([]byte, pages*bpk.PageSize)
	for _, n := range []int{1, 3, 7, pages} {
		for p := 0; p+n <= pages; p++ {
			b := buf[:n*bpk.PageSize]
			if ok, err := s.read(b, int64(p)*bpk.PageSize); !ok || err != nil || !bytes.Equal(b, image[p*bpk.PageSize:(p+n)*bpk.PageSize]) {
				t.Fatalf("[%d +%d): %t, %v", p, n, ok, err)
			}
		}
	}
	// What is in memory only must not be journaled.
	inFile := 0
	for p := range int64(pages) {
		ok, err := s.readFile(buf[:bpk.PageSize], bpk.Range{Page: p, Pages: 1})
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			inFile++
		}
	}
	if inFile == 0 || inFile > 40 {
		t.Errorf("%d pages said to be in a file of 40", inFile)
	}
	if ok, _ := s.readFile(buf, bpk.Range{Page: 0, Pages: pages}); ok {
		t.Error("all pages said to be in the file")
	}
}

// Zeros are zeros whatever the file held before.
func TestStoreZerosOverOldBytes(t *testing.T) {
	s := fileStore(t, t.TempDir(), 10)
	if _, err := s.f.WriteAt(bytes.Repeat([]byte{0xff}, 10*bpk.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.put([]bpk.Range{{Page: 2, Pages: 3}, {Page: 7, Pages: 1}}, nil); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3*bpk.PageSize)
	if ok, err := s.read(buf, 2*bpk.PageSize); !ok || err != nil || !isZero(buf) {
		t.Errorf("pages of zeros read as other bytes (%t, %v)", ok, err)
	}
	if ok, err := s.read(buf[:bpk.PageSize], 7*bpk.PageSize); !ok || err != nil || !isZero(buf) {
		t.Errorf("a page of zeros reads as other bytes (%t, %v)", ok, err)
	}
}
