package initramfs_test

import (
	"archive/tar"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bootprof/bench/serve"
	"bootprof/internal/testrig"
)

// listCommand prints the digest of a list of all files below the current directory: of regular files what they hold, of all
// what they are. treeDigest makes the same from a tar.
const listCommand = `{ find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum -z; find . -mindepth 1 ! -type d -printf '%p %y %m %U %G %l\0' | LC_ALL=C sort -z; } | sha256sum`

// treeDigest returns what listCommand prints in the root that the tar holds, and how many regular files and bytes that has.
func treeDigest(t *testing.T, path string) (digest string, files int, size int64) {
	t.Helper()
	f, err := os.Open(path)
	testrig.Must(t, err)
	defer f.Close()
	var names, infos []string
	sums, headers := map[string]string{}, map[string]*tar.Header{}
	kinds := map[byte]string{tar.TypeReg: "f", tar.TypeSymlink: "l", tar.TypeChar: "c", tar.TypeBlock: "b", tar.TypeFifo: "p"}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		testrig.Must(t, err)
		name := "./" + strings.TrimPrefix(h.Name, "./")
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
			sum := sha256.New()
			n, err := io.Copy(sum, r)
			testrig.Must(t, err)
			files, size = files+1, size+n
			sums[name] = hex.EncodeToString(sum.Sum(nil))
		case tar.TypeLink:
			to := "./" + strings.TrimPrefix(h.Linkname, "./")
			sums[name], h = sums[to], headers[to]
			files++
		}
		headers[name] = h
		if sums[name] != "" {
			names = append(names, name)
		}
		infos = append(infos, fmt.Sprintf("%s %s %o %d %d %s\x00", name, kinds[h.Typeflag], h.Mode&0o7777, h.Uid, h.Gid, h.Linkname))
	}
	slices.Sort(names)
	slices.Sort(infos)
	all := sha256.New()
	for _, name := range names {
		fmt.Fprintf(all, "%s  %s\x00", sums[name], name)
	}
	io.WriteString(all, strings.Join(infos, ""))
	return hex.EncodeToString(all.Sum(nil)), files, size
}

// sameTree wants the image in the guest to be that of the tar, each file read through to its end.
func (m *machine) sameTree(dir string) {
	m.t.Helper()
	want, files, size := treeDigest(m.t, image(m.t, "root.tar"))
	began := time.Now()
	got, _, _ := strings.Cut(m.sh("cd %s && %s", dir, listCommand), " ")
	if got != want {
		m.t.Errorf("the files below %s are not those of the root: digest %s, want %s", dir, got, want)
	}
	m.t.Logf("%d files, %d bytes read and compared in %.0f s", files, size, time.Since(began).Seconds())
}

// authority makes a CA and a server's certificate of it for the host as guests see it, valid today, and returns the CA's file.
func authority(t *testing.T, ip string) (string, *serve.TLS) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		testrig.WriteFile(t, path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
		return path
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		testrig.Must(t, err)
		return k
	}
	caKey, srvKey := key(), key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	srv := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "lab"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.ParseIP(ip)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	sign := func(c *x509.Certificate, pub *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &pub.PublicKey, caKey)
		testrig.Must(t, err)
		return der
	}
	srvDER, err := x509.MarshalPKCS8PrivateKey(srvKey)
	testrig.Must(t, err)
	return write("ca.pem", "CERTIFICATE", sign(ca, caKey)), &serve.TLS{
		CertFile: write("server.pem", "CERTIFICATE", sign(srv, srvKey)), KeyFile: write("server.key", "PRIVATE KEY", srvDER)}
}
