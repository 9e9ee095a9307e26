package mountclient

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// imageName is the name of the image file in the FUSE file system, unless MountOptions.ImageName says another.
const imageName = "image"

// forever is the time for which the kernel may keep names and attributes of the image: they never change.
var forever = 365 * 24 * time.Hour

// An imageFile is the one file of the FUSE file system: the image. Kernel reads of pages that are in the page
// cache never come here.
type imageFile struct {
	fs.Inode
	name string
	size int64
	read func(ctx context.Context, dst []byte, imageOff int64) (int, error)
	log  *slog.Logger
}

var (
	_ fs.NodeOpener    = (*imageFile)(nil)
	_ fs.NodeReader    = (*imageFile)(nil)
	_ fs.NodeGetattrer = (*imageFile)(nil)
	_ fs.NodeFlusher   = (*imageFile)(nil)
)

func (n *imageFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	out.SetTimeout(forever)
	return 0
}

func (n *imageFile) attr(a *fuse.Attr) {
	a.Mode, a.Size, a.Blksize, a.Blocks, a.Nlink = fuse.S_IFREG|0o400, uint64(n.size), 4096, uint64(n.size/512), 1
}

func (n *imageFile) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	return nil, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH, 0
}

// Flush says that there is none (before Linux 5.16 the kernel asks once; see attach). The client keeps the image
// file open itself: if it is killed, its own close must not wait for an answer from it. That would leave
// a process that nothing can end and readers that wait for ever.
func (n *imageFile) Flush(context.Context, fs.FileHandle) syscall.Errno { return syscall.ENOSYS }

// Read ignores interrupts: the kernel sends one when any signal comes to the process that waits, and where
// EROFS is mounted from the file, an interrupted read would be an error of that process's exec or stat. A
// process that is being killed waits for the answer, as on a local disk.
func (n *imageFile) Read(ctx context.Context, _ fs.FileHandle, dst []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	m, err := n.read(context.WithoutCancel(ctx), dst, off)
	if err != nil {
		n.log.Error("read fails", "offset", off, "bytes", len(dst), "error", err)
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(dst[:m]), 0
}

// push puts bytes into the kernel's page cache. Any beyond the end would make the file longer.
func (n *imageFile) push(imageOff int64, data []byte) syscall.Errno {
	return n.WriteCache(imageOff, data[:min(int64(len(data)), n.size-imageOff)])
}

// A rootDir is the directory that holds the image file.
type rootDir struct {
	fs.Inode
	image *imageFile
}

var (
	_ fs.NodeOnAdder  = (*rootDir)(nil)
	_ fs.NodeLookuper = (*rootDir)(nil)
)

func (n *rootDir) OnAdd(ctx context.Context) {
	n.AddChild(n.image.name, n.NewPersistentInode(ctx, n.image, fs.StableAttr{Mode: fuse.S_IFREG, Ino: 2}), true)
}

func (n *rootDir) Lookup(_ context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if name != n.image.name {
		return nil, syscall.ENOENT
	}
	n.image.attr(&out.Attr)
	return n.GetChild(name), 0
}

// mountFUSE mounts a file system that holds img at dir.
func mountFUSE(dir string, img *imageFile) (*fuse.Server, error) {
	opts := &fs.Options{EntryTimeout: &forever, AttrTimeout: &forever, NegativeTimeout: &forever}
	opts.MountOptions = fuse.MountOptions{
		FsName:               "bootprof",
		Name:                 "bootprof",
		DirectMountStrict:    true,
		MaxWrite:             1 << 20,
		MaxBackground:        128,
		DisableSplice:        true, // with reads of 1 MiB, go-fuse 2.12 prints an error for each
		DisableXAttrs:        true,
		DisableReadDirPlus:   true,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // a file system on top would fail: "stacked"
		Logger:               slog.NewLogLogger(img.log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) fuse.Status {
			img.log.Error("BUG: a read panicked; it is answered with an I/O error", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
	srv, err := fs.Mount(dir, &rootDir{image: img}, opts)
	if err != nil {
		return nil, fmt.Errorf("mounting FUSE at %s: %w", dir, err)
	}
	return srv, nil
}
