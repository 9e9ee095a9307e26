package imagepack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/erofs"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree"
	"bootprof/internal/fsmagic"
)

// Forms of the image inside a pack, as `bootprof pack --fs` names them.
const (
	FSErofs = "erofs" // the input's tree, laid out anew as an uncompressed EROFS
	FSKeep  = "keep"  // the input itself, byte for byte, as the image
)

// An InputError tells that the input cannot be packed.
type InputError struct {
	Path string
	Err  error
}

func (e *InputError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }
func (e *InputError) Unwrap() error { return e.Err }

// Open makes the image of a pack out of the input at path. fs is FSErofs, FSKeep, or "" for FSErofs where the
// input has a tree (a directory, a tar, a squashfs) and FSKeep for any other raw image. The input must not
// change until the image is closed.
func Open(ctx context.Context, path, fs string) (Image, error) {
	img, err := open(ctx, path, fs)
	if err != nil && ctx.Err() == nil {
		return nil, &InputError{path, err}
	}
	return img, err
}

func open(ctx context.Context, path, fs string) (Image, error) {
	if fs != "" && fs != FSErofs && fs != FSKeep {
		return nil, fmt.Errorf("--fs %s: want %s or %s", fs, FSErofs, FSKeep)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if st.IsDir() {
		if fs == FSKeep {
			return nil, errors.New("--fs keep wants an image file, this is a directory")
		}
		root, err := tree.FromDir(ctx, path, tree.DirOptions{})
		if err != nil {
			return nil, err
		}
		return planTree(root)
	}
	if t := st.Mode().Type(); t != 0 && t != os.ModeDevice {
		return nil, errors.New("neither a directory, a file nor a block device") // opening a FIFO would wait
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	size, err := f.Seek(0, io.SeekEnd) // block devices have a size, too
	if err != nil {
		f.Close()
		return nil, err
	}
	img, err := openFile(ctx, f, path, size, fs)
	if err != nil {
		f.Close()
	}
	return img, err
}

// openFile makes the image of an input file, which it takes over if there is no error.
func openFile(ctx context.Context, f *os.File, path string, size int64, fs string) (Image, error) {
	if size == 0 {
		return nil, errors.New("the file is empty")
	}
	head := make([]byte, min(size, bpk.HeaderSize))
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, err
	}
	kind := fsmagic.Detect(io.NewSectionReader(f, 0, size))
	switch {
	case bpk.IsPack(head):
		return nil, errors.New("this is a pack already; pack its input again, with --profile")
	case fs == FSKeep:
		return openRaw(f, size, kind)
	case squashfs.Probe(f):
		r, err := squashfs.Open(f, size)
		if err != nil {
			return nil, err
		}
		root, err := r.Tree()
		if err != nil {
			return nil, err
		}
		return planTree(root, f)
	case kind == "" && isTar(head):
		root, closer, err := tree.FromTarFile(ctx, path, tree.TarOptions{})
		if err != nil {
			return nil, err
		}
		img, err := planTree(root, closer, f)
		if err != nil {
			closer.Close()
		}
		return img, err
	case fs == FSErofs:
		if kind == "" {
			kind = "unknown"
		}
		return nil, fmt.Errorf("cannot read the files of an image of %s type; --fs keep packs it as it is", kind)
	}
	return openRaw(f, size, kind)
}

// isTar tells whether a file starts as a tar does, or as a compressed file, which a tar is taken to be in.
func isTar(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00", "BZh"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) >= 263 && string(head[257:262]) == "ustar"
}

// treeImage is an image made of a tree.
type treeImage struct {
	*erofs.Image
	inputs []io.Closer
}

func planTree(root *tree.Inode, inputs ...io.Closer) (Image, error) {
	img, err := erofs.Plan(root, erofs.Options{})
	if err != nil {
		return nil, err
	}
	return &treeImage{img, inputs}, nil
}

func (t *treeImage) Filesystem() string { return "erofs" }

func (t *treeImage) Close() error {
	errs := []error{t.Image.Close()}
	for _, c := range t.inputs {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// rawImage is an input file that is the image itself, padded with zeros to whole pages.
type rawImage struct {
	f    *os.File
	size int64 // of the file
	kind string
	segs []imagemap.Segment
}

func openRaw(f *os.File, size int64, kind string) (Image, error) {
	m, err := MapOf(f, size, kind)
	if err != nil {
		return nil, err
	}
	r := &rawImage{f: f, size: size, kind: kind}
	if m != nil {
		r.segs = m.Segments()
	}
	if !fsmagic.Mountable(kind) {
		r.kind = ""
	}
	return r, nil
}

func (r *rawImage) Size() int64                  { return (r.size + bpk.PageSize - 1) &^ (bpk.PageSize - 1) }
func (r *rawImage) Segments() []imagemap.Segment { return r.segs }
func (r *rawImage) Filesystem() string           { return r.kind }
func (r *rawImage) Close() error                 { return r.f.Close() }

func (r *rawImage) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.f.ReadAt(p, off)
	if end := off + int64(n); err == io.EOF && end >= r.size && end < r.Size() {
		pad := min(int64(len(p)-n), r.Size()-end)
		clear(p[n : int64(n)+pad])
		if n += int(pad); n == len(p) {
			err = nil
		}
	}
	return n, err
}

// MapOf returns the map of an image whose file system is of the given kind (fsmagic), or nil if bootprof does
// not know where that file system keeps its files.
func MapOf(r io.ReaderAt, size int64, kind string) (*imagemap.Map, error) {
	switch kind {
	case "erofs":
		m, err := erofs.ReadMap(r, size)
		var unsupported *erofs.UnsupportedError
		if errors.Is(err, erofs.ErrCompressed) || errors.As(err, &unsupported) {
			err = nil // the map holds what is plain
		}
		return m, err
	case "squashfs":
		s, err := squashfs.Open(r, size)
		var unsupported *squashfs.UnsupportedError
		if errors.As(err, &unsupported) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return s.Map(), nil
	}
	return nil, nil
}

// Coarse tells whether reads of an image of this kind touch whole compressed blocks.
func Coarse(r io.ReaderAt, size int64, kind string) bool {
	switch kind {
	case "erofs":
		_, err := erofs.ReadMap(r, size)
		return errors.Is(err, erofs.ErrCompressed)
	case "squashfs":
		s, err := squashfs.Open(r, size)
		return err != nil || s.Info().Coarse()
	}
	return false
}
