package mountclient

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// largeZone makes a pack all of which is boot zone, of files that do not compress.
func largeZone(t *testing.T, size int) *testPack {
	t.Helper()
	dir := t.TempDir()
	p := &testPack{source: dir + "/tree"}
	for i := range size >> 20 {
		testrig.WriteFile(t, fmt.Sprintf("%s/file-%d", p.source, i), testrig.Noise(uint32(i), 1<<20))
	}
	img, err := imagepack.Open(t.Context(), p.source, "")
	testrig.Must(t, err)
	defer img.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, io.NewSectionReader(img, 0, img.Size()))
	testrig.Must(t, err)
	run := profiles.Run{Header: profiles.Header{ImageSize: img.Size()}, Touches: []profiles.Touch{{Len: img.Size()}}}
	sum.Sum(run.Header.ImageSHA256[:0])
	testrig.Must(t, profiles.WriteFile(dir+"/all.bprof", &run))
	// Under the race detector it would take ten times as long to compress.
	testrig.Run(t, program(t, "bootprof"), "pack", p.source, "-o", dir+"/pack.bpk",
		"--profile", dir+"/all.bprof", "--boot-level", "fast", "--level", "fastest")
	p.raw = testrig.ReadFile(t, dir+"/pack.bpk")
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

// maxResident is what a client may have in memory while booting, whatever the image's size; memfds are not in it.
const maxResident = 64 << 20

// A client whose boot zone is large, all of which it decodes and hands to the kernel, stays small. If it kept the zone on
// the heap, the garbage collector would let that come to twice the zone, besides the 30 MiB that it takes.
func TestMemoryWithLargeBootZone(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	const size = 20 << 20
	p := largeZone(t, size)
	s := p.serve(t)
	for _, mode := range []string{"image", "--loop", "--raw"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{s.URL("pack.bpk"), dir}
			if mode != "image" {
				args = append([]string{mode}, args...)
			}
			r := startRoot(t, "", program(t, "bootprof-mount"), args...)
			var st Status
			testrig.Eventually(t, "all boot pages with the kernel", func() bool {
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
