package imagepack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"bootprof/imagepack/bpk"
	"bootprof/internal/atomicfile"
)

// SplitStats tell what Split wrote, in bytes.
type SplitStats struct {
	IndexSize int64
	Chunks    int64 // files that the index names
	New       int64 // those that were not there before
	NewBytes  int64
	Digest    [32]byte // of the index: another one than the pack's
}

// Split writes the pack p in the split form: an index at path, and beside it the folder "chunks" with a file for
// each chunk of the body, named by its digest. Chunks that are there already, of another image or an older build,
// are left alone if they are whole. The index appears last: whatever happens before, older ones stay usable. progress
// may be nil.
func Split(ctx context.Context, p *bpk.Pack, path string, progress func(done, total int64)) (*SplitStats, error) {
	return SplitSigned(ctx, p, path, nil, progress)
}

// SplitSigned is Split that also writes the signature of the index, which signer makes, unless that is nil.
func SplitSigned(ctx context.Context, p *bpk.Pack, path string, signer Signer, progress func(done, total int64)) (*SplitStats, error) {
	if p.Header.Outside() {
		return nil, errors.New("its chunks lie in other files already")
	}
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &splitter{dir: filepath.Dir(path)}
	var entries []bpk.Entry
	err = p.Chunks(func(e bpk.Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if progress != nil {
			progress((e.Page+e.Pages)*bpk.PageSize, p.Header.ImageSize)
		}
		if e.Codec != bpk.CodecZero {
			stored, err := p.Stored("body chunk", e.Block)
			if err != nil {
				return err
			}
			if err := bpk.CheckBlock("body chunk", e.Block, stored); err != nil {
				return err
			}
			if err := s.add(e.SHA256, stored); err != nil {
				return err
			}
		}
		// A packOff in the old pack means nothing here, and may lie outside the index, even one of codec 0.
		e.PackOff = 0
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.sync(); err != nil {
		return nil, err
	}
	if err := writeSplitIndex(f, p, entries, &s.stats); err != nil {
		return nil, err
	}
	return &s.stats, commit(signer, s.stats.Digest, f, path, s.stats.IndexSize)
}

// writeSplitIndex copies header, boot index, boot zone and info of p, each checked, and writes the nodes anew: p may
// be of another writer, whose tree has another shape.
func writeSplitIndex(f io.WriterAt, p *bpk.Pack, entries []bpk.Entry, st *SplitStats) error {
	w := &packWriter{f: f, head: *p.Header}
	h := &w.head
	// What a later minor version added is not carried over, so the index does not claim it.
	h.Major, h.Minor, h.Features = bpk.Major, bpk.Minor, bpk.FeatureSplit
	h.PackSize, h.Info = 0, bpk.Block{}
	if err := w.copyBlock(p, "boot index", h.BootIndex); err != nil {
		return err
	}
	for i := range p.Boot.Chunks {
		if err := w.copyBlock(p, fmt.Sprintf("boot chunk %d", i), p.Boot.Chunks[i].Block); err != nil {
			return err
		}
	}
	h.BodyRoot = bpk.Block{PackOff: h.Boot.PackOff + h.Boot.Len, Len: bpk.RootLen(len(entries))}
	info, err := p.Info()
	if err != nil {
		return err
	}
	if err := w.writeIndexes(entries, info, h.BodyRoot.PackOff+h.BodyRoot.Len); err != nil {
		return err
	}
	st.IndexSize, st.Digest = w.stats.PackSize, w.stats.Digest
	return nil
}

// copyBlock copies a block of p to the same place.
func (w *packWriter) copyBlock(p *bpk.Pack, what string, b bpk.Block) error {
	stored, err := p.Stored(what, b)
	if err != nil {
		return err
	}
	if err := bpk.CheckBlock(what, b, stored); err != nil {
		return err
	}
	return w.put(b.PackOff, stored)
}

// splitter writes chunk files into the folder of a split pack.
type splitter struct {
	dir   string
	seen  map[[32]byte]bool
	stats SplitStats
}

func (s *splitter) add(sum [32]byte, stored []byte) error {
	if s.seen[sum] {
		return nil
	}
	if s.seen == nil {
		s.seen = make(map[[32]byte]bool)
	}
	s.seen[sum] = true
	s.stats.Chunks++
	path := filepath.Join(s.dir, bpk.ChunkName(sum))
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Size() == int64(len(stored)) {
		if old, err := os.ReadFile(path); err == nil && sha256.Sum256(old) == sum {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Not synced one by one: sync does it for all before the index names them.
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = temp.Write(stored)
	err = errors.Join(err, temp.Chmod(0o644), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing a chunk: %w", err), os.Remove(temp.Name()))
	}
	s.stats.New++
	s.stats.NewBytes += int64(len(stored))
	return nil
}

// sync writes all chunk files to the disk.
func (s *splitter) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncing the file system of %s: %w", s.dir, err)
	}
	return nil
}
