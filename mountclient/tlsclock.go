package mountclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A clock tells the time at which certificates are looked at. Machines without a battery boot in 1970 or at the time of
// their last shutdown, and a certificate that is "not yet valid" must not keep them from it. So the time is the
// latest of three, all of which are in the past:
//
//   - what the system's clock says,
//   - when this program was built,
//   - the begin of validity of any certificate that a trusted CA signed and a server showed, see learn.
//
// It is never earlier than the system's clock: a certificate that has expired by that is refused as ever. Safe for
// concurrent use.
type clock struct {
	wall   func() time.Time
	learnt atomic.Int64 // Unix seconds; 0: nothing
}

// written is when this was; a build without a time of its own cannot be older.
var written = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// built returns the time of the commit this program was built from.
var built = sync.OnceValue(func() time.Time {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil && t.After(written) {
				return t
			}
		}
	}
	return written
})

func (c *clock) now() time.Time {
	t := c.wall()
	for _, other := range []time.Time{built(), time.Unix(c.learnt.Load(), 0)} {
		if other.After(t) {
			t = other
		}
	}
	return t
}

// learn looks at a failed handshake and tells whether the clock was behind and is now late enough to try again. The
// certificates are believed only if a CA that is trusted has signed them: no CA dates a certificate ahead, and anybody
// else's must not move the clock to where all others have expired.
func (c *clock) learn(err error, roots func() *x509.CertPool) bool {
	var failed *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &failed) || !errors.As(err, &invalid) || invalid.Reason != x509.Expired || len(failed.UnverifiedCertificates) == 0 {
		return false
	}
	leaf := failed.UnverifiedCertificates[0]
	at := leaf.NotBefore
	between := x509.NewCertPool()
	for _, cert := range failed.UnverifiedCertificates[1:] {
		between.AddCert(cert)
		if cert.NotBefore.After(at) {
			at = cert.NotBefore
		}
	}
	if !at.After(c.now()) {
		return c.learnt.Load() >= at.Unix() && invalid.Cert.NotBefore.Equal(at) // another handshake has learnt it
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots(), Intermediates: between, CurrentTime: at}); err != nil {
		return false
	}
	for {
		was := c.learnt.Load()
		if was >= at.Unix() || c.learnt.CompareAndSwap(was, at.Unix()) {
			return true
		}
	}
}

// A TLSError tells why there is no TLS connection to a host. Trying again does not help.
type TLSError struct {
	Host, Why string
	Err       error
}

func (e *TLSError) Error() string { return fmt.Sprintf("TLS with %s: %s", e.Host, e.Why) }

func (e *TLSError) Unwrap() error { return e.Err }

// tlsError makes a TLSError of what a transport returned, if that is what it is.
func (a *access) tlsError(host string, err error) error {
	now := a.clock.now()
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var failed *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	why := ""
	switch text := err.Error(); {
	case errors.As(err, &unknown):
		why = "its certificate is signed by an authority that is not trusted here"
		if unknown.Cert != nil {
			why += fmt.Sprintf(" (%s)", unknown.Cert.Issuer)
		}
		why += "; name its CA with --ca FILE"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.After(invalid.Cert.NotAfter):
		why = fmt.Sprintf("the certificate of %q has expired: it was valid until %s, and the clock says %s; renew it, or set the clock if that is wrong",
			invalid.Cert.Subject.CommonName, stamp(invalid.Cert.NotAfter), stamp(now))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		why = fmt.Sprintf("the certificate of %q is not valid before %s, and the clock says %s; set the clock",
			invalid.Cert.Subject.CommonName, stamp(invalid.Cert.NotBefore), stamp(now))
	case errors.As(err, &name):
		why = "its certificate is for another host: " + name.Error()
	case errors.As(err, &failed):
		why = "its certificate is refused: " + failed.Err.Error()
	case errors.As(err, &record), strings.Contains(text, "server gave HTTP response to HTTPS client"):
		why = "it answers without TLS; is the URL an http:// one?"
	case strings.Contains(text, "tls: certificate required"), strings.Contains(text, "remote error: tls: handshake failure"):
		why = "it wants a client certificate (--cert, --key), or has no cipher in common: " + text
	case strings.Contains(text, "remote error: tls: bad certificate"), strings.Contains(text, "remote error: tls: unknown certificate"), strings.Contains(text, "remote error: tls: expired certificate"):
		why = "it refuses the client certificate (--cert): " + text
	default:
		return err
	}
	return &TLSError{host, why, err}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
