package mountclient

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// downloadStep is how much Download asks for at a time.
const downloadStep = 8 << 20

// Download writes the whole file at url to w. Faults of the network are retried for up to ten seconds
// without progress. progress may be nil.
func Download(ctx context.Context, url string, w io.WriterAt, log *slog.Logger, progress func(done, total int64)) error {
	src, err := newHTTPSource(url)
	if err != nil {
		return err
	}
	f := &fetcher{src: src, log: log, startTimeout: 10 * time.Second}
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
		size = src.pin.size()
		if progress != nil {
			progress(off, size)
		}
	}
	return nil
}
