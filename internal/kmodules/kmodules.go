// Package kmodules finds the kernel modules that something needs in a directory of modules (/lib/modules/VERSION), with
// those that they depend on, in an order in which they can be loaded.
//
// It reads modules.dep, modules.builtin and modules.softdep as depmod(8) writes them. Names are compared as the kernel does,
// with "_" for "-".
package kmodules

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// A MissingError means that a module is neither there nor built in.
type MissingError struct{ Name string }

func (e *MissingError) Error() string { return fmt.Sprintf("the kernel has no module %s", e.Name) }

// ErrDamaged means that a compressed module cannot be read.
var ErrDamaged = errors.New("a damaged kernel module")

// An Index is what a directory of modules holds. It is read-only and safe for concurrent use.
type Index struct {
	paths   map[string]string   // name of a module: its file below the directory
	deps    map[string][]string // file: files of the modules that it uses
	builtin map[string]bool
	pre     map[string][]string // name: names to load before it, if they are there (softdep)
}

// Parse reads an index. builtin and softdep may be empty.
func Parse(dep, builtin, softdep []byte) (*Index, error) {
	x := &Index{map[string]string{}, map[string][]string{}, map[string]bool{}, map[string][]string{}}
	for line := range strings.Lines(string(dep)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		file, rest, found := strings.Cut(line, ":")
		if !found {
			return nil, fmt.Errorf("modules.dep: %q has no colon", line)
		}
		x.paths[Name(file)] = file
		x.deps[file] = strings.Fields(rest)
	}
	for line := range strings.Lines(string(builtin)) {
		if line = strings.TrimSpace(line); line != "" {
			x.builtin[Name(line)] = true
		}
	}
	for line := range strings.Lines(string(softdep)) { // "softdep NAME pre: NAMES post: NAMES"
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		pre := false
		for _, word := range f[2:] {
			if strings.HasSuffix(word, ":") {
				pre = word == "pre:"
			} else if pre {
				name := Name(f[1])
				x.pre[name] = append(x.pre[name], Name(word))
			}
		}
	}
	return x, nil
}

// Name is the name of the module in a file.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// Has tells whether there is a module of this name, built in or not.
func (x *Index) Has(name string) bool {
	name = Name(name)
	return x.builtin[name] || x.paths[name] != ""
}

// Resolve returns the files of the modules with these names and of all that they need, each after those that it needs. What
// is built in has none. The error is a *MissingError.
func (x *Index) Resolve(names ...string) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	var load func(name string) error
	load = func(name string) error {
		name = Name(name)
		file := x.paths[name]
		switch {
		case seen[name] || x.builtin[name]:
			return nil
		case file == "":
			return &MissingError{name}
		}
		seen[name] = true
		for _, soft := range x.pre[name] {
			if x.paths[soft] != "" { // else an alias, or not there: the kernel does without it, too
				if err := load(soft); err != nil {
					return err
				}
			}
		}
		// A module that is used comes after those that it uses itself: they are in its own line.
		for _, dep := range x.deps[file] {
			if err := load(Name(dep)); err != nil {
				return fmt.Errorf("%w, which %s uses", err, name)
			}
		}
		out = append(out, file)
		return nil
	}
	for _, name := range names {
		if err := load(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Decompress returns a module as the kernel takes it. file tells by its end how it is compressed.
func Decompress(file string, b []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch path.Ext(file) {
	case ".ko":
		return b, nil
	case ".xz":
		r, err = xz.NewReader(bytes.NewReader(b))
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(b))
	default:
		return nil, fmt.Errorf("%s: compressed in a way that is not known", file)
	}
	if err == nil {
		b, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, file, err)
	}
	return b, nil
}
