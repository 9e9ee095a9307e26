package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// TarOptions says what of an archive becomes part of the tree. The zero value takes everything.
type TarOptions struct {
	Owner0  bool     // every file belongs to 0:0, whatever the archive says
	Exclude []string // as DirOptions.Exclude

	memory      int64 // bytes the tree may take, as NewBudget has it
	maxUnpacked int64 // bytes that are unpacked of a compressed archive, the rest is cut off; 0: no limit
}

// A TarError tells what is wrong with an archive.
type TarError struct {
	Entry string // the entry's name as the archive has it, "" if the archive itself is meant
	Err   error
}

func (e *TarError) Error() string {
	if e.Entry == "" {
		return "reading tar: " + e.Err.Error()
	}
	return fmt.Sprintf("reading tar: entry %q: %v", e.Entry, e.Err)
}

func (e *TarError) Unwrap() error { return e.Err }

// FromTar reads the tree in the plain tar archive r of size bytes: ustar, GNU or PAX. Contents are read from
// r when asked for, so it must stay as it is.
//
// It gives what GNU tar gives when it extracts into an empty directory as root: a later entry replaces an
// earlier one of its name (a directory keeps what is in it), an entry below a symlink to a directory goes
// into that directory, a leading "/" is dropped. Unlike GNU tar it follows such symlinks only inside the
// tree, refuses names with "..", and also takes a hard link that comes before its target. Directories that
// no entry names are made with mode 0755, owner 0:0 and mtime 0.
//
// Volume labels are passed over.
func FromTar(ctx context.Context, r io.ReaderAt, size int64, opts TarOptions) (*Inode, error) {
	ex, err := compileExcludes(opts.Exclude)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, &TarError{Err: errors.New("the file is empty")}
	}
	b := newTarBuilder(NewBudget(opts.memory))
	sr := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(sr)
	globals := paxGlobals{}
	var start int64 // offset in r of the entry's first header
	for i := 0; ; i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("reading tar: %w", ctx.Err())
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == io.ErrUnexpectedEOF {
			return nil, &TarError{Err: fmt.Errorf("the archive ends inside an entry, at byte %d", size)}
		}
		switch {
		case err == tar.ErrHeader && start == 0:
			err = errors.New("this is not a tar archive")
		case err == tar.ErrHeader:
			err = fmt.Errorf("no valid header at byte %d", start)
		}
		if err != nil {
			return nil, &TarError{Err: err}
		}
		dataOff, err := sr.Seek(0, io.SeekCurrent) // archive/tar reads no further than it must
		if err != nil {
			return nil, err
		}
		e := tarEntry{hdr: hdr, r: r, dataOff: dataOff}
		if err := e.locate(start, size); err != nil {
			return nil, &TarError{hdr.Name, err}
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			err = globals.add(hdr.PAXRecords)
		} else if err = globals.apply(hdr); err == nil {
			err = b.add(&e, opts)
		}
		if errors.As(err, new(*BudgetError)) {
			return nil, err
		}
		if err != nil {
			return nil, &TarError{hdr.Name, err}
		}
		start = (dataOff + e.packedLen + 511) &^ 511
	}
	if err := checkEnd(r, start, size); err != nil {
		return nil, &TarError{Err: err}
	}
	if err := b.linkPending(); err != nil {
		return nil, err
	}
	return b.root, b.finish(b.root, "", ex)
}

// checkEnd wants the block of zeros that ends an archive at byte start: without it, an archive that was cut off between
// two entries would look whole.
func checkEnd(r io.ReaderAt, start, size int64) error {
	b := make([]byte, 512)
	if n, err := r.ReadAt(b, start); err != nil && err != io.EOF {
		return err
	} else if n < len(b) {
		return fmt.Errorf("the archive has no end mark at byte %d of %d: cut off while copying?", start, size)
	}
	return nil // archive/tar went on with anything but zeros
}

// IsTar tells whether head, the first 512 bytes of a file or more, is the header of a tar entry: its checksum is right.
// Archives of the oldest format (v7) have no other mark.
func IsTar(head []byte) bool {
	if len(head) < 512 || head[0] == 0 {
		return false
	}
	want, err := tarNumber(head[148:156])
	if err != nil {
		return false
	}
	var sum, signed int64 // some programs of old added signed bytes
	for i, c := range head[:512] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum, signed = sum+int64(c), signed+int64(int8(c))
	}
	return want == sum || want == signed
}

// A tarEntry is one entry of an archive.
type tarEntry struct {
	hdr       *tar.Header
	r         io.ReaderAt
	dataOff   int64  // in r, where the content begins
	packedLen int64  // bytes of content in r, without padding
	spans     []span // where content lies if the entry is sparse
	sparse    bool
}

// locate finds the entry's content in an archive of size bytes. start is where its headers begin.
func (e *tarEntry) locate(start, size int64) error {
	switch e.hdr.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo, tar.TypeXGlobalHeader:
		return nil
	}
	if isSparse(e.hdr) {
		if err := e.locateSparse(start); err != nil {
			return err
		}
	} else {
		e.packedLen = e.hdr.Size
	}
	if e.packedLen < 0 || e.packedLen > size-e.dataOff {
		return fmt.Errorf("the archive ends inside its content: %d bytes at byte %d of %d", e.packedLen, e.dataOff, size)
	}
	return nil
}

// inode makes the entry's inode, all but a hard link's.
func (e *tarEntry) inode(opts TarOptions) (*Inode, error) {
	h := e.hdr
	if h.Uid < 0 || h.Uid > math.MaxUint32 || h.Gid < 0 || h.Gid > math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	n := &Inode{
		Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid),
		MtimeSec: h.ModTime.Unix(), MtimeNsec: uint32(h.ModTime.Nanosecond()),
	}
	if opts.Owner0 {
		n.UID, n.GID = 0, 0
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.Mode |= ModeRegular
		e.setContent(n)
	case tar.TypeDir, typeDumpDir:
		n.Mode |= ModeDir
	case tar.TypeSymlink:
		n.Mode |= ModeSymlink
		n.LinkTarget = h.Linkname
		if n.LinkTarget == "" || strings.Contains(n.LinkTarget, "\x00") {
			return nil, fmt.Errorf("%q is no target for a symlink", n.LinkTarget)
		}
	case tar.TypeFifo:
		n.Mode |= ModeFIFO
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= ModeChar
		if h.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&^ModeType | ModeBlock
		}
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("device number %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		n.RdevMajor, n.RdevMinor = uint32(h.Devmajor), uint32(h.Devminor)
	default:
		return nil, fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
	return n, e.setXattrs(n)
}

// Entry types archive/tar has no names for.
const (
	typeDumpDir     = 'D' // a directory of a GNU incremental archive; its content is a list of names
	typeVolumeLabel = 'V'
)

func (e *tarEntry) setContent(n *Inode) {
	n.Size = e.hdr.Size
	switch {
	case n.Size == 0:
	case !e.sparse:
		n.Content = &tarFile{r: e.r, off: e.dataOff, size: n.Size}
	default:
		n.Data = make([]Extent, 0, len(e.spans))
		for _, s := range e.spans {
			n.Data = append(n.Data, Extent{s.off, s.len})
		}
		if len(e.spans) > 0 {
			n.Content = &tarFile{r: e.r, size: n.Size, sparse: true, spans: e.spans}
		}
	}
}
