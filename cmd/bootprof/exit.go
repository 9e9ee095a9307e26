package main

import (
	"errors"
	"strings"
	"syscall"

	"bootprof/analyzer"
	"bootprof/imagepack"
	"bootprof/imagepack/sign"
	"bootprof/mountclient"
	"bootprof/profiles"
	"bootprof/recorder"
	"bootprof/recorder/lab"
	"bootprof/recorder/vm"
)

// A codedError carries its exit code. Without an error inside, what happened was told already.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *codedError) Unwrap() error { return e.err }

// Exit codes beside those of mountclient, documented in docs/cli.md.
const (
	exitCommand = 8 // the command that record ran failed, or the machine that it booted
)

func exitCode(err error) int {
	var (
		coded    *codedError
		input    *imagepack.InputError
		version  *profiles.VersionError
		mismatch *analyzer.MismatchError
		invalid  *analyzer.InvalidRunError
		command  *recorder.CommandError
		login    *lab.LoginError
		qemu     *vm.QEMUError
		key      *sign.KeyError
	)
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EROFS):
		return mountclient.ExitOther // while an input was unpacked: it is not to blame
	case errors.As(err, &input), errors.As(err, &version), errors.As(err, &invalid), errors.As(err, &key),
		errors.Is(err, profiles.ErrNotProfile), errors.Is(err, profiles.ErrCorrupt):
		return mountclient.ExitFormat
	case errors.As(err, &mismatch):
		return mountclient.ExitTrust
	case errors.As(err, &command), errors.As(err, &login), errors.As(err, &qemu):
		return exitCommand
	case strings.HasPrefix(err.Error(), "unknown command"):
		return mountclient.ExitUsage
	}
	return mountclient.ExitCode(err)
}
