package recorder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// imageName is the one file of the FUSE mount.
const imageName = "image"

// attrTimeout is for attributes and names, which never change.
const attrTimeout = time.Hour

// maxRead is the largest READ the kernel sends, its own limit.
const maxRead = 1 << 20

// An imageNode is the FUSE file over the image.
type imageNode struct {
	fs.Inode
	image  io.ReaderAt
	size   int64
	log    *readLog
	opened func() // called for every open, before it is answered
}

var (
	_ fs.NodeGetattrer = (*imageNode)(nil)
	_ fs.NodeOpener    = (*imageNode)(nil)
	_ fs.NodeReader    = (*imageNode)(nil)
)

func (n *imageNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = syscall.S_IFREG | 0o444
	out.Nlink = 1
	out.Size = uint64(n.size)
	out.Blocks = uint64(n.size+511) / 512
	out.SetTimeout(attrTimeout)
	return 0
}

func (n *imageNode) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	n.opened()
	// Direct: the page cache would answer repeated reads and add readahead.
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (n *imageNode) Read(_ context.Context, _ fs.FileHandle, dest []byte, imageOff int64) (fuse.ReadResult, syscall.Errno) {
	n.log.add(imageOff, int64(len(dest)))
	if imageOff >= n.size {
		return fuse.ReadResultData(nil), 0
	}
	dest = dest[:min(int64(len(dest)), n.size-imageOff)]
	got, err := n.image.ReadAt(dest, imageOff)
	if got < len(dest) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the image has become shorter
		}
		n.log.failed(imageOff, err)
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(dest), 0
}

// mountImage mounts a FUSE file system with the image at dir, which is there already.
func mountImage(dir string, node *imageNode, logger *slog.Logger) (*fuse.Server, error) {
	timeout := attrTimeout
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		EntryTimeout: &timeout,
		AttrTimeout:  &timeout,
		OnAdd: func(ctx context.Context) {
			root.AddChild(imageName, root.NewPersistentInode(ctx, node, fs.StableAttr{Mode: syscall.S_IFREG}), false)
		},
		MountOptions: fuse.MountOptions{
			Name:                 "bootprof",
			FsName:               "bootprof-record",
			DirectMountStrict:    true,
			DirectMountFlags:     unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY,
			MaxWrite:             maxRead,
			MaxBackground:        64,
			DisableXAttrs:        true,
			DisableSplice:        true,                 // splicing 1 MiB prints an error for every read
			DisabledCapabilities: fuse.CAP_PASSTHROUGH, // with it EROFS refuses the file: stacked file systems
			PanicHandler: func(p any) fuse.Status {
				err := fmt.Errorf("BUG: %v", p)
				logger.Error("serving the recording image", "err", err)
				node.log.failed(0, err)
				return fuse.EIO
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mounting FUSE at %s: %w (recording needs root and /dev/fuse)", dir, err)
	}
	if err := fuseCloseOnExec(); err != nil {
		logger.Warn("keeping /dev/fuse from the command", "err", err)
	}
	if err := setBDIReadahead(dir, 0); err != nil {
		logger.Warn("readahead of the recording image stays at its default", "err", err)
	}
	return server, nil
}

// fuseCloseOnExec keeps /dev/fuse from child processes: go-fuse 2.12 opens it without O_CLOEXEC for a direct mount,
// and a child that holds it keeps the connection alive, with nobody to answer, when this process is killed.
func fuseCloseOnExec() error {
	const self = "/proc/self/fd"
	ents, err := os.ReadDir(self)
	if err != nil {
		return err
	}
	for _, e := range ents {
		var fd int
		if to, err := os.Readlink(self + "/" + e.Name()); err != nil || to != "/dev/fuse" {
			continue
		}
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// setBDIReadahead sets the readahead of the file system at path, in KiB. Direct I/O does none, but mapping the
// file (EROFS on a file, mmap) goes through the page cache.
func setBDIReadahead(path string, kb int) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("finding the device of %s: %w", path, err)
	}
	p := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	return os.WriteFile(p, []byte(fmt.Sprint(kb)), 0)
}

// under tells whether path is dir or below it.
func under(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}
