package mountclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"bootprof/internal/minisig"
)

// SignatureSuffix follows the name of a pack or a manifest in the name of its minisign signature.
const SignatureSuffix = ".minisig"

func checkDigest(want string, got [32]byte) error {
	if want == "" {
		return nil
	}
	if is := fmt.Sprintf("sha256:%x", got); !strings.EqualFold(want, is) {
		return &DigestError{Want: want, Got: is}
	}
	return nil
}

// A DigestError tells that the pack is not the one that was asked for.
type DigestError struct{ Want, Got string }

func (e *DigestError) Error() string {
	return fmt.Sprintf("pack has digest %s, want %s", e.Got, e.Want)
}

// A KeyError tells that Options.PublicKey is none.
type KeyError struct{ Key, Why string }

func (e *KeyError) Error() string { return fmt.Sprintf("public key %q: %s", e.Key, e.Why) }

// A SignatureError tells that a pack is not signed with Options.PublicKey.
type SignatureError struct{ URL, Why string } // URL: of the signature

func (e *SignatureError) Error() string {
	return fmt.Sprintf("%s is not a valid signature of the pack: %s", e.URL, e.Why)
}

// signedBy is the key that packs must be signed with. A nil one takes any pack, signed or not.
type signedBy minisig.PublicKey

// readPublicKey reads a key as Options.PublicKey gives it; nil for none.
func readPublicKey(key string) (*signedBy, error) {
	if key == "" {
		return nil, nil
	}
	k, err := minisig.ParsePublicKey(key)
	if err != nil {
		f, err := os.Open(key)
		if err != nil {
			return nil, &KeyError{key, fmt.Sprintf("neither a minisign public key nor the path of one: %v", errors.Unwrap(err))}
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, minisig.MaxFile+1))
		if err == nil {
			k, err = minisig.ParsePublicKey(string(b))
		}
		if err != nil {
			return nil, &KeyError{key, err.Error()}
		}
	}
	return (*signedBy)(&k), nil
}

// A signature is a signature file on its way.
type signature struct {
	shown string
	stop  context.CancelFunc
	came  chan struct{}
	file  []byte // set before came is closed
	err   error
}

// fetch begins to fetch the signature of a pack.
func (k *signedBy) fetch(life context.Context, pack *fetcher, running *sync.WaitGroup) *signature {
	if k == nil {
		return nil
	}
	f := pack.sibling(func(pack string) string { return pack + SignatureSuffix })
	life, stop := context.WithCancel(life)
	s := &signature{shown: f.src.shown, stop: stop, came: make(chan struct{})}
	running.Go(func() {
		defer close(s.came)
		defer stop()
		s.file, s.err = f.whole(life, minisig.MaxFile)
	})
	return s
}

// drop ends a fetch whose signature is not wanted.
func (s *signature) drop() {
	if s != nil {
		s.stop()
	}
}

// check waits for a signature and compares what it says with the digest of the pack. The signed comment holds the
// digest of the header, which leads to every byte of the pack: no hash of the whole file is needed.
func (k *signedBy) check(ctx context.Context, s *signature, digest [32]byte) error {
	if k == nil {
		return nil
	}
	select {
	case <-s.came:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var http *HTTPError
	if errors.As(s.err, &http) && http.Permanent() {
		return &SignatureError{s.shown, fmt.Sprintf("there is none (%s)", http.Status)}
	} else if s.err != nil {
		return s.err
	}
	comment, err := minisig.PublicKey(*k).Verify(s.file)
	if err != nil {
		return &SignatureError{s.shown, err.Error()}
	}
	want := fmt.Sprintf("sha256:%x", digest)
	for _, word := range strings.Fields(comment) {
		if strings.HasPrefix(word, "sha256:") { // the first one: what follows may be a file's name
			if strings.EqualFold(word, want) {
				return nil
			}
			break
		}
	}
	return &SignatureError{s.shown, fmt.Sprintf("it is of %q, and this pack has digest %s", comment, want)}
}
