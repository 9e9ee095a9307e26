package mountclient

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/profiles"
)

// maxResident is what a client may have in memory while booting, whatever the image's size; memfds are not in it.
const maxResident = 64 << 20

// largeZone makes a pack all of which is boot zone, of files that do not compress.
func largeZone(t *testing.T, size int) *testPack {
	t.Helper()
	p := &testPack{source: t.TempDir()}
	r := rand.NewChaCha8([32]byte{'z'})
	b := make([]byte, 1<<20)
	for i := range size / len(b) {
		r.Read(b)
		if err := os.WriteFile(fmt.Sprintf("%s/file-%d", p.source, i), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img, err := imagepack.Open(t.Context(), p.source, "")
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	out := filepath.Join(t.TempDir(), "pack.bpk")
	whole := []profiles.Range{{ImageOff: 0, Len: img.Size()}}
	if _, err := imagepack.Write(t.Context(), out, img, imagepack.WriteOptions{Boot: whole, BootLevel: imagepack.BootFast, BodyLevel: zstd.SpeedFastest}); err != nil {
		t.Fatal(err)
	}
	p.raw = readFile(t, out)
	return p
}

// residentPeak is the largest resident memory of a process so far, in bytes.
func (r *rootProc) residentPeak() int64 {
	r.t.Helper()
	_, rest, _ := strings.Cut(r.readProc("status"), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return kib << 10
}

// underRace tells whether the race detector is built into the tests.
func underRace() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// A client whose boot zone is large, all of which it decodes and hands to the kernel, stays small.
func TestMemoryWithLargeBootZone(t *testing.T) {
	if underRace() {
		t.Skip("the program that is measured is built without the race detector anyway")
	}
	watchdog(t, 180*time.Second)
	const size = 20 << 20 // a megabyte takes half a second of one processor to make
	p := largeZone(t, size)
	bin, err := bootBinary()
	if err != nil {
		t.Fatal(err)
	}
	s := p.serve(t)
	for _, mode := range []string{"image", "--loop", "--raw"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{s.URL("pack.bpk"), dir}
			if mode != "image" {
				args = append([]string{mode}, args...)
			}
			r := startRoot(t, "", bin, args...)
			var st Status
			eventually(t, "all boot pages with the kernel", 6*testWait, func() bool {
				err := askSocket(socketPath("", r.pid), "/status", &st)
				return err == nil && st.Phase == "running" && st.PushedPages >= st.BootPages*9/10
			})
			if mode != "--raw" {
				if code, out := runRole(t, roleCompare, p.source, dir); code != 0 {
					t.Errorf("the tree differs from its source:\n%s", out)
				}
			}
			peak := r.residentPeak()
			t.Logf("%d of %d boot pages pushed, %d kB resident at most", st.PushedPages, st.BootPages, peak>>10)
			if peak > maxResident || st.BootPages*bpk.PageSize < size {
				t.Errorf("%d bytes resident, want at most %d; %d boot pages", peak, maxResident, st.BootPages)
			}
			r.ends()
		})
	}
}
