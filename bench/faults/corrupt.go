package faults

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	intact       = 256 << 10 // what a large file keeps at its begin, so that clients come as far as to read
	corruptEvery = 64 << 10
	largeBytes   = 1 << 20
)

// keptWhole are files without which nothing would start.
var keptWhole = map[string]bool{".caibx": true}

// corruptAll makes copies with wrong bytes in dir and returns their names. Lengths and times are kept, so that a server says the same
// of them.
func corruptAll(files []string, dir string) (copies []string, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	for _, file := range files {
		to := filepath.Join(dir, filepath.Base(file))
		err := filepath.WalkDir(file, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(file, path)
			if err != nil {
				return err
			}
			if d.IsDir() {
				return os.Mkdir(filepath.Join(to, rel), 0o755)
			}
			return corruptFile(path, filepath.Join(to, rel))
		})
		if err != nil {
			return nil, err
		}
		copies = append(copies, to)
	}
	return copies, nil
}

func corruptFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if !keptWhole[filepath.Ext(from)] {
		for _, off := range wrongBytes(info.Size()) {
			b := make([]byte, 1)
			if _, err := out.ReadAt(b, off); err != nil {
				return err
			}
			b[0] ^= 0x55
			if _, err := out.WriteAt(b, off); err != nil {
				return err
			}
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// wrongBytes are the places to corrupt in a file: one in each 64 KiB of a large one, the middle of a small one.
func wrongBytes(size int64) (at []int64) {
	if size < largeBytes {
		if size == 0 {
			return nil
		}
		return []int64{size / 2}
	}
	for off := int64(intact) + corruptEvery/2; off < size; off += corruptEvery {
		at = append(at, off)
	}
	return at
}
