package imagepack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"bootprof/imagepack/bpk"
	"bootprof/imagepack/cloop"
	"bootprof/imagepack/container"
	"bootprof/imagepack/erofs"
	"bootprof/imagepack/ext4"
	"bootprof/imagepack/squashfs"
	"bootprof/imagepack/tree"
	"bootprof/internal/fsmagic"
	"bootprof/profiles"
)

// An InputError tells that the input cannot be packed.
type InputError struct {
	Path string
	Err  error
}

func (e *InputError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }
func (e *InputError) Unwrap() error { return e.Err }

// maxLayers bounds how deep an image may lie in others: an ISO in a cloop, an ext4 in a squashfs in an ISO.
const maxLayers = 6

// An Input is what is to be packed: a directory, a tar, or an image, taken out of the ISO, disk, cloop or pack that it
// lies in. Nothing of it is mounted. It must not change until it is closed. Not safe for concurrent use, but the images
// and trees that it gives are.
type Input struct {
	path    string
	dir     bool
	tar     bool
	r       io.ReaderAt // the innermost image
	size    int64       // of r, bytes
	kind    string      // of r, as fsmagic names it, or "cloop"
	whole   *os.File    // the file at path, nil for a directory
	length  int64       // of whole, bytes
	closers []io.Closer

	inner    []string                // what was taken out of the input, from outside in
	progress func(done, total int64) // of what OpenInput does; may be nil

	pack   *bpk.Pack              // the input is a pack, and r its image
	choice *container.ChoiceError // why no image inside the ISO or disk was taken, nil if one was
	root   *tree.Inode
}

// OpenInput opens the input at path and unwraps what is in it. inside names the image inside an ISO or the partition of
// a disk to take (container.Choose); "" takes the one that holds the root. The caller closes the input.
func OpenInput(ctx context.Context, path, inside string) (*Input, error) {
	return OpenInputProgress(ctx, path, inside, nil)
}

// OpenInputProgress is OpenInput that tells progress how much of the image of a pack is unpacked: the only input whose
// opening takes long. progress may be nil.
func OpenInputProgress(ctx context.Context, path, inside string, progress func(done, total int64)) (*Input, error) {
	in := &Input{path: path, progress: progress}
	if err := in.open(ctx, inside); err != nil {
		in.Close()
		return nil, in.wrap(ctx, err)
	}
	return in, nil
}

// wrap names the input in an error, unless it is that of ctx.
func (in *Input) wrap(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &InputError{in.path, err}
}

// Close gives back what the input holds. Images and trees made of it are of no use then.
func (in *Input) Close() error {
	var errs []error
	for _, c := range in.closers {
		errs = append(errs, c.Close())
	}
	in.closers = nil
	return errors.Join(errs...)
}

// Inner names what was taken out of an ISO, a disk, a cloop or a squashfs that holds nothing but an image, such as
// "live/filesystem.squashfs (squashfs)"; "" if the input itself was taken.
func (in *Input) Inner() string {
	if len(in.inner) == 0 {
		return ""
	}
	kind := in.kind
	if kind == "" {
		kind = "no known file system"
	}
	return fmt.Sprintf("%s (%s)", strings.Join(in.inner, ", and in it "), kind)
}

// Pack returns the pack that the input is, or nil.
func (in *Input) Pack() *bpk.Pack { return in.pack }

func (in *Input) open(ctx context.Context, inside string) error {
	st, err := os.Stat(in.path)
	if err != nil {
		return errors.Unwrap(err)
	}
	if st.IsDir() {
		in.dir = true
		return noParts(inside)
	}
	if t := st.Mode().Type(); t != 0 && t != os.ModeDevice {
		return errors.New("neither a directory, a file nor a block device") // opening a FIFO would wait
	}
	f, err := os.Open(in.path)
	if err != nil {
		return errors.Unwrap(err)
	}
	in.whole, in.closers = f, append(in.closers, f)
	size, err := f.Seek(0, io.SeekEnd) // block devices have a size, too
	if err != nil {
		return err
	}
	if size == 0 {
		return errors.New("the file is empty")
	}
	in.r, in.size, in.length = f, size, size
	for range maxLayers {
		again, err := in.unwrap(ctx, &inside)
		if err != nil {
			return err
		}
		if !again {
			return noParts(inside)
		}
	}
	return fmt.Errorf("images in images, more than %d deep", maxLayers)
}

// noParts refuses a name of a part that nothing took.
func noParts(inside string) error {
	if inside != "" {
		return fmt.Errorf("--inside %s: this is not an ISO or a disk with images inside", inside)
	}
	return nil
}

// unwrap goes one layer deeper, if the image holds another, and tells whether it did.
func (in *Input) unwrap(ctx context.Context, inside *string) (bool, error) {
	head := make([]byte, min(in.size, bpk.HeaderSize))
	if _, err := in.r.ReadAt(head, 0); err != nil && err != io.EOF {
		return false, err
	}
	in.kind = fsmagic.Detect(io.NewSectionReader(in.r, 0, in.size))
	switch {
	case bpk.IsPack(head) && in.pack == nil && in.r == io.ReaderAt(in.whole):
		return true, in.unpack(ctx)
	case in.pack != nil:
		return false, nil // its image is what was chosen when it was made
	case cloop.Probe(in.r):
		c, err := cloop.Open(in.r, in.size)
		if err != nil {
			return false, err
		}
		in.r, in.size, in.inner = c, c.Size(), append(in.inner, "the image in the cloop")
		return true, nil
	case container.Detect(in.r, in.size) != "":
		return in.enter(inside)
	case in.kind == "squashfs":
		return in.nested()
	case in.kind == "" && isTar(head):
		if in.r != io.ReaderAt(in.whole) {
			return false, errors.New("a tar inside an image cannot be packed")
		}
		in.tar = true
	}
	return false, nil
}

// unpack takes the image out of a pack, into a file without a name.
func (in *Input) unpack(ctx context.Context) error {
	p, beside, err := bpk.OpenFile(in.path)
	if err != nil {
		return err
	}
	in.closers = append(in.closers, beside)
	f, err := ExtractTemp(ctx, p, in.progress)
	if err != nil {
		return err
	}
	in.closers = append(in.closers, f)
	in.pack, in.r, in.size = p, f, p.Header.ImageSize
	return nil
}

// enter takes a part of an ISO or a disk. An ISO without an image in it is packed as it is.
func (in *Input) enter(inside *string) (bool, error) {
	kind, parts, err := container.Parts(in.r, in.size)
	if err != nil {
		return false, err
	}
	if len(parts) == 0 && kind == container.ISO9660 && *inside == "" {
		in.kind = kind
		return false, nil
	}
	part, err := container.Choose(parts, *inside)
	if errors.As(err, &in.choice) && *inside == "" {
		return false, nil // it can still be kept whole
	}
	if err != nil {
		return false, err
	}
	*inside = ""
	in.r, in.size = part.Open(in.r)
	in.inner = append(in.inner, part.Name)
	return true, nil
}

// nested takes the image file that is all there is in a squashfs.
func (in *Input) nested() (bool, error) {
	root, err := in.Tree(context.Background())
	if errors.As(err, new(*tree.BudgetError)) {
		return false, nil // it can still be kept whole
	}
	if err != nil {
		return false, err
	}
	path, file := container.NestedImage(root)
	if file == nil {
		return false, nil
	}
	if file.Content == nil {
		return false, fmt.Errorf("%s inside is empty", path)
	}
	c, err := file.Content.Open()
	if err != nil {
		return false, err
	}
	in.closers = append(in.closers, c)
	in.r, in.size, in.root = &serialReader{r: c}, file.Size, nil
	in.inner = append(in.inner, path)
	return true, nil
}

// Tree returns the tree of files in the input.
func (in *Input) Tree(ctx context.Context) (*tree.Inode, error) {
	if in.root != nil {
		return in.root, nil
	}
	if in.choice != nil {
		return nil, in.choice
	}
	var err error
	switch {
	case in.dir:
		in.root, err = tree.FromDir(ctx, in.path, tree.DirOptions{})
	case in.tar:
		in.root, err = in.tarTree(ctx)
	default:
		in.root, err = TreeOf(in.r, in.size, in.kind)
	}
	return in.root, err
}

// TreeOf returns the files of an image whose file system is of the given kind (fsmagic).
func TreeOf(r io.ReaderAt, size int64, kind string) (*tree.Inode, error) {
	switch kind {
	case "squashfs":
		s, err := squashfs.Open(r, size)
		if err != nil {
			return nil, err
		}
		return s.Tree()
	case "erofs":
		return erofs.ReadTree(r, size)
	case "ext4":
		e, err := ext4.Open(r, size)
		if err != nil {
			return nil, err
		}
		return e.Tree()
	case "":
		kind = "unknown"
	}
	return nil, fmt.Errorf("cannot read the files of an image of %s type, only pack it as it is, as a bpk with --fs keep", kind)
}

// errCompressedImage is what becomes of an image in gzip, xz and the like, where a tar is expected.
var errCompressedImage = errors.New("compressed, but there is no tar with files in it; if it is an image, uncompress it first")

// tarTree reads a tar. An image often begins with zeros, as the end of a tar does: compressed, it looks like a tar without
// files.
func (in *Input) tarTree(ctx context.Context) (*tree.Inode, error) {
	root, c, err := tree.FromTarFile(ctx, in.path, tree.TarOptions{})
	var bad *tree.TarError
	switch compressed := in.compressed(); {
	case compressed && errors.As(err, &bad) && bad.Entry == "":
		return nil, fmt.Errorf("%w (%w)", errCompressedImage, err)
	case err != nil:
		return nil, err
	case compressed && len(root.Entries) == 0:
		return nil, errors.Join(errCompressedImage, c.Close())
	}
	in.closers = append(in.closers, c)
	return root, nil
}

// compressed tells whether the input does not begin as a plain tar does.
func (in *Input) compressed() bool {
	head := make([]byte, 512)
	n, _ := in.r.ReadAt(head, 0)
	return !tree.IsTar(head[:n])
}

// BootOrder returns the boot order of the pack that the input is; it is empty for other inputs.
func (in *Input) BootOrder() []profiles.Range {
	if in.pack == nil {
		return nil
	}
	var out []profiles.Range
	for _, r := range in.pack.Boot.Ranges {
		out = append(out, profiles.Range{ImageOff: r.Page * bpk.PageSize, Len: r.Pages * bpk.PageSize})
	}
	return out
}

// isTar tells whether a file starts as a tar does, or as a compressed file, which a tar is taken to be in.
func isTar(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00", "BZh"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return tree.IsTar(head)
}

// ExtractTemp writes the image of a pack to a file without a name in the directory for temporary files, and checks
// every byte of the pack by that. progress may be nil.
func ExtractTemp(ctx context.Context, p *bpk.Pack, progress func(done, total int64)) (*os.File, error) {
	f, err := tempFile()
	if err != nil {
		return nil, err
	}
	w := &countingWriter{f, 0, p.Header.ImageSize, progress}
	if err = f.Truncate(p.Header.ImageSize); err == nil {
		err = p.Extract(ctx, w, f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// countingWriter tells progress how much was written.
type countingWriter struct {
	f           *os.File
	done, total int64
	progress    func(done, total int64)
}

func (c *countingWriter) WriteAt(b []byte, off int64) (int, error) {
	n, err := c.f.WriteAt(b, off)
	if c.done += int64(n); c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}

// tempFile makes a file without a name in the directory for temporary files.
func tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "bootprof-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
