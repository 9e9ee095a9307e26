package mountclient

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// fetched downloads a form and decodes it.
func fetched(t testing.TB, url string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	last, total := int64(0), int64(0)
	path, err := Fetch(t.Context(), url, dir, testLog(t), func(d, n int64) {
		if d < last || d > n {
			t.Errorf("progress %d of %d after %d", d, n, last)
		}
		last, total = d, n
	})
	if err != nil {
		return nil, err
	}
	p, closer, err := bpk.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(p.Header.ImageSize); err != nil {
		t.Fatal(err)
	}
	if err := p.Extract(t.Context(), out, out); err != nil {
		return nil, err
	}
	if last != total {
		t.Errorf("progress ended with %d of %d", last, total)
	}
	return testrig.ReadFile(t, out.Name()), nil
}

func TestFetch(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	for _, kind := range []string{hotAndCold, noZone, small} {
		f := folderOf(t, kind)
		for _, form := range []string{formPack, formManifest, formImage, formSplit} {
			s := serveDir(t, f.dir)
			if n := s.file(formPack); n != nil { // faults on the way are repeated
				n.Script(faultserver.First(2, faultserver.Cut(1000)))
			}
			s.file(formSplit).Script(faultserver.First(1, faultserver.Status(503)))
			image, err := fetched(t, s.url(form))
			if err != nil || !bytes.Equal(image, f.image) {
				t.Errorf("%s, %s: %d bytes, %v", kind, form, len(image), err)
			}
		}
	}
}

// What is wrong on the server is named when the download is read, or when that makes no sense, at once.
func TestFetchDamage(t *testing.T) {
	t.Parallel()
	f := folderOf(t, hotAndCold)
	chunk := "split/" + bpk.ChunkName(coldOf(t, f.split, 3).SHA256)
	flip := func(name string, off int) []byte { b := testrig.ReadFile(t, f.dir+"/"+name); b[off] ^= 1; return b }
	for _, c := range []struct {
		name, form string
		change     func(s *fileServer)
		code       int
		says       string
	}{
		{"header", formPack, func(s *fileServer) { s.put(formPack, flip(formPack, 40)) }, ExitFormat, "header"},
		{"chunk missing", formSplit, func(s *fileServer) { s.put(chunk, nil) }, ExitFormat, chunk[len("split/"):] + " is damaged: the file is missing"},
		{"chunk damaged", formSplit, func(s *fileServer) { s.put(chunk, flip(chunk, 2)) }, ExitFormat, "wrong SHA-256"},
		{"chunk too long", formSplit, func(s *fileServer) { s.put(chunk, append(flip(chunk, 2), 0)) }, ExitFormat, "bytes instead of"},
		{"chunk forbidden", formSplit, func(s *fileServer) { s.file(chunk).Script(faultserver.Always(faultserver.Status(403))) }, ExitNetwork, "403"},
		{"split boot index", formSplit, func(s *fileServer) { s.put(formSplit, flip(formSplit, 520)) }, ExitFormat, "boot index"},
		{"image damaged", formManifest, func(s *fileServer) { s.put(formImage, flip(formImage, 1030)) }, ExitFormat, "wrong SHA-256"},
		{"image too long", formManifest, func(s *fileServer) { s.put(formImage, append(testrig.ReadFile(t, f.dir+"/"+formImage), 0)) }, ExitFormat, "not the image of its manifest"},
		{"image missing", formManifest, func(s *fileServer) { s.put(formImage, nil) }, ExitNetwork, "404"},
		{"manifest missing", formImage, func(s *fileServer) { s.put(formManifest, nil) }, ExitFormat, "no manifest beside it"},
		{"pack missing", "x", func(s *fileServer) {}, ExitNetwork, "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serveDir(t, f.dir)
			c.change(s)
			if _, err := fetched(t, s.url(c.form)); err == nil || ExitCode(err) != c.code || !strings.Contains(oneLine(err), c.says) {
				t.Errorf("%v, exit code %d; want %q and %d", err, ExitCode(err), c.says, c.code)
			}
		})
	}
}
