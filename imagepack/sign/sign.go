// Package sign signs packs with minisign keys.
//
// A signature is an ordinary minisign file NAME.minisig over the whole of NAME, which minisign -V accepts. A booting
// client cannot hash a file that it has not got, so the trusted comment, which the key signs too, holds the digest
// of the pack: the SHA-256 of its header, which leads to every other byte (docs/format.md, "Trust"). Clients check
// the comment's signature and compare the digest.
//
// Traps: a signature is made for one name and one digest, and is deterministic. Pack and signature are two files: for
// a moment while they are replaced there is no signature, and a client that asks for one refuses the pack.
package sign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unicode"

	"aead.dev/minisign"
)

// Suffix follows the name of a file in the name of its signature.
const Suffix = ".minisig"

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 4096

// A Key is a secret key that can be used. It is safe for concurrent use.
type Key struct{ secret minisign.PrivateKey }

// A KeyError tells that a key cannot be used.
type KeyError struct{ Path, Why string }

func (e *KeyError) Error() string { return fmt.Sprintf("key %s: %s", e.Path, e.Why) }

// ReadKey reads a secret key as minisign -G writes it. password is asked for if the key is encrypted.
func ReadKey(path string, password func() (string, error)) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKeyFile {
		return nil, &KeyError{path, "too long for a minisign key"}
	}
	if !minisign.IsEncrypted(b) {
		var k Key
		if err := k.secret.UnmarshalText(b); err != nil {
			return nil, &KeyError{path, "not a minisign secret key"}
		}
		return &k, nil
	}
	pw, err := password()
	if err != nil {
		return nil, err
	}
	secret, err := minisign.DecryptKey(pw, b)
	if err != nil {
		return nil, &KeyError{path, "wrong password, or a damaged key"}
	}
	return &Key{secret}, nil
}

// Sign returns the text of the signature of the pack that r gives, which will be called name and has the digest.
func (k *Key) Sign(r io.Reader, name string, digest [32]byte) ([]byte, error) {
	m := minisign.NewReader(r)
	if _, err := io.Copy(io.Discard, m); err != nil {
		return nil, fmt.Errorf("signing %s: %w", name, err)
	}
	sig := m.SignWithComments(k.secret, Comment(name, digest), "signature of a bootprof pack")
	return append(bytes.TrimRight(sig, "\n"), '\n'), nil
}

// Comment is the trusted comment of a pack's signature: one line, whatever the name.
func Comment(name string, digest [32]byte) string {
	printable := func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}
	return fmt.Sprintf("bootprof sha256:%x file:%s", digest, strings.Map(printable, name))
}

// Check checks the signature sig of the whole pack at path, whose digest is given, against a minisign public key: its
// text, or the path of a file that holds it.
func Check(path string, sig []byte, key string, digest [32]byte) error {
	pub, err := readPublic(key)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := minisign.NewReader(f)
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if !r.Verify(pub, sig) {
		return &MismatchError{fmt.Sprintf("the signature is not one of key %016X for these bytes", pub.ID())}
	}
	var s minisign.Signature
	if err := s.UnmarshalText(sig); err != nil {
		return &MismatchError{"the signature cannot be read"}
	}
	// The first word of that kind, as clients take it: what follows may be a file's name.
	words := strings.Fields(s.TrustedComment)
	want := fmt.Sprintf("sha256:%x", digest)
	if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "sha256:") }); i < 0 || words[i] != want {
		return &MismatchError{"the signature's trusted comment does not hold the digest " + want}
	}
	return nil
}

// A MismatchError tells that a signature is not that of the pack.
type MismatchError struct{ Why string }

func (e *MismatchError) Error() string { return e.Why }

func readPublic(key string) (minisign.PublicKey, error) {
	var pub minisign.PublicKey
	if pub.UnmarshalText([]byte(key)) == nil {
		return pub, nil
	}
	pub, err := minisign.PublicKeyFromFile(key)
	if errors.Is(err, fs.ErrNotExist) {
		return pub, &KeyError{key, "neither a minisign public key nor a file"}
	}
	if err != nil {
		return pub, &KeyError{key, "not a minisign public key"}
	}
	return pub, nil
}
