package imagepack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/container"
	"bootprof/imagepack/erofs"
	"bootprof/imagepack/ext4"
	"bootprof/imagepack/imagemap"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/squashfs/relayout"
	"bootprof/internal/fsmagic"
)

// Forms of the image inside a pack, as `bootprof pack --fs` names them.
const (
	FSErofs    = "erofs"    // the input's tree, laid out anew as an uncompressed EROFS
	FSSquashfs = "squashfs" // the same as a squashfs of uncompressed 4-KiB blocks, for kernels without EROFS
	FSKeep     = "keep"     // the input itself, byte for byte, as the image
)

// Open opens the input at path and makes the image of a pack out of it: OpenInput and Input.Image in one. Closing the
// image closes the input.
func Open(ctx context.Context, path, fs string) (Image, error) {
	in, err := OpenInput(ctx, path, "")
	if err != nil {
		return nil, err
	}
	img, err := in.Image(ctx, fs)
	if err != nil {
		in.Close()
		return nil, err
	}
	return &ownedImage{img, in}, nil
}

// ownedImage closes its input with itself.
type ownedImage struct {
	Image
	in *Input
}

func (o *ownedImage) Close() error { return errors.Join(o.Image.Close(), o.in.Close()) }

// Image makes the image of a pack out of the input. fs is one of the FS constants, or "": then a directory, a tar, a
// squashfs and a compressed EROFS are laid out anew as EROFS, the image of a pack and any other are kept. FSKeep of an ISO
// or a disk is the whole of it. The input must not be closed before the image.
func (in *Input) Image(ctx context.Context, fs string) (Image, error) {
	img, err := in.image(ctx, fs)
	return img, in.wrap(ctx, err)
}

func (in *Input) image(ctx context.Context, fs string) (Image, error) {
	switch fs {
	case "":
		if in.choice != nil {
			return nil, in.choice
		}
		if fs = FSKeep; in.dir || in.tar || in.pack == nil && (in.kind == "squashfs" || in.kind == "erofs" && Coarse(in.r, in.size, in.kind)) {
			fs = FSErofs
		}
		if fs == FSKeep {
			if err := in.mustBeClean(); err != nil {
				return nil, err
			}
			return openRaw(in.r, in.size, in.kind)
		}
	case FSErofs, FSSquashfs:
	case FSKeep:
		switch {
		case in.dir:
			return nil, errors.New("--fs keep wants an image file, this is a directory")
		case in.pack != nil:
			return openRaw(in.r, in.size, in.kind)
		}
		return openRaw(in.whole, in.length, kindOf(in.whole, in.length))
	default:
		return nil, fmt.Errorf("--fs %s: want %s, %s or %s", fs, FSErofs, FSSquashfs, FSKeep)
	}
	root, err := in.Tree(ctx)
	if err != nil {
		return nil, err
	}
	if fs == FSErofs {
		img, err := erofs.Plan(root, erofs.Options{})
		if err != nil {
			return nil, err
		}
		return treeImage{img}, nil
	}
	f, err := tempFile()
	if err != nil {
		return nil, err
	}
	l, err := relayout.Write(ctx, root, f, relayout.Options{BlockSize: bpk.PageSize, Compressor: "none"})
	if err != nil {
		f.Close()
		return nil, err
	}
	lost := Losses{Xattrs: l.DroppedXattrs, Times: l.ClampedTimes}
	return &rawImage{r: f, size: l.Size, kind: "squashfs", segs: l.Segments, closer: f, lost: lost}, nil
}

// mustBeClean refuses an ext4 that no kernel mounts read-only from a device that cannot be written.
func (in *Input) mustBeClean() error {
	if in.kind != "ext4" || in.pack != nil {
		return nil
	}
	if e, err := ext4.Open(in.r, in.size); err == nil && e.Info().NeedsRecovery {
		return errors.New("ext4 with a journal to replay, which cannot be mounted from a pack: run e2fsck -f on the image, or mount and unmount it once")
	}
	return nil
}

// Losses count what of a tree does not fit in the image made of it. Only a squashfs loses anything.
type Losses struct {
	Xattrs int // attributes left out: POSIX ACLs and others of "system."
	Times  int // of modification, before 1970 or after 2106: set to the nearest that there is
}

// LossesOf returns what was lost when img was made by Input.Image.
func LossesOf(img Image) Losses {
	if r, ok := img.(*rawImage); ok {
		return r.lost
	}
	return Losses{}
}

// kindOf names what an image is, containers included.
func kindOf(r io.ReaderAt, size int64) string {
	if kind := container.Detect(r, size); kind != "" {
		return kind
	}
	return fsmagic.Detect(io.NewSectionReader(r, 0, size))
}

// treeImage is an image made of a tree.
type treeImage struct{ *erofs.Image }

func (treeImage) Filesystem() string { return "erofs" }

// rawImage is an input that is the image itself, padded with zeros to whole pages.
type rawImage struct {
	r      io.ReaderAt
	size   int64 // of r
	kind   string
	segs   []imagemap.Segment
	closer io.Closer // may be nil
	lost   Losses
}

func openRaw(r io.ReaderAt, size int64, kind string) (Image, error) {
	m, err := MapOf(r, size, kind)
	if err != nil {
		return nil, err
	}
	out := &rawImage{r: r, size: size, kind: kind}
	if m != nil {
		out.segs = m.Segments()
	}
	if !fsmagic.Mountable(kind) {
		out.kind = ""
	}
	return out, nil
}

func (r *rawImage) Size() int64                  { return (r.size + bpk.PageSize - 1) &^ (bpk.PageSize - 1) }
func (r *rawImage) Segments() []imagemap.Segment { return r.segs }
func (r *rawImage) Filesystem() string           { return r.kind }

func (r *rawImage) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}

func (r *rawImage) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	if end := off + int64(n); err == io.EOF && end >= r.size && end < r.Size() {
		pad := min(int64(len(p)-n), r.Size()-end)
		clear(p[n : int64(n)+pad])
		if n += int(pad); n == len(p) {
			err = nil
		}
	}
	return n, err
}

// serialReader makes an open content safe for concurrent use.
type serialReader struct {
	mu sync.Mutex
	r  io.ReaderAt
}

func (s *serialReader) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.ReadAt(p, off)
}

// MapOf returns the map of an image whose file system is of the given kind (fsmagic), or nil if bootprof does
// not know where that file system keeps its files. Of a disk it is that of the partition with the root.
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
	case "ext4":
		e, err := ext4.Open(r, size)
		if err == nil {
			var m *imagemap.Map
			if m, err = e.Map(); err == nil {
				return m, nil
			}
		}
		var unsupported *ext4.UnsupportedError
		if errors.As(err, &unsupported) {
			return nil, nil
		}
		return nil, err
	case container.ISO9660:
		return container.ISOMap(r, size)
	case container.GPT, container.MBR:
		_, parts, err := container.Parts(r, size)
		if err != nil {
			return nil, err
		}
		part, err := container.Choose(parts, "")
		if err != nil {
			return nil, nil // nobody says which one the paths of a boot belong to
		}
		inner, innerSize := part.Open(r)
		m, err := MapOf(inner, innerSize, part.Kind)
		if m == nil || err != nil {
			return nil, err
		}
		return imagemap.New(part.Shift(m.Segments())), nil
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
