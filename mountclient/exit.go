package mountclient

import (
	"context"
	"errors"

	"bootprof/imagepack/bpk"
)

// Exit codes, documented in docs/cli.md.
const (
	ExitOK      = 0
	ExitOther   = 1 // an error of no other class
	ExitUsage   = 2 // wrong arguments or flags
	ExitSetup   = 3 // this machine or the mount point: no root, no FUSE, directory not empty
	ExitNetwork = 4 // the server cannot be reached or does not give the file
	ExitFormat  = 5 // the file is not what it should be: foreign, damaged, of a newer version
	ExitTrust   = 6 // the file is whole, but not the one that was asked for
	ExitSignal  = 7 // ended by a signal
)

// ExitCode returns the exit code for an error of this package.
func ExitCode(err error) int {
	var (
		setup   *SetupError
		notPack *NotPackError
		corrupt *bpk.CorruptError
		version *bpk.VersionError
		digest  *DigestError
		http    *HTTPError
		ident   *identityError
		network *NetworkError
		url     *URLError
		key     *KeyError
		signed  *SignatureError
		image   *ImageError
		plain   *UnverifiedError
		access  *AccessError
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &setup):
		return ExitSetup
	case errors.As(err, &url), errors.As(err, &key), errors.As(err, &access):
		return ExitUsage
	case errors.As(err, &digest), errors.As(err, &signed), errors.As(err, &plain):
		return ExitTrust
	case errors.As(err, &notPack), errors.As(err, &corrupt), errors.As(err, &version), errors.As(err, &image), errors.Is(err, bpk.ErrNotPack):
		return ExitFormat
	case errors.As(err, &http), errors.As(err, &ident), errors.As(err, &network):
		return ExitNetwork
	case errors.Is(err, context.Canceled):
		return ExitSignal
	}
	return ExitOther
}
