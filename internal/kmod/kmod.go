// Package kmod finds kernel modules and what they need, in the form in which an initramfs loads them one by one.
//
// A directory lib/modules/VERSION, as depmod(8) leaves it, has the text files modules.dep ("path: path path ...", a module and all
// that it needs, the last to be loaded first) and modules.builtin (what the kernel has within). Modules may be compressed
// by xz, zstd or gzip; they are returned uncompressed, so that any kernel loads them.
//
// All is foreign input: sizes are bounded, and paths that lead out of the directory are refused by fs.FS.
package kmod

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Bounds on input, in bytes. The largest modules of Debian 12 are graphics drivers of 10 MB, modules.dep has 300 kB.
const (
	maxModule = 64 << 20
	maxList   = 16 << 20
)

// A Module is a kernel module.
type Module struct {
	Name string // of its file, without what names its compression: "erofs.ko"
	Data []byte // uncompressed
}

// Load returns the modules of names, and those they need, in the order of loading. dir is a lib/modules/VERSION. Modules that
// the kernel has within are left out; missing are those that it knows nothing of.
func Load(dir fs.FS, names []string) (modules []Module, missing []string, err error) {
	deps, err := readDeps(dir)
	if err != nil {
		return nil, nil, err
	}
	builtin, err := readBuiltin(dir)
	if err != nil {
		return nil, nil, err
	}
	loaded := map[string]bool{}
	for _, name := range names {
		needs, ok := deps[canonical(name)]
		if !ok && !builtin[canonical(name)] {
			missing = append(missing, name)
		}
		for i := len(needs) - 1; i >= 0; i-- {
			if loaded[needs[i]] {
				continue
			}
			loaded[needs[i]] = true
			data, err := readModule(dir, needs[i])
			if err != nil {
				return nil, nil, fmt.Errorf("module %s: %w", needs[i], err)
			}
			modules = append(modules, Module{fileName(needs[i]), data})
		}
	}
	return modules, missing, nil
}

// canonical is a module's name as the kernel compares it: of its file, with underscores.
func canonical(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// fileName drops the directory and the ending of a compressed file.
func fileName(file string) string {
	name := path.Base(file)
	if i := strings.Index(name, ".ko"); i >= 0 {
		name = name[:i+3]
	}
	return name
}

// readDeps returns for each module its own path and those of all that it needs, as modules.dep lists them.
func readDeps(dir fs.FS) (map[string][]string, error) {
	deps := map[string][]string{}
	err := eachLine(dir, "modules.dep", func(line string) {
		if file, needs, ok := strings.Cut(line, ":"); ok {
			deps[canonical(file)] = append([]string{file}, strings.Fields(needs)...)
		}
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("there is no modules.dep: want a directory such as /lib/modules/VERSION")
	}
	return deps, err
}

func readBuiltin(dir fs.FS) (map[string]bool, error) {
	builtin := map[string]bool{}
	err := eachLine(dir, "modules.builtin", func(line string) { builtin[canonical(line)] = true })
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // a kernel without any
	}
	return builtin, err
}

func eachLine(dir fs.FS, name string, do func(string)) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxList))
	s.Buffer(nil, 1<<20) // one line names all that a module needs
	for s.Scan() {
		do(s.Text())
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func readModule(dir fs.FS, file string) ([]byte, error) {
	f, err := dir.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch path.Ext(file) {
	case ".xz":
		r, err = xz.NewReader(f, xz.DefaultDictMax)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule)); err == nil {
			defer z.Close()
			r = z
		}
	case ".gz":
		r, err = gzip.NewReader(f)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("larger than %d MiB", maxModule>>20)
	}
	if !bytes.HasPrefix(data, []byte("\x7fELF")) {
		return nil, errors.New("this is no kernel module")
	}
	return data, nil
}
