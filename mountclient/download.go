package mountclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"bootprof/imagepack/bpk"
)

// Tuning of downloads.
const (
	downloadStep    = 8 << 20 // bytes asked for at a time
	downloadWorkers = 4       // chunk files at a time
)

// names of what Fetch puts into its directory.
const (
	fetchedPack  = "pack.bpk"
	fetchedImage = "image"
)

func newDownload(url, dir string, log *slog.Logger) (*fetcher, error) {
	return newFetcher(url, &network{log: log, startTimeout: 10 * time.Second, wholeDir: dir})
}

// Download writes the whole file at url to w. Faults of the network are retried for up to ten seconds
// without progress. progress may be nil.
func Download(ctx context.Context, url string, w io.WriterAt, log *slog.Logger, progress func(done, total int64)) error {
	f, err := newDownload(url, os.TempDir(), log)
	if err != nil {
		return err
	}
	defer f.close()
	if progress == nil {
		progress = func(done, total int64) {}
	}
	return f.download(ctx, w, progress)
}

func (f *fetcher) download(ctx context.Context, w io.WriterAt, progress func(done, total int64)) error {
	var werr error
	for off, size := int64(0), int64(1); off < size; {
		err := f.stream(ctx, off, downloadStep, func(b []byte) {
			if werr == nil {
				_, werr = w.WriteAt(b, off)
			}
			off += int64(len(b))
		})
		if err != nil {
			return err
		}
		if werr != nil {
			return fmt.Errorf("writing the download: %w", werr)
		}
		size = f.src.pin.size()
		progress(off, size)
	}
	return nil
}

// Fetch downloads what url names (a pack, a manifest, an image with a manifest beside it, the index of a split
// pack) into dir, with the image or all chunk files, and returns the path to hand to bpk.OpenFile. Bytes are not
// checked: damaged ones are for the reader to name. Chunk files that the server does not have are left out, too.
// Faults of the network are retried for up to ten seconds without progress. progress may be nil; total grows while
// more is found to be needed.
func Fetch(ctx context.Context, url, dir string, log *slog.Logger, progress func(done, total int64)) (path string, err error) {
	pack, err := newDownload(url, dir, log)
	if err != nil {
		return "", err
	}
	defer pack.close()
	if progress == nil {
		progress = func(done, total int64) {}
	}
	d := &download{dir: dir, progress: progress}
	head, err := d.header(ctx, pack)
	var image *fetcher
	var notPack *NotPackError
	if errors.As(err, &notPack) && notPack.start != nil && !isManifest(pack.src) {
		image = pack
		pack = pack.sibling(func(image string) string { return image + bpk.ManifestSuffix })
		head, err = d.header(ctx, pack)
		err = besideError(notPack, err)
	}
	if err != nil {
		return "", err
	}
	at := &places{pack: remote{fetch: pack}, image: remote{fetch: image}}
	if head != nil {
		if at, err = locate(head, at.pack, at.image); err != nil {
			return "", err
		}
		if image := at.image.fetch; image != nil {
			defer image.close()
		}
	}
	if at.image.fetch == nil {
		path = filepath.Join(dir, fetchedPack)
	} else {
		path = filepath.Join(dir, fetchedImage+bpk.ManifestSuffix)
		if err := d.file(ctx, at.image.fetch, filepath.Join(dir, fetchedImage)); err != nil {
			return "", err
		}
	}
	if err := d.file(ctx, pack, path); err != nil {
		return "", err
	}
	if head != nil && head.Features&bpk.FeatureSplit != 0 {
		err = d.chunks(ctx, at, path)
	}
	return path, err
}

// A download is what Fetch has done so far.
type download struct {
	dir      string
	progress func(done, total int64)

	mu    sync.Mutex
	done  int64
	total int64
}

// header fetches the header of a pack. It returns nil if that is damaged: whoever reads the download will say so.
func (d *download) header(ctx context.Context, f *fetcher) (*bpk.Header, error) {
	var raw []byte
	if err := f.stream(ctx, 0, bpk.HeaderSize, func(b []byte) { raw = append(raw, b...) }); err != nil {
		return nil, err
	}
	head, err := bpk.DecodeHeader(raw)
	if errors.Is(err, bpk.ErrNotPack) {
		e := &NotPackError{URL: f.src.shown, Why: fmt.Sprintf("it starts with %q", raw[:min(8, len(raw))])}
		if len(raw) == bpk.HeaderSize {
			e.start = raw
		}
		return nil, e
	}
	return head, nil
}

// file downloads a file.
func (d *download) file(ctx context.Context, f *fetcher, path string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	before, beforeTotal := d.done, d.total
	if err := f.download(ctx, out, func(done, total int64) {
		d.done, d.total = before+done, beforeTotal+total
		d.progress(d.done, d.total)
	}); err != nil {
		return err
	}
	return out.Close()
}

// chunks downloads the chunk files of a split pack whose index is at path.
func (d *download) chunks(ctx context.Context, at *places, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := bpk.Open(f, at.pack.fetch.src.pin.size())
	if err != nil {
		return nil // the reader of the download will say what is wrong
	}
	var todo []bpk.Block
	seen := make(map[[32]byte]bool)
	// An index that is damaged further on names fewer chunks; that, too, is for the reader to say.
	_ = p.Chunks(func(e bpk.Entry) error {
		if e.Codec != bpk.CodecZero && !seen[e.SHA256] {
			seen[e.SHA256] = true
			todo = append(todo, e.Block)
			d.total += e.Len
		}
		return nil
	})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan bpk.Block)
	var workers sync.WaitGroup
	for range downloadWorkers {
		workers.Go(func() {
			for b := range work {
				if err := d.chunk(ctx, at, b); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, b := range todo {
		select {
		case work <- b:
		case <-ctx.Done():
		}
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

// chunk downloads a chunk file, if the server has it.
func (d *download) chunk(ctx context.Context, at *places, b bpk.Block) error {
	raw, _, err := at.fetch(ctx, b, nil)
	var missing *HTTPError
	if errors.As(err, &missing) && missing.Code == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	path := filepath.Join(d.dir, bpk.ChunkName(b.SHA256))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done += b.Len
	d.progress(d.done, d.total)
	return nil
}
