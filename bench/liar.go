package bench

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"bootprof/bench/link"
	"bootprof/imagepack/bpk"
)

// A Mirror is a web server behind a link of its own.
type Mirror struct {
	Link link.Params
	Lie  Lie
}

// A Lie is how a mirror's copy of a pack is damaged. Its size and its date, and so its ETag, are those of the pack.
type Lie string

// The kinds of damage, from a file of other bytes to a bit that a disk has lost.
const (
	LieAll  Lie = "all"  // a byte of each page of the file
	LieZone Lie = "zone" // a byte of each page of the boot zone; header and indexes are right. Of desync's chunks: a byte of each
	LieOnce Lie = "once" // one byte, in the middle of the boot zone
)

// ParseMirror reads a link, as link.Parse does, and a Lie behind a colon, if any.
func ParseMirror(s string) (m Mirror, err error) {
	params, lie, lies := strings.Cut(s, ":")
	m.Lie = Lie(lie)
	switch m.Lie {
	case LieAll, LieZone, LieOnce:
	default:
		if lies {
			return m, fmt.Errorf("damage %q: want %s, %s or %s", lie, LieAll, LieZone, LieOnce)
		}
	}
	m.Link, err = link.Parse(params)
	return m, err
}

// String is what ParseMirror reads.
func (m Mirror) String() string {
	if m.Lie == "" {
		return m.Link.String()
	}
	return m.Link.String() + ":" + string(m.Lie)
}

// damage writes a damaged copy of a pack.
func (l Lie) damage(pack, to string) error {
	in, err := os.Open(pack)
	if err != nil {
		return err
	}
	defer in.Close()
	raw := make([]byte, bpk.HeaderSize)
	if _, err := io.ReadFull(in, raw); err != nil {
		return fmt.Errorf("%s: %w", pack, err)
	}
	head, err := bpk.DecodeHeader(raw)
	if err != nil {
		return fmt.Errorf("%s: only a pack can be damaged: %w", pack, err)
	}
	return DamagedCopy(pack, to, func(size int64) (at []int64) {
		off, end, step := head.Boot.PackOff, head.Boot.PackOff+head.Boot.Len, int64(bpk.PageSize)
		switch l {
		case LieAll:
			off, end = 0, size
		case LieOnce:
			off, step = off+head.Boot.Len/2, head.Boot.Len
		}
		for ; off < end; off += step {
			at = append(at, off)
		}
		return at
	})
}

// DamagedCopy copies a file, or all files of a directory, with wrong bytes where wrong says for a file's size. Sizes and times are
// kept, so that a server says the same of them.
func DamagedCopy(from, to string, wrong func(size int64) []int64) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(to, rel), 0o755)
		}
		return damageFile(path, filepath.Join(to, rel), wrong)
	})
}

func damageFile(from, to string, wrong func(size int64) []int64) error {
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
	b := make([]byte, 1)
	for _, off := range wrong(info.Size()) {
		if _, err := in.ReadAt(b, off); err != nil {
			return err
		}
		b[0] ^= 0x55
		if _, err := out.WriteAt(b, off); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// lyingDir makes a directory for a web server that has the way's files, the first of them damaged; of desync's, the chunks.
func lyingDir(root string, w Way, lie Lie) error {
	// Or the boot would be slowed by copies on their way to the disk.
	defer unix.Sync()
	if filepath.Ext(w.Served) == desyncIndex {
		if lie != LieZone {
			return fmt.Errorf("damage %s of %s: of chunks there is %s only", lie, w.Served, LieZone)
		}
		if err := linkFiles(root, []string{w.Served}); err != nil {
			return err
		}
		for _, store := range w.Beside {
			if err := DamagedCopy(store, filepath.Join(root, filepath.Base(store)), middle); err != nil {
				return err
			}
		}
		return nil
	}
	if err := linkFiles(root, w.Beside); err != nil {
		return err
	}
	return lie.damage(w.Served, filepath.Join(root, filepath.Base(w.Served)))
}

// middle is the middle byte of a file.
func middle(size int64) []int64 {
	if size == 0 {
		return nil
	}
	return []int64{size / 2}
}

// desyncIndex is how the names of desync's indexes end.
const desyncIndex = ".caibx"
