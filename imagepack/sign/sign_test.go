package sign

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

func noPassword() (string, error) { return "", errors.New("no password wanted") }
func secret() (string, error)     { return "secret", nil }

// What minisign itself says of our signatures, with its own keys, plain and encrypted.
func TestMinisignAccepts(t *testing.T) {
	dir := testrig.MemoryDir(t)
	pack := filepath.Join(dir, "x.bpk")
	testrig.WriteFile(t, pack, strings.Repeat("bytes of a pack ", 1<<16))
	digest := [32]byte{1, 2, 3}
	for _, c := range []struct {
		name, stdin string
		gen         []string
		password    func() (string, error)
	}{
		{"plain", "", []string{"minisign", "-W"}, noPassword},
		// With little memory, minisign makes a key that is cheaper to decrypt: 60 ms instead of 3 s.
		{"encrypted", "secret\nsecret\n", []string{"prlimit", "--as=60000000", "minisign"}, secret},
	} {
		t.Run(c.name, func(t *testing.T) {
			pub, sec := filepath.Join(dir, c.name+".pub"), filepath.Join(dir, c.name+".key")
			testrig.RunInput(t, c.stdin, c.gen[0], append(c.gen[1:], "-G", "-p", pub, "-s", sec)...)
			key, err := ReadKey(sec, c.password)
			testrig.Must(t, err)
			f, err := os.Open(pack)
			testrig.Must(t, err)
			defer f.Close()
			b, err := key.Sign(f, "x.bpk", digest)
			testrig.Must(t, err)
			sig := pack + Suffix
			testrig.WriteFile(t, sig, b)
			said := testrig.Run(t, "minisign", "-V", "-p", pub, "-m", pack)
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
			testrig.WriteFile(t, bad, "other bytes")
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

// fullCostKey is of minisign 0.11 as it is started by a user, with the password "secret": decrypting it takes 1 GiB.
const fullCostKey = `untrusted comment: minisign encrypted secret key
RWRTY0Iy9WLzCExaY68kZOTUIkYtay9WRxyu9uwCDkzGywq+3eUAAAACAAAAAAAAAEAAAAAAYQ0L8quul7pExmU40ccuIQriCPuAUJGw53440Xm0DKapWwkTY8n88IE7/Nt+H0y+MFv8PK/hEABqQJQe6Ya0LIJiBXXm97yudZ267nMAYqAEJeBiViGHjnZOzBB+vycrwValcNPAs1s=
`

func TestReadKeyOfFullCost(t *testing.T) {
	testrig.Slow(t)
	path := filepath.Join(t.TempDir(), "full.key")
	testrig.WriteFile(t, path, fullCostKey)
	key, err := ReadKey(path, secret)
	testrig.Must(t, err)
	if got := fmt.Sprintf("%016X", key.secret.ID()); got != "86CC5C092CD23D7C" {
		t.Errorf("the key is %s", got)
	}
}
