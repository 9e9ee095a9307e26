package bpk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ManifestSuffix follows the name of an image in the name of its manifest: "root.squashfs.bpm".
const ManifestSuffix = ".bpm"

// Outside tells whether chunks lie in other files than the pack: FeatureBeside or FeatureSplit.
func (h *Header) Outside() bool { return h.Features&(FeatureBeside|FeatureSplit) != 0 }

// InImage tells whether packOff names a byte of the image beside a manifest, and which.
func (h *Header) InImage(packOff int64) (imageOff int64, ok bool) {
	return packOff - h.PackSize, h.Features&FeatureBeside != 0 && packOff >= h.PackSize
}

// IsOutside tells whether a block of this pack lies in another file.
func (h *Header) IsOutside(b Block) bool {
	_, beside := h.InImage(b.PackOff)
	return beside || h.Features&FeatureSplit != 0 && b.PackOff == 0
}

// ImageName returns the name of the image that the manifest of the given name lies beside, and false for a name
// that no manifest has.
func ImageName(manifest string) (string, bool) {
	image, ok := strings.CutSuffix(manifest, ManifestSuffix)
	return image, ok && image != "" && !strings.HasSuffix(image, "/")
}

// ChunkName returns the path, from the folder of a split pack, of the file that holds the chunk with the given
// digest of its stored bytes: "chunks/ab/abcd...".
func ChunkName(sum [32]byte) string {
	name := hex.EncodeToString(sum[:])
	return "chunks/" + name[:2] + "/" + name
}

// An outside is where a pack's chunks lie that are not in the pack file. Safe for concurrent use.
type outside interface {
	// read returns the stored bytes of a chunk, unchecked.
	read(what string, b Block) ([]byte, error)
	// place names the file that a chunk lies in, and where, for people.
	place(b Block) (file string, fileOff int64)
}

// OpenFile opens the pack at path, with what lies beside it: the image of a manifest, the chunks of a split pack.
// The caller closes what it returns last.
func OpenFile(path string) (*Pack, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	p, image, err := openFile(f, path)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	if image == nil {
		return p, f, nil
	}
	return p, closers{f, image}, nil
}

func openFile(f *os.File, path string) (p *Pack, image io.Closer, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if p, err = Open(f, st.Size()); err != nil {
		return nil, nil, err
	}
	switch {
	case p.Header.Features&FeatureSplit != 0:
		p.outside = chunkFiles(filepath.Dir(path))
	case p.Header.Features&FeatureBeside != 0:
		name, ok := ImageName(path)
		if !ok {
			return nil, nil, fmt.Errorf("this is the manifest of an image and must be called like the image with %s behind it", ManifestSuffix)
		}
		file, size, err := openRegular(name)
		if err != nil {
			return nil, nil, fmt.Errorf("the image of the manifest: %w", err)
		}
		// Zeros have no chunk: that they are missing at the end shows here only.
		if want := p.Header.ImageSize; size != want {
			file.Close()
			return nil, nil, &CorruptError{What: "image", File: name, Why: fmt.Sprintf("%d bytes instead of the %d of its manifest", size, want)}
		}
		p.outside = &besideImage{p.Header, name, file}
		image = file
	}
	return p, image, nil
}

// openRegular opens a file that lies beside a pack, which may come from anywhere: a FIFO of that name is not waited for.
func openRegular(path string) (f *os.File, size int64, err error) {
	if f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// A besideImage is the image file of a manifest.
type besideImage struct {
	head *Header
	path string
	r    io.ReaderAt
}

func (i *besideImage) place(b Block) (string, int64) {
	imageOff, _ := i.head.InImage(b.PackOff)
	return i.path, imageOff
}

func (i *besideImage) read(what string, b Block) ([]byte, error) {
	_, imageOff := i.place(b)
	out := make([]byte, b.Len)
	if _, err := i.r.ReadAt(out, imageOff); errors.Is(err, io.EOF) {
		return nil, &CorruptError{What: what, File: i.path, FileOff: imageOff, Why: "the file is cut off"}
	} else if err != nil {
		return nil, err
	}
	return out, nil
}

// chunkFiles is the folder of a split pack.
type chunkFiles string

func (dir chunkFiles) place(b Block) (string, int64) {
	return filepath.Join(string(dir), ChunkName(b.SHA256)), 0
}

func (dir chunkFiles) read(what string, b Block) ([]byte, error) {
	path, _ := dir.place(b)
	f, size, err := openRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &CorruptError{What: what, File: path, Why: "the file is missing"}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size != b.Len {
		return nil, &CorruptError{What: what, File: path, Why: fmt.Sprintf("%d bytes instead of %d", size, b.Len)}
	}
	out := make([]byte, b.Len)
	if _, err := io.ReadFull(f, out); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return out, nil
}

type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, x := range c {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}
