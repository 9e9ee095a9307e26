package bench

import (
	"errors"
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
func (l Lie) damage(pack, to string) (err error) {
	in, err := os.Open(pack)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	raw := make([]byte, bpk.HeaderSize)
	if _, err := io.ReadFull(in, raw); err != nil {
		return fmt.Errorf("%s: %w", pack, err)
	}
	head, err := bpk.DecodeHeader(raw)
	if err != nil {
		return fmt.Errorf("%s: only a pack can be damaged: %w", pack, err)
	}
	off, end, step := head.Boot.PackOff, head.Boot.PackOff+head.Boot.Len, int64(bpk.PageSize)
	switch l {
	case LieAll:
		off, end = 0, info.Size()
	case LieOnce:
		off, step = off+head.Boot.Len/2, head.Boot.Len
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err == nil {
			err = os.Chtimes(to, info.ModTime(), info.ModTime())
		}
	}()
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	b := make([]byte, 1)
	for ; off < end; off += step {
		if _, err := in.ReadAt(b, off); err != nil {
			return err
		}
		b[0] ^= 0xff
		if _, err := out.WriteAt(b, off); err != nil {
			return err
		}
	}
	return nil
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
			if err := damageChunks(store, filepath.Join(root, filepath.Base(store))); err != nil {
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

// desyncIndex is how the names of desync's indexes end.
const desyncIndex = ".caibx"

// damageChunks writes a copy of a chunk store with the middle byte of each file wrong.
func damageChunks(store, to string) error {
	return filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(store, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(b) > 0 {
			b[len(b)/2] ^= 0xff
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}
