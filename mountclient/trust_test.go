package mountclient

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/bpk"
	"bootprof/internal/faultserver"
	"bootprof/internal/testrig"
)

// A signer has a minisign key.
type signer struct {
	t   testing.TB
	dir string
	pub string // path of the public key
	key string // the public key itself
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	s := &signer{t: t, dir: t.TempDir()}
	s.pub = filepath.Join(s.dir, "k.pub")
	s.run("-G", "-W", "-p", s.pub, "-s", s.dir+"/k.key")
	s.key = strings.Split(string(testrig.ReadFile(t, s.pub)), "\n")[1]
	return s
}

func (s *signer) run(args ...string) {
	s.t.Helper()
	testrig.Run(s.t, "minisign", args...)
}

// sign returns the signature of a file with a trusted comment. It may be called by several tests at a time.
func (s *signer) sign(file []byte, comment string) []byte {
	s.t.Helper()
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.run("-S", "-s", s.dir+"/k.key", "-m", path, "-t", comment)
	return testrig.ReadFile(s.t, path+SignatureSuffix)
}

func commentOf(p *bpk.Pack) string { return fmt.Sprintf("bootprof sha256:%x file:x", p.Digest) }

// Each form is opened with its signature, which costs one request, and no time.
func TestSignedForms(t *testing.T) {
	f := folderOf(t, small)
	k := newSigner(t)
	for _, form := range []string{formPack, formManifest, formImage, formSplit} {
		s := serveDir(t, f.dir)
		name := form
		if form == formImage {
			name = formManifest
		}
		p := f.formOf(form)
		s.put(name+SignatureSuffix, k.sign(testrig.ReadFile(t, f.dir+"/"+name), commentOf(p)))
		for _, key := range []string{k.key, k.pub} {
			c := mustOpen(t, s.url(form), func(o *Options) { o.PublicKey, o.Digest = key, fmt.Sprintf("sha256:%x", p.Digest) })
			checkImage(t, c, f.image, 128<<10)
		}
		asked := 0
		for _, name := range s.requests() {
			if strings.HasSuffix(name, SignatureSuffix) && (form != formImage || name != formImage+SignatureSuffix) {
				asked++
			}
		}
		if asked != 2 {
			t.Errorf("%s: %d requests for signatures in 2 mounts", form, asked)
		}
	}
}

// What is not signed with the key is not mounted, though it is whole.
func TestSignatureRefused(t *testing.T) {
	f := folderOf(t, small)
	other := folderOf(t, noZone)
	k, k2 := newSigner(t), newSigner(t)
	good := k.sign(f.raw, commentOf(f.pack))
	tampered := []byte(strings.Replace(string(good), fmt.Sprintf("%x", f.pack.Digest), fmt.Sprintf("%x", other.pack.Digest), 1))
	sig := formPack + SignatureSuffix
	for _, c := range []struct {
		name   string
		form   string
		change func(s *fileServer, o *Options)
		code   int
		says   string
	}{
		{"no signature", formPack, func(s *fileServer, o *Options) {}, ExitTrust, "there is none (404 Not Found)"},
		{"no signature beside a manifest", formImage, func(s *fileServer, o *Options) { s.put(formImage+SignatureSuffix, good) }, ExitTrust, formManifest + SignatureSuffix},
		{"of another key", formPack, func(s *fileServer, o *Options) { s.put(sig, k2.sign(f.raw, commentOf(f.pack))) }, ExitTrust, "made with key"},
		{"of another pack", formPack, func(s *fileServer, o *Options) { s.put(sig, k.sign(other.raw, commentOf(other.pack))) }, ExitTrust, "this pack has digest"},
		{"changed", formPack, func(s *fileServer, o *Options) { s.put(sig, tampered) }, ExitTrust, "the signature of the trusted comment is wrong"},
		{"without a digest", formPack, func(s *fileServer, o *Options) { s.put(sig, k.sign(f.raw, "hello")) }, ExitTrust, "this pack has digest"},
		{"digest in the file's name", formPack, func(s *fileServer, o *Options) {
			s.put(sig, k.sign(f.raw, commentOf(other.pack)+" "+commentOf(f.pack)))
		}, ExitTrust, "this pack has digest"},
		{"empty", formPack, func(s *fileServer, o *Options) { s.put(sig, []byte{}) }, ExitTrust, "not a minisign signature"},
		{"huge", formPack, func(s *fileServer, o *Options) { s.put(sig, make([]byte, 1<<20)) }, ExitTrust, "not a minisign signature"},
		{"a web page", formPack, func(s *fileServer, o *Options) {
			s.put(sig, []byte("x"))
			s.file(sig).Script(faultserver.Always(faultserver.HTML()))
		}, ExitTrust, "there is none"},
		{"another digest asked for", formPack, func(s *fileServer, o *Options) { s.put(sig, good); o.Digest = "sha256:00" }, ExitTrust, "want sha256:00"},
		{"key is none", formPack, func(s *fileServer, o *Options) { o.PublicKey = k.key[1:] }, ExitUsage, "no such file"},
		{"key file is none", formPack, func(s *fileServer, o *Options) { o.PublicKey = f.dir + "/" + formPack }, ExitUsage, "not a minisign public key"},
		{"key is a directory", formPack, func(s *fileServer, o *Options) { o.PublicKey = f.dir }, ExitUsage, "directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serveDir(t, f.dir)
			cl, err := openURL(t, s.url(c.form), func(o *Options) { o.PublicKey = k.key; c.change(s, o) })
			if err == nil {
				cl.Close()
				t.Fatal("opened")
			}
			if line := oneLine(err); ExitCode(err) != c.code || !strings.Contains(line, c.says) || len(line) > 500 {
				t.Errorf("exit code %d, want %d; says %q, want %q", ExitCode(err), c.code, line, c.says)
			}
		})
	}
}
