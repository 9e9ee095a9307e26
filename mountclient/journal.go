package mountclient

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/cachefile"
)

// The files of a cache besides its pages: opened, locked, read, and written anew.

// lockJournal opens or makes a journal and locks it. What has the name must be what is locked: another client may have
// rewritten the journal, or removed the pack, since it was opened.
func lockJournal(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		if err := lockFile(f); err != nil {
			f.Close()
			return nil, err
		}
		opened, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cache: %w", err)
		}
		named, err := os.Stat(name)
		if err == nil && os.SameFile(opened, named) {
			return f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
}

// lockFile locks an open file, or returns errInUse.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errInUse
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}

// openChunks opens the file of chunk records for appending. Half a record at its end is cut off.
func openChunks(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		err = f.Truncate(st.Size() / cachefile.ChunkRecordSize * cachefile.ChunkRecordSize)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockImage opens the image file for a hand-over and locks it. The lock belongs to the open file: a loop device that is put
// on it keeps it locked for as long as it lives, and no other client changes the file meanwhile.
func lockImage(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readJournal returns the records of a journal that hold, sorted by page, how many whole ones it has, and how many of
// these are damaged. Half a record at the end is what a kill may leave.
func readJournal(r io.Reader, pages int64) (out []cachefile.Record, records, damaged int64, err error) {
	b, err := io.ReadAll(io.LimitReader(r, maxJournal))
	if err != nil {
		return nil, 0, 0, err
	}
	var takenOut map[bpk.Range]int // up to which record
	for ; len(b) >= cachefile.RecordSize; b = b[cachefile.RecordSize:] {
		records++
		rec, ok := cachefile.Decode(b, pages)
		switch {
		case !ok:
			damaged++
		case rec.Gone():
			if takenOut == nil {
				takenOut = make(map[bpk.Range]int)
			}
			takenOut[rec.Range] = len(out)
		default:
			out = append(out, rec)
		}
	}
	if takenOut != nil {
		kept := out[:0]
		for i, rec := range out {
			if i >= takenOut[rec.Range] {
				kept = append(kept, rec)
			}
		}
		out = kept
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Page < out[j].Page })
	return out, records, damaged, nil
}

// rewriteJournal replaces a journal that is mostly of records that do not hold any more by one of the given records, and
// returns that, locked. The name leads to one of the two, whole, at any moment, and to none that is not locked. With an
// error, the journal is what it was, and is returned.
func rewriteJournal(journal *os.File, records []cachefile.Record) (*os.File, error) {
	name := journal.Name()
	f, err := os.OpenFile(name+newFileSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return journal, err
	}
	var b []byte
	for _, r := range records {
		b = r.Append(b)
	}
	err = lockFile(f)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		f.Close()
		return journal, err
	}
	if dir, err := os.Open(filepath.Dir(name)); err == nil {
		_ = dir.Sync() // not every file system can
		dir.Close()
	}
	journal.Close()
	return f, nil
}
