package cachefile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"

	"bootprof/imagepack/bpk"
	"bootprof/internal/atomicfile"
)

// Write makes the cache of a pack in dir, which is made if it is missing: the pages of ranges of an image of
// imageSize bytes. read fills dst with the image's bytes from imageOff on; it is called in the order of ranges.
// Pages of zeros stay holes. The files appear whole, the journal last, and replace older ones.
func Write(ctx context.Context, dir string, digest [32]byte, imageSize int64, ranges []bpk.Range, read func(dst []byte, imageOff int64) error) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	imageName, journalName := Names(dir, digest)
	image, err := atomicfile.Create(imageName, 0o600)
	if err != nil {
		return err
	}
	defer image.Close()
	journal, err := atomicfile.Create(journalName, 0o600)
	if err != nil {
		return err
	}
	defer journal.Close()
	if err := image.Truncate(imageSize); err != nil {
		return fmt.Errorf("making %s %d bytes long: %w", imageName, imageSize, err)
	}
	records := bufio.NewWriter(journal)
	buf, zeros := make([]byte, RecordPages*bpk.PageSize), make([]byte, bpk.PageSize)
	for _, r := range ranges {
		if r.Page < 0 || r.Pages < 0 || r.Page > imageSize/bpk.PageSize-r.Pages {
			return fmt.Errorf("BUG: pages [%d +%d) of an image of %d", r.Page, r.Pages, imageSize/bpk.PageSize)
		}
		for r.Pages > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := bpk.Range{Page: r.Page, Pages: min(r.Pages, RecordPages)}
			b := buf[:part.Pages*bpk.PageSize]
			if err := read(b, part.Page*bpk.PageSize); err != nil {
				return err
			}
			if err := writePages(image, b, part.Page*bpk.PageSize, zeros); err != nil {
				return err
			}
			if _, err := records.Write(Record{part, sha256.Sum256(b)}.Append(nil)); err != nil {
				return err
			}
			r.Page, r.Pages = r.Page+part.Pages, r.Pages-part.Pages
		}
	}
	if err := records.Flush(); err != nil {
		return err
	}
	if err := image.Commit(); err != nil {
		return err
	}
	return journal.Commit()
}

// writePages writes the pages in b that are not zeros, those side by side at once.
func writePages(f *atomicfile.File, b []byte, off int64, zeros []byte) error {
	for len(b) > 0 {
		n := 0
		for n < len(b) && !bytes.Equal(b[n:n+bpk.PageSize], zeros) {
			n += bpk.PageSize
		}
		if n > 0 {
			if _, err := f.WriteAt(b[:n], off); err != nil {
				return err
			}
		} else {
			n = bpk.PageSize
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}
