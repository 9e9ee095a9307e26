package faults

import (
	"os"
	"path/filepath"

	"bootprof/bench"
)

const (
	intact       = 256 << 10 // what a large file keeps at its begin, so that clients come as far as to read
	corruptEvery = 64 << 10
	largeBytes   = 1 << 20
)

// keptWhole are files without which nothing would start.
var keptWhole = map[string]bool{".caibx": true}

// corruptAll makes copies with wrong bytes in dir and returns their names.
func corruptAll(files []string, dir string) (copies []string, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	for _, file := range files {
		wrong := wrongBytes
		if keptWhole[filepath.Ext(file)] {
			wrong = func(int64) []int64 { return nil }
		}
		to := filepath.Join(dir, filepath.Base(file))
		if err := bench.DamagedCopy(file, to, wrong); err != nil {
			return nil, err
		}
		copies = append(copies, to)
	}
	return copies, nil
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
