package tree

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
	"golang.org/x/sys/unix"
)

// maxTarWindow is the largest window of a zstd tar and the largest dictionary of an xz tar, in bytes: what zstd -d takes
// without --long, and twice what xz -9 makes. A decoder allocates what the file asks for, however short it is.
const maxTarWindow = 128 << 20

// FromTarFile reads the tree in the tar archive at path, which may be compressed with gzip, zstd, xz or
// bzip2: then it is unpacked first, to a file without a name in the directory for temporary files. The
// contents of the tree are read from the archive or that file until the closer is closed, which also gives
// the space back. A *TarError does not name the archive: the caller does.
func FromTarFile(ctx context.Context, path string, opts TarOptions) (*Inode, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	root, r, err := fromTarFile(ctx, f, path, opts)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return root, r, nil
}

func fromTarFile(ctx context.Context, f *os.File, path string, opts TarOptions) (*Inode, io.Closer, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", path, err)
	}
	head := make([]byte, 16)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, nil, fmt.Errorf("reading %s: a tar must be a file, not a pipe: %w", path, err)
	}
	c := tarCompressionOf(head[:n])
	if c == nil {
		o := &openDiskFile{f: f, fd: int(f.Fd()), d: &diskFile{path, st.Size, st.Mtim}}
		root, err := FromTar(ctx, o, st.Size, opts)
		return root, o, err
	}
	tmp, size, err := unpack(ctx, f, path, c, opts.maxUnpacked)
	if err != nil {
		return nil, nil, err
	}
	root, err := FromTar(ctx, tmp, size, opts)
	if err != nil {
		tmp.Close()
		return nil, nil, err
	}
	f.Close()
	return root, tmp, nil
}

// A tarCompression is a way in which archives are compressed as a whole.
type tarCompression struct {
	name  string
	magic string
	open  func(io.Reader) (io.ReadCloser, error)
}

var tarCompressions = []tarCompression{
	{"gzip", "\x1f\x8b", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"zstd", "\x28\xb5\x2f\xfd", func(r io.Reader) (io.ReadCloser, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxTarWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}},
	{"xz", "\xfd7zXZ\x00", func(r io.Reader) (io.ReadCloser, error) {
		d, err := xz.NewReader(r, maxTarWindow) // each block of each stream asks for a dictionary of its own
		return io.NopCloser(d), err
	}},
	{"bzip2", "BZh", func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
}

// tarCompressionOf tells by a file's first bytes how it is compressed, nil if not at all.
func tarCompressionOf(head []byte) *tarCompression {
	for i, c := range tarCompressions {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return &tarCompressions[i]
		}
	}
	return nil
}

// unpack decompresses r into a temporary file that has no name any more: most bytes of it, or with 0 all.
func unpack(ctx context.Context, r io.Reader, path string, c *tarCompression, most int64) (*os.File, int64, error) {
	d, err := c.open(bufio.NewReaderSize(r, 1<<20))
	if err != nil {
		return nil, 0, fmt.Errorf("unpacking %s with %s: %w", path, c.name, windowError(err))
	}
	defer d.Close()
	tmp, err := os.CreateTemp("", "bootprof-tar-")
	if err != nil {
		return nil, 0, fmt.Errorf("unpacking %s: %w", path, err)
	}
	if err := os.Remove(tmp.Name()); err != nil {
		tmp.Close()
		return nil, 0, fmt.Errorf("unpacking %s: %w", path, err)
	}
	in := io.Reader(ctxReader{ctx, d})
	if most > 0 {
		in = io.LimitReader(in, most)
	}
	size, err := io.CopyBuffer(struct{ io.Writer }{tmp}, in, make([]byte, 1<<20))
	if err != nil {
		tmp.Close()
		return nil, 0, fmt.Errorf("unpacking %s with %s to a temporary file in %s: %w", path, c.name, os.TempDir(), windowError(err))
	}
	return tmp, size, nil
}

// windowError says what to do about an archive that needs more memory than maxTarWindow.
func windowError(err error) error {
	if errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return fmt.Errorf("it needs a dictionary of more than %d MiB: compress it anew with a smaller one, or unpack it first", maxTarWindow>>20)
	}
	return err
}

// ctxReader ends reading when ctx is done.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
