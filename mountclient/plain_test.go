package mountclient

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

const plainName = "plain.img"

// plainImage makes size bytes that start like an ext4 and are random otherwise.
func plainImage(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	copy(b[1024+0x38:], "\x53\xef")
	return b
}

// servePlain serves an image with nothing beside it.
func servePlain(t testing.TB, image []byte) (*fileServer, *faultserver.Server) {
	t.Helper()
	s := serveDir(t, t.TempDir())
	s.put(plainName, image)
	return s, s.file(plainName)
}

// madeBy writes an image of a tree by a file system's own program and returns its bytes.
func madeBy(t testing.TB, command ...string) []byte {
	t.Helper()
	path := t.TempDir() + "/made"
	for i, a := range command {
		command[i] = strings.ReplaceAll(a, "{out}", path)
	}
	testrig.Run(t, command[0], command[1:]...)
	return testrig.ReadFile(t, path)
}

// kernelMount mounts an image by the kernel alone. The oracle's copy is padded: a loop device has whole sectors only.
func kernelMount(t testing.TB, fs string, image []byte) string {
	t.Helper()
	path := t.TempDir() + "/image"
	testrig.WriteFile(t, path, padded(image))
	return testrig.Mount(t, fs, path)
}

func mountPlain(t testing.TB, url string, change func(*MountOptions)) *rig {
	t.Helper()
	o := mountOptions(t, url, change)
	m, err := Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{Mounted: m, t: t, dir: o.Dir, run: o.RunDir, loop: -1}
}

// An image as its own program made it is mounted and read by the kernel, with the faults of a network, and as a file.
func TestMountPlain(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	for _, c := range []struct {
		fs      string
		command []string
	}{
		{"squashfs", []string{"mksquashfs", p.source, "{out}", "-nopad", "-quiet", "-no-progress"}},
		{"erofs", []string{"mkfs.erofs", "{out}", p.source + "/big"}},
		{"ext4", []string{"mkfs.ext4", "-q", "-F", "-d", p.source + "/big", "{out}", "64M"}},
	} {
		t.Run(c.fs, func(t *testing.T) {
			watchdog(t)
			image := madeBy(t, c.command...)
			if c.fs == "squashfs" && len(image)%512 == 0 {
				t.Fatalf("%d bytes: no odd end to test", len(image))
			}
			oracle := kernelMount(t, c.fs, image)
			s, file := servePlain(t, image)
			log := &syncBuffer{}
			r := mountPlain(t, s.url(plainName), func(o *MountOptions) { o.Log = NewLog(log, slog.LevelWarn) })
			for _, f := range []*faultserver.Fault{faultserver.Cut(100_000), faultserver.Status(503)} {
				file.Script(faultserver.First(2, f))
				if code, out := runRole(t, roleCompare, oracle, r.dir); code != 0 {
					t.Errorf("the mounted tree differs from what the kernel mounts:\n%s", out)
				}
			}
			st := r.Status()
			if st.Phase != "running" || st.Digest != "" || st.Misses == 0 || st.DamagedChunks != 0 || st.HeldPages == 0 {
				t.Errorf("status: %+v", st)
			}
			r.unmount()
			if n := strings.Count(log.String(), "bootprof pack mends both"); n != 1 {
				t.Errorf("%d warnings, want 1: %s", n, log)
			}
			r = mountPlain(t, s.url(plainName), func(o *MountOptions) { o.Raw = true })
			if code, out := runRole(t, roleSum, r.dir+"/image"); code != 0 || out != fmt.Sprintf("%x\n", sha256.Sum256(image)) {
				t.Errorf("the image file has the SHA-256 %s", out)
			}
			if st, err := os.Stat(r.dir + "/image"); err != nil || st.Size() != int64(len(image)) {
				t.Errorf("the image file: %v, %v; want %d bytes", st, err, len(image))
			}
			r.unmount()
		})
	}
}

// Pages that the kernel has taken over do not stay in memory.
func TestPlainMemory(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	image := plainImage(24 << 20)
	s, _ := servePlain(t, image)
	r := mountPlain(t, s.url(plainName), func(o *MountOptions) { o.Raw, o.MemoryBytes = true, 2<<20 })
	if code, out := runRole(t, roleSum, r.dir+"/image"); code != 0 || out != fmt.Sprintf("%x\n", sha256.Sum256(image)) {
		t.Errorf("the image file has the SHA-256 %s", out)
	}
	testrig.Eventually(t, "a small store", func() bool { return r.Status().HeldPages <= 2<<20/bpk.PageSize })
	r.unmount()
}

// Images of any length are read to their end, whatever the size of the reads.
func TestPlainLengths(t *testing.T) {
	t.Parallel()
	for _, size := range []int{4096, 5000, plainWindow, openingBytes - 1, openingBytes, openingBytes + 1, 2 * plainWindow, 2*plainWindow + 1, 1<<20 + 4095, 3<<20 - 511} {
		image := plainImage(size)
		padded := append(bytes.Clone(image), make([]byte, -size&(bpk.PageSize-1))...)
		for _, step := range []int{4096, 100_000, 1 << 20} {
			s, _ := servePlain(t, image)
			c := mustOpen(t, s.url(plainName), nil)
			checkImage(t, c, padded, step)
			if c.Size() != int64(size) {
				t.Errorf("Size = %d, want %d", c.Size(), size)
			}
		}
	}
}

// No byte is asked for twice, a sequential reader is kept ahead of, and one that jumps costs a window at a time.
func TestPlainRequests(t *testing.T) {
	t.Parallel()
	image := plainImage(16<<20 + 1234)
	once := func(t *testing.T, file *faultserver.Server) (n int, bytes int64) {
		pages := map[int64]bool{} // of 1,000 bytes
		for _, r := range file.Requests() {
			n, bytes = n+1, bytes+r.Len
			for q := r.Off / 1000; q < (r.Off+r.Len)/1000; q++ {
				if pages[q] {
					t.Errorf("byte %d was asked for twice", q*1000)
				}
				pages[q] = true
			}
			if r.Off+r.Len > int64(len(image)) || r.Off > openingBytes && r.Off%plainWindow != 0 {
				t.Errorf("request for [%d +%d)", r.Off, r.Len)
			}
		}
		return n, bytes
	}
	t.Run("from start to end", func(t *testing.T) {
		s, file := servePlain(t, image)
		c := mustOpen(t, s.url(plainName), nil)
		for off := int64(0); off < int64(len(image)); off += 128 << 10 {
			if err := readAtPadded(t, c, image, off, 128<<10); err != nil {
				t.Fatal(err)
			}
		}
		n, bytes := once(t, file)
		if n > len(openingSegments)+30 || bytes != int64(len(image)) {
			t.Errorf("%d requests for %d bytes of %d", n, bytes, len(image))
		}
		if m := c.misses(); m > 12 {
			t.Errorf("a reader waited for %d windows", m)
		}
	})
	t.Run("the opening", func(t *testing.T) {
		s, file := servePlain(t, image)
		c := mustOpen(t, s.url(plainName), nil)
		if err := readAtPadded(t, c, image, 0, plainWindow); err != nil {
			t.Fatal(err)
		}
		if n, _ := once(t, file); n != len(openingSegments) {
			t.Errorf("%d requests, want the opening's", n)
		}
	})
	t.Run("jumps", func(t *testing.T) {
		s, file := servePlain(t, image)
		c := mustOpen(t, s.url(plainName), nil)
		var readers sync.WaitGroup
		for i, w := range []int64{40, 9, 60, 22, 33} {
			for range 6 { // of one window, at the same time
				readers.Go(func() {
					if err := readAtPadded(t, c, image, w*plainWindow+int64(i)*8192, 4096); err != nil {
						t.Error(err)
					}
				})
			}
			readers.Wait()
		}
		c.plain.running.Wait()
		if n, bytes := once(t, file); n != len(openingSegments)+5 || bytes != openingBytes+5*plainWindow {
			t.Errorf("%d requests for %d bytes", n, bytes)
		}
	})
}

// readAtPadded is readAt for an image whose last page is filled up with zeros.
func readAtPadded(t *testing.T, c *Client, image []byte, off, n int64) error {
	return readAt(t, c, soon(t), append(image[:len(image):len(image)], make([]byte, -len(image)&4095)...), off, n)
}

// Another image under the URL is told by Last-Modified alone. In use, its bytes are not taken: readers wait.
func TestPlainReplaced(t *testing.T) {
	t.Parallel()
	image := plainImage(4 << 20)
	other := &faultserver.Fault{Name: "replaced", Change: func(_ *faultserver.Request, a *faultserver.Answer, _ []byte) {
		a.Header.Set("Last-Modified", time.Unix(1_800_000_000, 0).UTC().Format(http.TimeFormat))
		a.Body = make([]byte, len(a.Body))
	}}
	s, file := servePlain(t, image)
	c := mustOpen(t, s.url(plainName), nil)
	file.Script(faultserver.Always(other))
	if err := readAtPadded(t, c, image, 1<<20, 4096); err == nil || !strings.Contains(err.Error(), "was replaced on the server while in use (Last-Modified") {
		t.Errorf("reading another image: %v", err)
	}
	c.fetch.setInUse()
	n := len(file.Requests())
	done := make(chan error, 1)
	go func() { done <- readAtPadded(t, c, image, 1<<20, 4096) }()
	if !file.Wait(n+3, testrig.Patience) {
		t.Fatal("no repeated request")
	}
	select {
	case err := <-done:
		t.Fatalf("the read ended with %v", err)
	default:
	}
	file.Script(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}

	s, file = servePlain(t, image) // it is replaced while the opening comes
	file.Script(func(r faultserver.Request) *faultserver.Fault {
		if r.Off < 100_000 {
			return nil
		}
		return other
	})
	if cl, err := openURL(t, s.url(plainName), nil); err == nil || !strings.Contains(err.Error(), "Last-Modified") {
		t.Errorf("opening two images in one: %v", err)
		if err == nil {
			cl.Close()
		}
	}
}

// With Options.Timeout a read of a plain image fails after it.
func TestPlainTimeout(t *testing.T) {
	t.Parallel()
	image := plainImage(4 << 20)
	s, file := servePlain(t, image)
	c := mustOpen(t, s.url(plainName), func(o *Options) { o.Timeout = 200 * time.Millisecond })
	c.fetch.setInUse()
	file.Script(faultserver.Always(faultserver.Hang()))
	if err := readAtPadded(t, c, image, 2<<20, 4096); err == nil {
		t.Error("a read without a server ended without an error")
	}
	file.Script(nil)
	testrig.Eventually(t, "a read with the server back", func() bool { return readAtPadded(t, c, image, 2<<20, 4096) == nil })
}

// What cannot be done with a plain image is told in one line.
func TestPlainRefused(t *testing.T) {
	image := plainImage(1 << 20)
	for _, c := range []struct {
		name   string
		image  []byte
		beside *faultserver.Fault // instead of a manifest; nil: 404
		change func(*Options)
		code   int
		says   string
	}{
		{"mounts", image, nil, nil, ExitOK, ""},
		{"no manifest any more", image, faultserver.Status(410), nil, ExitOK, ""},
		{"manifest forbidden", image, faultserver.Status(403), nil, ExitFormat, "403"},
		{"no image", bytes.Repeat([]byte("hello "), 1000), nil, nil, ExitFormat, "not a bootprof pack"},
		{"digest", image, nil, func(o *Options) { o.Digest = "sha256:00" }, ExitTrust, "cannot be verified: pack it, or make a manifest"},
		{"key", image, nil, func(o *Options) { o.PublicKey = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3" }, ExitTrust, "cannot be verified"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := servePlain(t, c.image)
			if c.beside != nil {
				s.put(plainName+bpk.ManifestSuffix, []byte("x"))
				s.file(plainName + bpk.ManifestSuffix).Script(faultserver.Always(c.beside))
			}
			cl, err := openURL(t, s.url(plainName), c.change)
			if err == nil {
				defer cl.Close()
			}
			if ExitCode(err) != c.code || err != nil && (!strings.Contains(oneLine(err), c.says) || len(oneLine(err)) > 300) {
				t.Errorf("%v, exit code %d; want %q and %d", err, ExitCode(err), c.says, c.code)
			}
		})
	}
}

// Pages of a plain image are kept for the next mount of the same file, and for no other.
func TestPlainCache(t *testing.T) {
	t.Parallel()
	image, other := plainImage(3<<20+100), plainImage(3<<20+100)
	for i := 600 << 10; i < len(other); i++ {
		other[i] ^= 1
	}
	for name, c := range map[string]struct {
		then  *faultserver.Fault
		image []byte
		kept  bool
	}{
		"same":         {telling(`"a"`, oneDate), image, true},
		"another ETag": {telling(`"b"`, oneDate), other, false},
		"another date": {telling(`"a"`, otherDate), other, false},
		"nothing told": {telling("", ""), other, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, file := servePlain(t, image)
			dir := t.TempDir()
			withCache := func(o *Options) { o.CacheDir = dir }
			file.Script(faultserver.Always(telling(`"a"`, oneDate)))
			cl, err := openURL(t, s.url(plainName), withCache)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, cl, padded(image), 1<<20)
			if err := cl.Close(); err != nil {
				t.Fatal(err)
			}
			s.put(plainName, c.image)
			file = s.file(plainName)
			file.Script(faultserver.Always(c.then))
			cl = mustOpen(t, s.url(plainName), withCache)
			checkImage(t, cl, padded(c.image), 1<<20)
			if windows := cl.plain.misses.Load(); (windows == 0) != c.kept {
				t.Errorf("%d windows fetched; all are to be in the cache: %t", windows, c.kept)
			}
		})
	}
}

// A plain image that is wholly in the cache is left to the kernel.
func TestPlainHandOver(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	watchdog(t)
	p := packOf(t, hotAndCold)
	s, _ := servePlain(t, p.image)
	r := mountPlain(t, s.url(plainName), filling(t.TempDir()))
	r.compareDuring(p, r.handedOver)
	n := len(s.requests())
	dropCaches(t)
	r.compare(p)
	if got := len(s.requests()); got != n {
		t.Errorf("%d requests after the hand-over", got-n)
	}
	testrig.Unmount(t, r.dir)
	if st, err := ReadStatus(r.run); err != nil || len(st) != 0 {
		t.Errorf("status after the unmount: %+v, %v", st, err)
	}
	r.gone()
}

func padded(image []byte) []byte {
	return append(image[:len(image):len(image)], make([]byte, -len(image)&4095)...)
}
