package bpk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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

func openFile(f *os.File, path string) (p *Pack, image *os.File, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if p, err = Open(f, st.Size()); err != nil {
		return nil, nil, err
	}
	switch {
	case p.Header.Features&FeatureSplit != 0:
		dir := filepath.Dir(path)
		p.outside = func(b Block) ([]byte, error) { return readChunkFile(filepath.Join(dir, ChunkName(b.SHA256)), b) }
	case p.Header.Features&FeatureBeside != 0:
		name, ok := ImageName(path)
		if !ok {
			return nil, nil, fmt.Errorf("this is the manifest of an image and must be called like the image with %s behind it", ManifestSuffix)
		}
		if image, err = os.Open(name); err != nil {
			return nil, nil, fmt.Errorf("the image of the manifest: %w", err)
		}
		p.outside = func(b Block) ([]byte, error) {
			imageOff, _ := p.Header.InImage(b.PackOff)
			out := make([]byte, b.Len)
			if _, err := image.ReadAt(out, imageOff); errors.Is(err, io.EOF) {
				return nil, &CorruptError{name, imageOff, "the file is cut off"}
			} else if err != nil {
				return nil, err
			}
			return out, nil
		}
	}
	return p, image, nil
}

// readChunkFile reads a chunk's file. One of another length is damaged, and not read further than that tells.
func readChunkFile(path string, b Block) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &CorruptError{path, 0, "the file is missing"}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, b.Len+1))
}

type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, x := range c {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}
