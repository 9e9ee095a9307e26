// Package minisig checks minisign signatures (https://jedisct1.github.io/minisign/) of which only the trusted
// comment matters.
//
// A minisign signature file holds two Ed25519 signatures: one of the signed file, and a *global* one of the first
// signature followed by the *trusted comment*. Verify checks the global one: the trusted comment is then what the
// owner of the key wrote, and a digest in it is as good as a signature of what has that digest. So a client can
// trust a file by its first bytes, where minisign itself needs the whole file.
//
// Trap: nothing of the signed file is compared here; a caller must look at the trusted comment. And whoever signs
// foreign files in minisign's legacy format (minisign -S -l, which signs the file itself and not its hash) could
// be given one whose signature serves as a global signature here: sign packs with a key of their own, or without -l.
package minisig

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// MaxFile is how many bytes a signature file or a file with a public key may have; minisign's own stay below.
const MaxFile = 16 << 10

// Sizes of what the files hold, in bytes before base64: a signature algorithm (2), a key's number (8), a key (32)
// or a signature (64).
const (
	keyLen    = 2 + 8 + ed25519.PublicKeySize
	sigLen    = 2 + 8 + ed25519.SignatureSize
	globalLen = ed25519.SignatureSize
)

const (
	untrustedPrefix = "untrusted comment:"
	trustedPrefix   = "trusted comment: "
)

// ErrNotKey tells that a text is no minisign public key.
var ErrNotKey = errors.New("not a minisign public key")

// A PublicKey is a minisign public key. The zero value verifies nothing.
type PublicKey struct {
	id  [8]byte
	key ed25519.PublicKey
}

// ParsePublicKey reads a public key: its base64 text ("RW..."), or what a .pub file holds.
func ParsePublicKey(text string) (PublicKey, error) {
	if len(text) > MaxFile {
		return PublicKey{}, ErrNotKey
	}
	line := strings.TrimSpace(text)
	if strings.HasPrefix(line, untrustedPrefix) {
		_, line, _ = strings.Cut(line, "\n")
		line = strings.TrimSpace(line)
	}
	b, err := decode(line, keyLen)
	if err != nil || string(b[:2]) != "Ed" {
		return PublicKey{}, ErrNotKey
	}
	return PublicKey{id: [8]byte(b[2:10]), key: ed25519.PublicKey(b[10:])}, nil
}

// decode decodes base64 of n bytes.
func decode(s string, n int) ([]byte, error) {
	if base64.StdEncoding.EncodedLen(n) != len(s) || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("wrong length")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && len(b) != n {
		err = errors.New("wrong length")
	}
	return b, err
}

// ID returns the key's number as minisign prints it.
func (k PublicKey) ID() string { return showID(k.id) }

func showID(id [8]byte) string { return fmt.Sprintf("%016X", binary.LittleEndian.Uint64(id[:])) }

// Verify returns the trusted comment of a signature file after checking that the owner of the key signed it. It does
// not check the signature of the file that was signed.
func (k PublicKey) Verify(sigFile []byte) (trustedComment string, err error) {
	if len(k.key) != ed25519.PublicKeySize {
		return "", ErrNotKey
	}
	lines, err := splitLines(sigFile)
	if err != nil {
		return "", err
	}
	sig, err := decode(lines[1], sigLen)
	if err != nil || string(sig[:2]) != "ED" && string(sig[:2]) != "Ed" {
		return "", errors.New("not a minisign signature: the second line is no signature")
	}
	global, err := decode(lines[3], globalLen)
	if err != nil {
		return "", errors.New("not a minisign signature: the fourth line is no signature")
	}
	if id := [8]byte(sig[2:10]); id != k.id {
		return "", fmt.Errorf("made with key %s, not with %s", showID(id), k.ID())
	}
	comment := strings.TrimPrefix(lines[2], trustedPrefix)
	if !ed25519.Verify(k.key, append(sig[10:], comment...), global) {
		return "", errors.New("the signature of the trusted comment is wrong")
	}
	return comment, nil
}

// splitLines returns the four lines of a signature file.
func splitLines(b []byte) ([]string, error) {
	bad := errors.New("not a minisign signature")
	if len(b) > MaxFile || bytes.IndexByte(b, 0) >= 0 {
		return nil, bad
	}
	lines := strings.Split(strings.TrimRight(string(b), "\r\n"), "\n")
	if len(lines) != 4 {
		return nil, bad
	}
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	if !strings.HasPrefix(lines[0], untrustedPrefix) || !strings.HasPrefix(lines[2], trustedPrefix) {
		return nil, bad
	}
	return lines, nil
}
