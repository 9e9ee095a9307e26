package tree

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// diskFile is the content of a file of a live directory.
type diskFile struct {
	path  string
	size  int64
	mtime unix.Timespec
}

func (d *diskFile) Open() (ReadAtCloser, error) {
	// Not blocking on a FIFO, nor following a link, that came to be in the file's place.
	f, err := openFile(d.path)
	if err != nil {
		return nil, err
	}
	o := &openDiskFile{f: f, fd: int(f.Fd()), d: d}
	if err := o.check(); err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

func openFile(full string) (f *os.File, err error) {
	err = withPath(full, func(path string) error {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return err
	})
	return f, err
}

type openDiskFile struct {
	f  *os.File
	fd int
	d  *diskFile
}

// ReadAt reads and then looks whether the file is still the one that was walked, so that no byte written
// later is handed out.
func (o *openDiskFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return n, err
	}
	if cerr := o.check(); cerr != nil {
		return 0, cerr
	}
	return n, err
}

func (o *openDiskFile) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(o.fd, &st); err != nil {
		return fmt.Errorf("reading %q: %w", o.d.path, err)
	}
	switch {
	case st.Mode&ModeType != ModeRegular:
		return &ChangedError{o.d.path, "it is not a regular file any more"}
	case st.Size != o.d.size:
		return &ChangedError{o.d.path, fmt.Sprintf("its size was %d, is %d", o.d.size, st.Size)}
	case st.Mtim != o.d.mtime:
		return &ChangedError{o.d.path, fmt.Sprintf("its mtime was %d.%09d, is %d.%09d",
			o.d.mtime.Sec, o.d.mtime.Nsec, st.Mtim.Sec, st.Mtim.Nsec)}
	}
	return nil
}

func (o *openDiskFile) Close() error { return o.f.Close() }
