package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"bootprof/imagepack/bpk"
	"bootprof/mountclient"
)

// An openedPack is a pack on local storage, with what lies beside it. The caller closes it.
type openedPack struct {
	*bpk.Pack
	closer io.Closer // nil: somebody else closes it
}

func (o *openedPack) Close() error {
	if o.closer == nil {
		return nil
	}
	return o.closer.Close()
}

// openPack opens the pack at path: an ordinary one, the index of a split one, a manifest, or an image that has a
// manifest beside it. name stands for it in errors.
func openPack(path, name string) (*openedPack, error) {
	p, closer, err := bpk.OpenFile(path)
	if errors.Is(err, bpk.ErrNotPack) {
		if _, statErr := os.Stat(path + bpk.ManifestSuffix); statErr == nil {
			p, closer, err = bpk.OpenFile(path + bpk.ManifestSuffix)
		}
	}
	var file *fs.PathError
	if errors.As(err, &file) {
		return nil, &codedError{mountclient.ExitFormat, err} // missing, not readable, a directory
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &openedPack{p, closer}, nil
}
