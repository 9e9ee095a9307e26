package imagepack

import (
	"io"
	"path/filepath"

	"bootprof/imagepack/sign"
	"bootprof/internal/atomicfile"
)

// A Signer makes the signature of a finished pack, all of which r gives, for the name and the digest: sign.Key.Sign.
type Signer func(r io.Reader, name string, digest [32]byte) ([]byte, error)

// commit gives the finished pack of size bytes its name, path, and then the files beside it theirs. If signer is not nil,
// the signature appears last; that of an older pack is gone before.
func commit(signer Signer, digest [32]byte, pack *atomicfile.File, path string, size int64, beside ...*atomicfile.File) error {
	files := append([]*atomicfile.File{pack}, beside...)
	if signer == nil {
		return atomicfile.Commit("", files...)
	}
	b, err := signer(io.NewSectionReader(pack, 0, size), filepath.Base(path), digest)
	if err != nil {
		return err
	}
	sig, err := atomicfile.Create(path+sign.Suffix, 0o644)
	if err != nil {
		return err
	}
	defer sig.Close()
	if _, err := sig.Write(b); err != nil {
		return err
	}
	return atomicfile.Commit(path+sign.Suffix, append(files, sig)...)
}
