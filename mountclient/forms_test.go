package mountclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nginx "bootprof/bench/serve"
	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// startNginx serves dir.
func startNginx(t testing.TB, dir string) *nginx.Server {
	t.Helper()
	testrig.NeedProgram(t, "nginx")
	s, err := nginx.Start(nginx.Options{Root: dir, Addr: "127.0.0.1", Port: testrig.FreePort(t)})
	testrig.Must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// Every form is mounted, read by the kernel and compared, from a real web server.
func TestMountForms(t *testing.T) {
	testrig.Slow(t)
	for _, procs := range []int{runtime.GOMAXPROCS(0), 1} {
		for _, form := range []string{formManifest, formImage, formSplit} {
			for _, kind := range []string{hotAndCold, noZone} {
				if procs == 1 && kind == noZone {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s, GOMAXPROCS=%d", form, kind, procs), func(t *testing.T) {
					watchdog(t)
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
					f := folderOf(t, kind)
					s := startNginx(t, f.dir)
					before := takeCensus()
					for _, raw := range []bool{false, true} {
						o := mountOptions(t, s.URL(form), func(o *MountOptions) { o.Raw = raw })
						m, err := Mount(t.Context(), o)
						if err != nil {
							t.Fatal(err)
						}
						r := &rig{Mounted: m, t: t, dir: o.Dir, run: o.RunDir, loop: -1}
						if raw {
							code, out := runRole(t, roleSum, r.dir+"/image")
							if want := fmt.Sprintf("%x\n", sha256.Sum256(f.image)); code != 0 || out != want {
								t.Errorf("the image file has the SHA-256 %s, want %s", out, want)
							}
						} else {
							r.compare(f.testPack)
						}
						r.hot()
						st := r.Status()
						if st.Phase != "running" || st.BootPagesLoaded != st.BootPages || st.BootPages != f.formOf(form).Header.BootPages ||
							st.Retries != 0 || st.DamagedChunks != 0 || st.URL != s.URL(form) {
							t.Errorf("status: %+v", st)
						}
						r.unmount()
					}
					before.check(t)
				})
			}
		}
	}
}

// Every byte of the image comes through a client, whatever the size of the reads, with little memory, too.
func TestReadForms(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{hotAndCold, noZone, small} {
		f := folderOf(t, kind)
		for _, form := range []string{formManifest, formImage, formSplit} {
			for _, step := range []int{4096, 100_000, 1 << 20} {
				s := serveDir(t, f.dir)
				c := mustOpen(t, s.url(form), func(o *Options) { o.MemoryBytes = 1 << 20 })
				checkImage(t, c, f.image, step)
				if n := c.fetch.src.count.corrupt.Load() + c.fetch.src.count.retries.Load(); n != 0 {
					t.Errorf("%s, %s: %d repeated", form, kind, n)
				}
			}
		}
	}
}

// bootOrder makes a boot order of runs of pages, in the middle of the image, the last ones first.
func bootOrder(image []byte, runs, pages int64) (out []bpk.Range) {
	total := int64(len(image)) / bpk.PageSize
	for i := runs - 1; i >= 0; i-- {
		out = append(out, bpk.Range{Page: i * total / runs / 16 * 16, Pages: pages})
	}
	return out
}

// The boot zone of a pack takes the opening requests and one stream.
func TestPackRequests(t *testing.T) {
	f := folderOf(t, hotAndCold)
	for _, form := range []string{formPack, formSplit} {
		s := serveDir(t, f.dir)
		c := mustOpen(t, s.url(form), nil)
		testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
		if n := len(s.requests()); n != len(openingSegments)+1 {
			t.Errorf("%s: %d requests", form, n)
		}
	}
}

// A boot from a manifest takes few requests, and brings few bytes that it does not need.
func TestManifestRequests(t *testing.T) {
	t.Parallel()
	p := packOf(t, hotAndCold)
	for _, runs := range []int64{1, 3, 10} {
		f := makeForms(t, p, bootOrder(p.image, runs, 32), t.TempDir())
		for _, form := range []string{formManifest, formImage} {
			s := serveDir(t, f.dir)
			c := mustOpen(t, s.url(form), nil)
			testrig.Eventually(t, "the boot zone", func() bool { return c.hot.Load() > 0 })
			for _, r := range c.index.Ranges {
				if err := readAt(t, c, soon(t), p.image, r.Page*bpk.PageSize, r.Pages*bpk.PageSize); err != nil {
					t.Error(err)
				}
			}
			n := len(s.requests())
			t.Logf("%d runs, %s: %d requests", runs, form, n)
			if n > 20 {
				t.Errorf("%d runs, %s: %d requests: %v", runs, form, n, s.requests())
			}
			seen := map[int64]bool{} // bytes of the image, by 500, that were asked for
			for _, r := range s.file(formImage).Requests() {
				for off := r.Off / 500; off < (r.Off+r.Len)/500; off++ {
					if seen[off] {
						t.Errorf("%d runs, %s: byte %d of the image was asked for twice", runs, form, off*500)
						break
					}
					seen[off] = true
				}
			}
		}
	}
}

// Bytes that are damaged on the way, or for a while on the server, are fetched again.
func TestFormsDamageOnTheWay(t *testing.T) {
	t.Parallel()
	f := folderOf(t, hotAndCold)
	boot := f.manifest.Boot.Chunks[len(f.manifest.Boot.Chunks)/2]
	bootOff, _ := f.manifest.Header.InImage(boot.PackOff)
	cold := coldOf(t, f.manifest, 5)
	coldOff, _ := f.manifest.Header.InImage(cold.PackOff)
	chunk := "split/" + bpk.ChunkName(coldOf(t, f.split, 5).SHA256)
	for _, c := range []struct {
		name, form, file string
		off              int64
	}{
		{"boot chunk", formManifest, formImage, bootOff + 5},
		{"boot chunk beside", formImage, formImage, bootOff + 5},
		{"body chunk", formManifest, formImage, coldOff + 7},
		{"chunk file", formSplit, chunk, 9},
		{"boot zone of a split pack", formSplit, formSplit, f.split.Header.Boot.PackOff + 5},
	} {
		for _, inUse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in use %t", c.name, inUse), func(t *testing.T) {
				t.Parallel()
				s := serveDir(t, f.dir)
				s.file(c.file).Script(faultserver.Touching(c.off, 2, faultserver.Flip(c.off)))
				cl := mustOpen(t, s.url(c.form), nil)
				if inUse {
					cl.fetch.setInUse()
				}
				checkImage(t, cl, f.image, 256<<10)
				if n := cl.fetch.src.count.corrupt.Load(); n != 2 {
					t.Errorf("%d damaged chunks counted, want 2", n)
				}
			})
		}
	}
}

// What the opening has brought of an image is not fetched again.
func TestImageOpeningIsUsed(t *testing.T) {
	f := folderOf(t, noZone)
	s := serveDir(t, f.dir)
	c := mustOpen(t, s.url(formImage), nil)
	if err := c.at.image.pre.wait(soon(t), 0, openingBytes); err != nil {
		t.Fatal(err)
	}
	n := len(s.file(formImage).Requests())
	for off := int64(0); off < openingBytes-256<<10; off += bpk.PageSize {
		if err := readAt(t, c, soon(t), f.image, off, bpk.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range s.file(formImage).Requests()[n:] {
		if r.Off < openingBytes-256<<10 {
			t.Errorf("bytes [%d +%d) were asked for again", r.Off, r.Len)
		}
	}
}

// coldOf returns a body chunk that is stored, the n-th.
func coldOf(t testing.TB, p *bpk.Pack, n int) bpk.Entry {
	t.Helper()
	return (&testPack{pack: p}).coldChunk(t, n)
}

// What is wrong with a form is told in one line at the start, or by the first read.
func TestFormsBadInput(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	f := folderOf(t, hotAndCold)
	z := folderOf(t, noZone)
	bootOff, _ := f.manifest.Header.InImage(f.manifest.Boot.Chunks[0].PackOff)
	cold := coldOf(t, f.split, 0)
	chunk := "split/" + bpk.ChunkName(cold.SHA256)
	flip := func(b []byte, off int64) []byte { b = bytes.Clone(b); b[off] ^= 1; return b }
	read := func(name string) []byte {
		b, err := os.ReadFile(f.dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	manifest := read(formManifest)
	for _, c := range []struct {
		name   string
		url    string
		change func(s *fileServer)
		code   int
		says   []string
	}{
		{"image without a manifest, with a digest", formImage, func(s *fileServer) { s.put(formManifest, nil) }, ExitTrust, []string{formImage, "is an image (erofs) with no manifest beside it", "cannot be verified"}},
		{"neither image nor pack", "x", func(s *fileServer) { s.put("x", bytes.Repeat([]byte("hello"), 1000)) }, ExitFormat, []string{"not a bootprof pack", `"hellohel"`, "no manifest beside it"}},
		{"a web site that has a page for any name", "x", func(s *fileServer) {
			s.put("x", bytes.Repeat([]byte("hello"), 1000))
			s.put("x.bpm", []byte("<html>"))
			s.file("x.bpm").Script(faultserver.Always(faultserver.HTML()))
		}, ExitFormat, []string{"not a bootprof pack", "HTML page"}},
		{"manifest that is none", formImage, func(s *fileServer) { s.put(formManifest, make([]byte, 1000)) }, ExitFormat, []string{"is no manifest"}},
		{"manifest that is a pack", formImage, func(s *fileServer) { s.put(formManifest, f.raw) }, ExitFormat, []string{"is a pack, not a manifest"}},
		{"manifest under another name", "x.bpk", func(s *fileServer) { s.put("x.bpk", manifest) }, ExitFormat, []string{"must be called like the image with .bpm"}},
		{"manifest damaged", formImage, func(s *fileServer) { s.put(formManifest, flip(manifest, 100)) }, ExitFormat, []string{formManifest, "header"}},
		{"manifest cut off", formImage, func(s *fileServer) { s.put(formManifest, manifest[:len(manifest)-1]) }, ExitFormat, []string{formManifest, "uploaded in part"}},
		{"manifest without its image", formManifest, func(s *fileServer) { s.put(formImage, nil) }, ExitNetwork, []string{formImage, "404"}},
		{"image cut off", formManifest, func(s *fileServer) { s.put(formImage, f.image[:len(f.image)-4096]) }, ExitFormat, []string{formImage, "not the image of its manifest", fmt.Sprint(len(f.image)), fmt.Sprint(len(f.image) - 4096)}},
		{"image cut off, asked for itself", formImage, func(s *fileServer) { s.put(formImage, f.image[:len(f.image)-4096]) }, ExitFormat, []string{formImage, "not the image of its manifest"}},
		{"image of another version, boot page", formManifest, func(s *fileServer) { s.put(formImage, flip(f.image, bootOff+4000)) }, ExitFormat, []string{formImage, "not the image of its manifest", "boot chunk of pages 0 to", fmt.Sprintf("[%d +", bootOff)}},
		{"image of another version, other page", formImage, func(s *fileServer) {
			s.put(formManifest, testrig.ReadFile(t, z.dir+"/"+formManifest))
			s.put(formImage, flip(z.image, 4096*3+5))
		}, ExitFormat, []string{formImage, "not the image of its manifest", "body chunk of pages"}},
		{"chunk file missing", formSplit, func(s *fileServer) { s.put(chunk, nil) }, ExitNetwork, []string{chunk, "404"}},
		{"chunk file damaged", formSplit, func(s *fileServer) { s.put(chunk, flip(read(chunk), 3)) }, ExitFormat, []string{chunk, "body chunk", "SHA-256"}},
		{"chunk file too short", formSplit, func(s *fileServer) { s.put(chunk, read(chunk)[:10]) }, ExitFormat, []string{chunk, "10 bytes instead of"}},
		{"chunk file empty", formSplit, func(s *fileServer) { s.put(chunk, []byte{}) }, ExitFormat, []string{chunk, "0 bytes instead of"}},
		{"chunk file too long", formSplit, func(s *fileServer) { s.put(chunk, append(read(chunk), make([]byte, 1<<20)...)) }, ExitFormat, []string{chunk, "bytes instead of"}},
		{"a web page for every chunk", formSplit, func(s *fileServer) { s.file(chunk).Script(faultserver.Always(faultserver.HTML())) }, ExitNetwork, []string{chunk, "HTML"}},
		{"chunk file compressed", formSplit, func(s *fileServer) { s.file(chunk).Script(faultserver.Always(faultserver.Gzip())) }, ExitNetwork, []string{chunk, "gzip"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serveDir(t, f.dir)
			c.change(s)
			ctx, cancel := context.WithTimeout(t.Context(), testrig.Patience)
			defer cancel()
			cl, err := openURL(t, s.url(c.url), func(o *Options) {
				if c.code == ExitTrust {
					o.Digest = "sha256:00"
				}
			})
			image := f.image
			if strings.Contains(c.name, "other page") {
				image = z.image
			}
			if err == nil {
				defer cl.Close()
				for off := int64(0); off < int64(len(image)) && err == nil; off += 128 << 10 {
					err = readAt(t, cl, ctx, image, off, 128<<10)
				}
			}
			if err == nil {
				t.Fatal("read without an error")
			}
			line := oneLine(err)
			for _, says := range c.says {
				if !strings.Contains(line, says) {
					t.Errorf("%q does not say %q", line, says)
				}
			}
			if ExitCode(err) != c.code || len(line) > 500 {
				t.Errorf("exit code %d, want %d: %s", ExitCode(err), c.code, line)
			}
		})
	}
}

// While the image is in use, a file that is missing or another one is waited for.
func TestFormsHeal(t *testing.T) {
	t.Parallel()
	f := folderOf(t, hotAndCold)
	chunk := "split/" + bpk.ChunkName(coldOf(t, f.split, 5).SHA256)
	chunkBytes := testrig.ReadFile(t, f.dir+"/"+chunk)
	for _, c := range []struct {
		name, form, file string
		page             int64
		good, bad        []byte
	}{
		{"chunk file missing", formSplit, chunk, coldOf(t, f.split, 5).Page, chunkBytes, nil},
		{"chunk file of another length", formSplit, chunk, coldOf(t, f.split, 5).Page, chunkBytes, chunkBytes[:7]},
		{"image missing", formManifest, formImage, coldOf(t, f.manifest, 5).Page, f.image, nil},
		{"image of another length", formImage, formImage, coldOf(t, f.manifest, 5).Page, f.image, f.image[:len(f.image)-4096]},
		{"image of zeros", formImage, formImage, coldOf(t, f.manifest, 5).Page, f.image, make([]byte, len(f.image))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serveDir(t, f.dir)
			cl := mustOpen(t, s.url(c.form), nil)
			testrig.Eventually(t, "the boot zone", func() bool { return cl.hot.Load() > 0 })
			cl.fetch.setInUse()
			s.put(c.file, c.bad)
			n := len(s.requests())
			done := make(chan error, 1)
			go func() { done <- readAt(t, cl, soon(t), f.image, c.page*bpk.PageSize, bpk.PageSize) }()
			testrig.Eventually(t, "a repeated request", func() bool { return len(s.requests()) >= n+2 })
			select {
			case err := <-done:
				t.Fatalf("the read ended with %v", err)
			default:
			}
			s.put(c.file, c.good)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// A server that knows no ranges serves the chunk files of a split pack.
func TestSplitWithoutRanges(t *testing.T) {
	f := folderOf(t, hotAndCold)
	var chunks, ranged atomic.Int64
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/"+formSplit {
			if r.Header.Get("Range") != "" {
				ranged.Add(1)
			}
			r.Header.Del("Range")
			if chunks.Add(1)%2 == 0 { // of unknown length
				b, _ := os.ReadFile(f.dir + path.Clean(r.URL.Path))
				w.(http.Flusher).Flush()
				w.Write(b)
				return
			}
		}
		http.FileServer(http.Dir(f.dir)).ServeHTTP(w, r)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	c := mustOpen(t, "http://"+l.Addr().String()+"/"+formSplit, nil)
	checkImage(t, c, f.image, 64<<10)
	if chunks.Load() < 10 || ranged.Load() != 0 {
		t.Errorf("%d chunk files asked for, %d by range", chunks.Load(), ranged.Load())
	}
}

// A chunk file that breaks off is fetched anew, and one that always does is given up in time.
func TestWholeFaults(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	file := testFile(200_000)
	s := serveBytes(t, file)
	f := newTestFetcher(t, s)
	s.Script(faultserver.First(3, faultserver.Cut(150_000)))
	if b, err := f.whole(soon(t), int64(len(file))); err != nil || !bytes.Equal(b, file) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b, err := f.whole(soon(t), 1000); err != nil || len(b) != 1001 {
		t.Errorf("of a file that is too long: %d bytes, %v", len(b), err)
	}
	f.startTimeout = 300 * time.Millisecond
	s.Script(faultserver.Always(faultserver.Cut(150_000)))
	begin := time.Now()
	_, err := f.whole(soon(t), int64(len(file)))
	var net *NetworkError
	if took := time.Since(begin); !errors.As(err, &net) || took < 300*time.Millisecond || strings.Contains(err.Error(), "()") {
		t.Errorf("a file that always breaks off: %v after %v", err, took)
	}
	f.startTimeout = testrig.Patience
	for _, fault := range []*faultserver.Fault{faultserver.Status(404), faultserver.Status(403), faultserver.HTML(), faultserver.Gzip(), faultserver.Status(206)} {
		s.Script(faultserver.Always(fault))
		if _, err := f.whole(soon(t), 100); !permanent(err) || ExitCode(err) != ExitNetwork {
			t.Errorf("%s: %v", fault.Name, err)
		}
	}
}

// URLs with a query, escapes and a fragment lead to the files beside them.
func TestSiblingURLs(t *testing.T) {
	for _, c := range []struct{ url, manifest, chunk, image string }{
		{"http://h/a/b.img", "http://h/a/b.img.bpm", "http://h/a/chunks/x", "http://h/a/b.img"},
		{"http://h/b.bpm?token=1#f", "http://h/b.bpm.bpm?token=1", "http://h/chunks/x?token=1", "http://h/b?token=1"},
		{"http://me:pw@h/a%2Fb%20c.bpm", "http://me:pw@h/a%2Fb%20c.bpm.bpm", "http://me:pw@h/a/chunks/x", "http://me:pw@h/a%2Fb%20c"},
		{"https://h", "https://h/.bpm", "https://h/chunks/x", "https://h"},
	} {
		s, err := newHTTPSource(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.sibling(func(p string) string { return p + ".bpm" }).url; got != c.manifest && c.url != "https://h" {
			t.Errorf("%s: manifest %s, want %s", c.url, got, c.manifest)
		}
		if got := s.sibling(func(p string) string { return besidePath(p, "chunks/x") }).url; got != c.chunk {
			t.Errorf("%s: chunk %s, want %s", c.url, got, c.chunk)
		}
		if got := s.sibling(func(p string) string { return strings.TrimSuffix(p, ".bpm") }); got.url != c.image || strings.Contains(got.shown, "pw") {
			t.Errorf("%s: image %s, shown as %s", c.url, got.url, got.shown)
		}
	}
}
