package mountclient

import (
	"crypto/x509"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// builtInRoots returns Mozilla's CA certificates, for an initramfs that has none.
func builtInRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		cert, err := x509.ParseCertificate(root.Certificate)
		switch {
		case err != nil: // of a kind that this Go does not know any more
		case root.Constraint != nil:
			pool.AddCertWithConstraint(cert, root.Constraint)
		default:
			pool.AddCert(cert)
		}
	}
	return pool
}
