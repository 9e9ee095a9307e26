package mountclient

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A testCA signs certificates.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	key := newKey(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(0, 0), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)}
	return &testCA{signed(t, ca, ca, key, key), key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t *testing.T, cert, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, by, &key.PublicKey, byKey)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// issue makes a certificate for 127.0.0.1 that is valid from one time to the other.
func (ca *testCA) issue(t *testing.T, name string, from, to time.Time) tls.Certificate {
	t.Helper()
	key := newKey(t)
	cert := signed(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, ca.cert, key, ca.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// issueFor makes a certificate for a host.
func (ca *testCA) issueFor(t *testing.T, host string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	cert := signed(t, &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: host}, NotBefore: day(2000), NotAfter: day(2089),
		DNSNames: []string{host}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca.cert, key, ca.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func pemFile(t *testing.T, cert *x509.Certificate) string {
	t.Helper()
	return newFile(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

// pairFile writes a certificate and its key to one file.
func pairFile(t *testing.T, pair tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return newFile(t, "pair.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))+
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// with makes a server show a certificate.
func with(pair tls.Certificate) func(*httptest.Server) {
	return func(s *httptest.Server) { s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}} }
}

func day(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }

// A clock that is behind does not keep certificates from being valid; one that has expired is refused, and so is
// one that nobody vouches for, whatever time it says it is.
func TestClock(t *testing.T) {
	file := testFile(40_000)
	ca, stranger := newTestCA(t), newTestCA(t)
	for _, c := range []struct {
		name     string
		clock    time.Time
		by       *testCA
		from, to time.Time
		says     string // empty: it works
	}{
		{"right", day(2030), ca, day(2029), day(2031), ""},
		{"1970", day(1970), ca, day(2020), day(2060), ""},
		{"1970, certificate newer than the program", day(1970), ca, day(2040), day(2041), ""},
		{"months behind", day(2030), ca, day(2030).AddDate(0, 6, 0), day(2031), ""},
		{"expired", day(2030), ca, day(2028), day(2029), "has expired: it was valid until 2029-01-01 00:00 UTC, and the clock says 2030-01-01 00:00 UTC"},
		{"expired before the program was built", day(1970), ca, day(2000), day(2001), "has expired"},
		{"unknown authority", day(2030), stranger, day(2029), day(2031), "--ca FILE"},
		{"unknown authority, from the future", day(2030), stranger, day(2040), day(2041), "clock says 2030-01-01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newWebServer(t, file, nil, with(c.by.issue(t, "server", c.from, c.to)))
			a := testAccess(t, Access{CAFile: pemFile(t, ca.cert)})
			a.clock.wall = func() time.Time { return c.clock }
			got, err := fetchVia(t, a, s.URL+"/image")
			if c.says == "" {
				wantBytes(t, file, got, err)
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !permanent(err) || ExitCode(err) != ExitNetwork || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one with %q", err, c.says)
			}
			if a.clock.learnt.Load() != 0 {
				t.Error("the clock was moved")
			}
		})
	}
}

func TestTLSErrors(t *testing.T) {
	ca := newTestCA(t)
	file := testFile(40_000)
	valid := with(ca.issue(t, "server", day(2000), day(2080)))
	s := newWebServer(t, file, nil, valid)
	plain := newWebServer(t, file, nil, nil)
	mutual := newWebServer(t, file, nil, func(h *httptest.Server) {
		valid(h)
		h.TLS.ClientAuth, h.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		h.TLS.ClientCAs.AddCert(ca.cert)
	})
	trusting := testAccess(t, Access{CAFile: pemFile(t, ca.cert)})
	for _, c := range []struct {
		name string
		a    *access
		url  string
		says string
	}{
		{"no CA", testAccess(t, Access{}), s.URL, "--ca FILE"},
		{"other host", trusting, strings.Replace(s.URL, "127.0.0.1", "localhost", 1), "another host"},
		{"no TLS", trusting, strings.Replace(plain.URL, "http:", "https:", 1), "without TLS"},
		{"no client certificate", trusting, mutual.URL, "--cert"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := fetchVia(t, c.a, c.url+"/image")
			for n := 0; err != nil && !permanent(err) && n < 100; n++ {
				_, err = fetchVia(t, c.a, c.url+"/image") // the server's alert may be lost in the reset that follows it
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !permanent(err) {
				t.Errorf("error %v, want one with %q", err, c.says)
			}
		})
	}
	none := testAccess(t, Access{})
	none.roots = builtInRoots
	if _, err := fetchVia(t, none, s.URL+"/image"); err == nil || !strings.Contains(err.Error(), "not trusted here") {
		t.Errorf("on a machine without CA certificates: %v", err)
	}
	both := testAccess(t, Access{CAFile: pemFile(t, ca.cert), CertFile: pairFile(t, ca.issue(t, "client", day(2000), day(2080)))})
	got, err := fetchVia(t, both, mutual.URL+"/image")
	wantBytes(t, file, got, err)

	text := newFile(t, "text", "no certificate")
	for _, o := range []Access{{CAFile: text}, {CAFile: text + "x"}, {CertFile: text}, {KeyFile: text}, {CertFile: pemFile(t, ca.cert)}, {CredentialsFile: text + "x"}} {
		if _, err := newAccess(o, testLog(t)); err == nil || ExitCode(err) != ExitUsage {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
