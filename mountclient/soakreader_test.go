package mountclient

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Readers of a soak, and the most bytes that one read asks for.
const (
	soakReaders = 4
	soakRead    = 256 << 10
)

// A soakFile is a file as it was before it was packed, and as it is mounted.
type soakFile struct {
	path    string
	want    []byte
	mounted *os.File
}

// soakMain reads parts of a mounted file, or of the files of a mounted tree, for a time, and compares them with the
// source. It ends at the first byte that is wrong. What it did is printed.
func soakMain(source, mounted, duration string) int {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return soakFailed(err)
	}
	files, err := soakFiles(source, mounted)
	if err != nil {
		return soakFailed(err)
	}
	var mu sync.Mutex
	var all soak
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range soakReaders {
		wg.Go(func() {
			buf := make([]byte, soakRead)
			for time.Now().Before(end) {
				f := files[rand.IntN(len(files))]
				off := rand.IntN(len(f.want))
				n := min(1+rand.IntN(soakRead), len(f.want)-off)
				// What the kernel holds would be read without us.
				_ = unix.Fadvise(int(f.mounted.Fd()), 0, 0, unix.FADV_DONTNEED)
				begin := time.Now()
				got, err := f.mounted.ReadAt(buf[:n], int64(off))
				took := time.Since(begin)
				if err != nil || !bytes.Equal(buf[:got], f.want[off:off+n]) {
					os.Exit(soakFailed(fmt.Errorf("%s [%d +%d): %d bytes, %v, equal: %t", f.path, off, n, got, err, bytes.Equal(buf[:got], f.want[off:off+n]))))
				}
				mu.Lock()
				all.Reads++
				all.Bytes += int64(n)
				all.Longest = max(all.Longest, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(&all); err != nil {
		return soakFailed(err)
	}
	return 0
}

func soakFailed(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// soakFiles opens the regular files below mounted that are not empty, and reads those of source.
func soakFiles(source, mounted string) (files []soakFile, err error) {
	err = filepath.WalkDir(source, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil || len(want) == 0 {
			return err
		}
		f, err := os.Open(filepath.Join(mounted, rel))
		if err != nil {
			return err
		}
		files = append(files, soakFile{rel, want, f})
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("nothing to read in %s", source)
	}
	return files, err
}
