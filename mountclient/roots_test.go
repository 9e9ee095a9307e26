package mountclient

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"testing"
)

// Most of the certificates that Debian trusts are built in. The two lists differ with their ages.
func TestBuiltInRoots(t *testing.T) {
	rest, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatal(err)
	}
	pool := builtInRoots()
	trusted, all := 0, 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		all++
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: cert.NotBefore.AddDate(1, 0, 0), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
			trusted++
		}
	}
	if all < 100 || trusted < all/2 {
		t.Errorf("%d of %d certificates of the system are built in", trusted, all)
	}
}
