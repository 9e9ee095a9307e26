package minisig

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

const comment = "bootprof sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// minisign runs minisign in dir.
func minisign(t testing.TB, dir string, args ...string) {
	t.Helper()
	testrig.NeedProgram(t, "minisign")
	cmd := exec.Command("minisign", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("minisign %v: %v\n%s", args, err, out)
	}
}

// golden returns a .pub file and a signature file by minisign 0.11, made with
//
//	minisign -G -W -p golden.pub -s k.key
//	minisign -S -s k.key -m file -x golden.minisig -t COMMENT
func golden(t testing.TB) (pub string, sig []byte) {
	t.Helper()
	p, err := os.ReadFile("testdata/golden.pub")
	if err == nil {
		sig, err = os.ReadFile("testdata/golden.minisig")
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(p), sig
}

// signed makes a key and signs a file with it.
func signed(t testing.TB, args ...string) (pub string, sig []byte) {
	t.Helper()
	dir := t.TempDir()
	testrig.WriteFile(t, filepath.Join(dir, "file"), "content")
	minisign(t, dir, "-G", "-W", "-p", "k.pub", "-s", "k.key")
	minisign(t, dir, append([]string{"-S", "-s", "k.key", "-m", "file", "-t", comment}, args...)...)
	p, err := os.ReadFile(filepath.Join(dir, "k.pub"))
	if err == nil {
		sig, err = os.ReadFile(filepath.Join(dir, "file.minisig"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(p), sig
}

func mustParse(t testing.TB, s string) PublicKey {
	t.Helper()
	k, err := ParsePublicKey(s)
	if err != nil {
		t.Fatalf("%v: %q", err, s)
	}
	return k
}

func TestVerifyMinisign(t *testing.T) {
	for _, args := range [][]string{{"golden"}, nil, {"-l"}} {
		pub, sig := golden(t)
		if args == nil || args[0] != "golden" {
			pub, sig = signed(t, args...)
		}
		line := strings.Split(pub, "\n")[1]
		for name, text := range map[string]string{"file": pub, "line": line, "CRLF": strings.ReplaceAll(pub, "\n", "\r\n"), "line and newline": line + "\n"} {
			k := mustParse(t, text)
			for _, s := range [][]byte{sig, bytes.ReplaceAll(sig, []byte("\n"), []byte("\r\n")), bytes.TrimRight(sig, "\n")} {
				if got, err := k.Verify(s); err != nil || got != comment {
					t.Errorf("%v, key from %s: %q, %v", args, name, got, err)
				}
			}
			if !strings.Contains(pub, strings.TrimLeft(k.ID(), "0")) {
				t.Errorf("key number %s is not that in %q", k.ID(), pub)
			}
		}
	}
}

// No change of a signature file verifies, but of the untrusted comment and of what the global signature does not
// cover; those do not change the trusted comment.
func TestVerifyRefuses(t *testing.T) {
	pub, sig := golden(t)
	k := mustParse(t, pub)
	for i := range sig {
		for bit := range 8 {
			b := bytes.Clone(sig)
			b[i] ^= 1 << bit
			if got, err := k.Verify(b); err == nil && got != comment {
				t.Fatalf("bit %d of byte %d: comment %q", bit, i, got)
			} else if err == nil && i > bytes.IndexByte(sig, '\n')+3 && i < len(sig)-1 {
				t.Errorf("bit %d of byte %d flipped, and it verifies: %q", bit, i, b)
			}
		}
	}
	for n := range len(sig) - 1 {
		if _, err := k.Verify(sig[:n]); err == nil {
			t.Errorf("cut to %d bytes of %d: it verifies", n, len(sig))
		}
	}
	otherPub, otherSig := signed(t)
	if _, err := k.Verify(otherSig); err == nil || !strings.Contains(err.Error(), k.ID()) || !strings.Contains(err.Error(), mustParse(t, otherPub).ID()) {
		t.Errorf("another key's signature: %v", err)
	}
	forged := PublicKey{id: mustParse(t, otherPub).id, key: k.key} // claims to be the other key
	if _, err := forged.Verify(otherSig); err == nil {
		t.Error("a signature of a key with the same number verifies")
	}
	for _, s := range []string{"", "\n\n\n\n", "<html>", strings.Repeat("x", 1<<20), string(sig) + "more\n", strings.Repeat("\n", MaxFile)} {
		if _, err := k.Verify([]byte(s)); err == nil {
			t.Errorf("%.20q verifies", s)
		}
	}
	if _, err := (PublicKey{}).Verify(sig); !errors.Is(err, ErrNotKey) {
		t.Errorf("the zero key: %v", err)
	}
}

func TestParsePublicKeyRefuses(t *testing.T) {
	pub, sig := golden(t)
	line := strings.Split(pub, "\n")[1]
	for _, s := range []string{"", "RW", line[1:], line + "A", line[:55], "untrusted comment: x", "untrusted comment: x\n", strings.Replace(line, "RW", "RX", 1),
		string(sig), strings.Repeat("A", 56), strings.Repeat(" ", 1<<20) + line, line[:30] + "\n" + line[30:]} {
		if _, err := ParsePublicKey(s); !errors.Is(err, ErrNotKey) {
			t.Errorf("%.60q: %v", s, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	pub, sig := golden(f)
	k := mustParse(f, pub)
	f.Add(sig)
	f.Add([]byte("untrusted comment: \n\ntrusted comment: \n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := k.Verify(b); err == nil && got != comment {
			t.Errorf("%q verifies with comment %q", b, got)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
	f.Add("untrusted comment: minisign public key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePublicKey(s)
		if err == nil && len(k.key) != 32 {
			t.Errorf("%q: key of %d bytes", s, len(k.key))
		}
	})
}
