package sign

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a program and returns what it prints.
func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func noPassword() (string, error) { return "", errors.New("no password wanted") }

// What minisign itself says of our signatures, with its own keys, plain and encrypted.
func TestMinisignAccepts(t *testing.T) {
	dir := t.TempDir()
	pack := filepath.Join(dir, "x.bpk")
	if err := os.WriteFile(pack, []byte(strings.Repeat("bytes of a pack ", 1<<16)), 0o600); err != nil {
		t.Fatal(err)
	}
	digest := [32]byte{1, 2, 3}
	for _, c := range []struct {
		name, stdin string
		gen         []string
		password    func() (string, error)
	}{
		{"plain", "", []string{"-W"}, noPassword},
		{"encrypted", "secret\nsecret\n", nil, func() (string, error) { return "secret", nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			pub, sec := filepath.Join(dir, c.name+".pub"), filepath.Join(dir, c.name+".key")
			run(t, c.stdin, "minisign", append([]string{"-G", "-p", pub, "-s", sec}, c.gen...)...)
			key, err := ReadKey(sec, c.password)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(pack)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b, err := key.Sign(f, "x.bpk", digest)
			if err != nil {
				t.Fatal(err)
			}
			sig := pack + Suffix
			if err := os.WriteFile(sig, b, 0o600); err != nil {
				t.Fatal(err)
			}
			said := run(t, "", "minisign", "-V", "-p", pub, "-m", pack)
			if !strings.Contains(said, fmt.Sprintf("Trusted comment: bootprof sha256:%x file:x.bpk", digest)) {
				t.Errorf("minisign says %q", said)
			}
			if err := Check(pack, b, pub, digest); err != nil {
				t.Errorf("Check: %v", err)
			}
			var mismatch *MismatchError
			if err := Check(pack, b, pub, [32]byte{9}); !errors.As(err, &mismatch) {
				t.Errorf("Check of another digest: %v", err)
			}
			if err := Check(sec, b, pub, digest); !errors.As(err, &mismatch) {
				t.Errorf("Check of another file: %v", err)
			}
			bad := filepath.Join(dir, "changed")
			if err := os.WriteFile(bad, []byte("other bytes"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := exec.Command("minisign", "-V", "-p", pub, "-m", bad, "-x", sig).Run(); err == nil {
				t.Error("minisign accepts the signature for another file")
			}
		})
	}
	var bad *KeyError
	if _, err := ReadKey(filepath.Join(dir, "encrypted.key"), func() (string, error) { return "wrong", nil }); !errors.As(err, &bad) {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := ReadKey(filepath.Join(dir, "encrypted.pub"), noPassword); !errors.As(err, &bad) {
		t.Errorf("a public key: %v", err)
	}
	if _, err := ReadKey(pack, noPassword); !errors.As(err, &bad) {
		t.Errorf("a pack as the key: %v", err)
	}
}
