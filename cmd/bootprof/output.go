package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/sign"
	"bootprof/mountclient"
)

// checkOutput refuses an output that would replace an input, or that nobody can write: all before the work, which may
// take minutes.
func (p *packJob) checkOutput() error {
	outs := []string{p.out}
	if p.format == "squashfs" {
		outs = append(outs, p.out+bpk.ManifestSuffix)
	}
	if p.signKey != "" {
		outs = append(outs, outs[len(outs)-1]+sign.Suffix)
	}
	for _, out := range outs {
		for _, in := range slices.Concat([]string{p.input}, p.packFlags.runs, []string{p.signKey, p.signPassword, p.baseOf}) {
			if in != "" && sameFile(out, in) {
				return &codedError{mountclient.ExitUsage, fmt.Errorf("-o %s would replace %s, which is read: write to another name", out, in)}
			}
		}
	}
	if within(p.out, p.input) || p.format == "sparse" && within(filepath.Join(p.out, "image"), p.input) {
		return &codedError{mountclient.ExitUsage, fmt.Errorf("-o %s lies in the directory %s that is packed, and would be in the next pack: write elsewhere", p.out, p.input)}
	}
	if p.format == "sparse" {
		return checkWritable(p.out, true)
	}
	return checkWritable(p.out, false)
}

// sameFile tells whether two paths lead to the same file. Directories are told apart by within.
func sameFile(a, b string) bool {
	sa, err := os.Stat(a)
	if err != nil || sa.IsDir() {
		return false
	}
	sb, err := os.Stat(b)
	return err == nil && os.SameFile(sa, sb)
}

// within tells whether path lies below the directory dir.
func within(path, dir string) bool {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return false
	}
	dir, err := realPath(dir)
	if err != nil {
		return false
	}
	parent, err := realPath(filepath.Dir(path))
	return err == nil && (parent == dir || strings.HasPrefix(parent, strings.TrimSuffix(dir, "/")+"/"))
}

func realPath(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// checkWritable tells why a file cannot be written to path: what is there, or the directory. With dirs, path is to be a
// directory that files are put into.
func checkWritable(path string, dirs bool) error {
	if path == "" {
		return nil
	}
	st, err := os.Stat(path)
	switch {
	case dirs && err == nil && st.IsDir():
		return checkDir(path, path)
	case dirs && err == nil:
		return fmt.Errorf("writing to %s: it exists and is not a directory", path)
	case err == nil && st.IsDir():
		return fmt.Errorf("writing %s: it is a directory, not a regular file", path)
	case err == nil && !st.Mode().IsRegular(): // as root, /dev/null would be replaced
		return fmt.Errorf("writing %s: it is not a regular file", path)
	}
	return checkDir(filepath.Dir(filepath.Clean(path)), path)
}

func checkDir(dir, path string) error {
	st, err := os.Stat(dir)
	switch {
	case err == nil && !st.IsDir():
		err = errors.New("not a directory")
	case err == nil:
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	default:
		err = errors.Unwrap(err)
	}
	if err != nil {
		return fmt.Errorf("writing %s: directory %s: %w", path, dir, err)
	}
	return nil
}
