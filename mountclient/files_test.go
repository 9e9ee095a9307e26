package mountclient

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"bootprof/imagepack"
	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
	"bootprof/profiles"
)

// Forms of a test pack, each with its URL.
const (
	formPack     = "pack.bpk"
	formManifest = "root.img.bpm"
	formImage    = "root.img" // with the manifest beside it
	formSplit    = "split/index.bpk"
)

// A folder is a directory with all forms of a test pack.
type folder struct {
	*testPack
	dir      string
	manifest *bpk.Pack // indexes only
	split    *bpk.Pack
}

var folders struct {
	sync.Mutex
	byKind map[string]*folder
}

// folderOf makes the forms of a pack once for all tests. Nobody must change the files.
func folderOf(t testing.TB, kind string) *folder {
	t.Helper()
	p := packOf(t, kind)
	folders.Lock()
	defer folders.Unlock()
	if f := folders.byKind[kind]; f != nil {
		return f
	}
	dir, err := os.MkdirTemp(packs.dir, "forms-")
	if err != nil {
		t.Fatal(err)
	}
	f := makeForms(t, p, p.pack.Boot.Ranges, dir)
	if folders.byKind == nil {
		folders.byKind = map[string]*folder{}
	}
	folders.byKind[kind] = f
	return f
}

// makeForms writes the forms of p into dir; boot is the boot order of the manifest.
func makeForms(t testing.TB, p *testPack, boot []bpk.Range, dir string) *folder {
	t.Helper()
	ctx := context.Background()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string) *bpk.Pack {
		b, err := os.ReadFile(filepath.Join(dir, name))
		check(err)
		pack, err := bpk.Open(bytes.NewReader(b), int64(len(b)))
		check(err)
		return pack
	}
	f := &folder{testPack: p, dir: dir}
	check(os.WriteFile(filepath.Join(dir, formPack), p.raw, 0o644))
	check(os.WriteFile(filepath.Join(dir, formImage), p.image, 0o644))
	img, err := imagepack.Open(ctx, filepath.Join(dir, formImage), imagepack.FSKeep)
	check(err)
	defer img.Close()
	var ranges []profiles.Range
	for _, r := range boot {
		ranges = append(ranges, profiles.Range{ImageOff: r.Page * bpk.PageSize, Len: r.Pages * bpk.PageSize})
	}
	_, err = imagepack.WriteManifest(ctx, filepath.Join(dir, formManifest), img, imagepack.WriteOptions{Boot: ranges})
	check(err)
	f.manifest = open(formManifest)
	check(os.Mkdir(filepath.Join(dir, "split"), 0o755))
	_, err = imagepack.Split(ctx, p.pack, filepath.Join(dir, formSplit), nil)
	check(err)
	f.split = open(formSplit)
	return f
}

// formOf returns the indexes of a form.
func (f *folder) formOf(form string) *bpk.Pack {
	switch form {
	case formPack:
		return f.pack
	case formSplit:
		return f.split
	}
	return f.manifest
}

// A fileServer is a web server of several files, each of which can be scripted.
type fileServer struct {
	t    testing.TB
	dir  string
	addr string

	mu    sync.Mutex
	files map[string]*faultserver.Server // by path; nil: there is none
	asked []string                       // paths of the requests
}

// serveDir serves the files below dir.
func serveDir(t testing.TB, dir string) *fileServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fileServer{t: t, dir: dir, addr: l.Addr().String(), files: map[string]*faultserver.Server{}}
	srv := &http.Server{Handler: s}
	go srv.Serve(l)
	t.Cleanup(func() {
		l.Close()
		srv.Close()
	})
	return s
}

// file returns the server of one file, nil if there is none.
func (s *fileServer) file(name string) *faultserver.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, known := s.files[name]
	if !known {
		if b, err := os.ReadFile(filepath.Join(s.dir, name)); err == nil {
			f = faultserver.New(b)
		}
		s.files[name] = f
	}
	return f
}

// put serves b as the file of that name; nil removes it.
func (s *fileServer) put(name string, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[name] = nil; b != nil {
		s.files[name] = faultserver.New(b)
	}
}

func (s *fileServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	s.mu.Lock()
	s.asked = append(s.asked, name)
	s.mu.Unlock()
	if f := s.file(name); f != nil {
		f.ServeHTTP(w, r)
	} else {
		http.NotFound(w, r)
	}
}

func (s *fileServer) url(name string) string { return "http://" + s.addr + "/" + name }

// requests returns the paths that were asked for until now.
func (s *fileServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// openURL opens a client.
func openURL(t testing.TB, url string, change func(*Options)) (*Client, error) {
	t.Helper()
	o := Options{URL: url, StartTimeout: testrig.Patience, Log: testLog(t)}
	if change != nil {
		change(&o)
	}
	if o.CacheDir != "" {
		afterForks(o.CacheDir)
	}
	return Open(t.Context(), o)
}

// mustOpen opens a client and closes it with the test.
func mustOpen(t testing.TB, url string, change func(*Options)) *Client {
	t.Helper()
	c, err := openURL(t, url, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
