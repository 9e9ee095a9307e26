package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/bench/link"
	"bootprof/bench/serve"
)

// A Bed is links with web servers at their far ends, for measurements that are not boots. Close ends them.
type Bed struct {
	Run     *Run // its client's end is Run.Link.Client; Dir, Work and Cache are directories
	Servers []*serve.Server
}

// OpenBed makes a link for each of the parameters, and behind it a web server with the files of the same index, of which the
// first is in Run.URL.
func OpenBed(links []link.Params, files [][]string) (b *Bed, err error) {
	work, err := os.MkdirTemp("", "bench-run-")
	if err != nil {
		return nil, err
	}
	b = &Bed{Run: &Run{Dir: filepath.Join(work, "root"), Work: work, Cache: filepath.Join(work, "cache")}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := errors.Join(os.Mkdir(b.Run.Dir, 0o755), os.Mkdir(b.Run.Cache, 0o755)); err != nil {
		return b, err
	}
	for i, p := range links {
		var l *link.Link
		if i == 0 {
			l, err = link.Open(p)
			b.Run.Link = l
		} else if l, err = b.Run.Link.Add(p); err == nil {
			b.Run.more = append(b.Run.more, l)
		}
		if err != nil {
			return b, err
		}
		root := filepath.Join(work, fmt.Sprintf("www%d", i))
		if err := linkFiles(root, files[i]); err != nil {
			return b, err
		}
		s, err := serveFile(b.Run, l, root, filepath.Base(files[i][0]))
		if err != nil {
			return b, err
		}
		b.Servers = append(b.Servers, s)
	}
	return b, nil
}

// Close ends servers and links, and with the client's namespace whatever runs in it, and removes all files.
func (b *Bed) Close() error {
	var errs []error
	for _, s := range b.Servers {
		errs = append(errs, s.Close())
	}
	for i := len(b.Run.more) - 1; i >= 0; i-- {
		errs = append(errs, b.Run.more[i].Close())
	}
	if b.Run.Link != nil {
		errs = append(errs, b.Run.Link.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(b.Run.Work))...)
}

// Leftovers lists what a client left in the bed: mounts, loop devices, processes.
func (b *Bed) Leftovers() ([]string, error) { return leftovers(b.Run) }

// A Source shows an image on a web server as a local file: what a peer does, and bootprof with --raw.
type Source struct {
	Name    string
	Served  []string // files that the web server offers; the first is asked for
	Mirrors bool     // whether it can use several servers
	Whole   bool     // Start returns only when it has fetched all of the image
	// Start returns where the image appears.
	Start func(ctx context.Context, b *Bed) (image string, err error)
	// Stop ends what Start started, in whatever state it is. Nobody may have the image open.
	Stop func(b *Bed) error
	// Truth returns a local file of the same image; Work is a directory for that, release ends it.
	Truth func(work string) (image string, release func() error, err error)
}

// PeerSource is a peer as a source; original is the image that it shows.
func PeerSource(p Peer, original string) Source {
	return Source{
		Name: p.Name, Served: append([]string{p.Served}, p.Beside...), Mirrors: p.Mirrors,
		Start: func(ctx context.Context, b *Bed) (string, error) { return p.start(ctx, b.Run) },
		Stop:  func(b *Bed) error { return b.Run.peer.stop() },
		Truth: func(string) (string, func() error, error) { return original, func() error { return nil }, nil },
	}
}

// MountedSource is `bootprof mount --raw` as a source.
func MountedSource(name, binary, pack string) Source {
	return Source{
		Name: name, Served: append([]string{pack}, besidePack(pack)...), Mirrors: true,
		Start: func(ctx context.Context, b *Bed) (string, error) {
			_, err := runClient(b.Run, exec.CommandContext(ctx, binary, "mount", b.Run.URL, b.Run.Dir, "--raw"))
			return filepath.Join(b.Run.Dir, "image"), err
		},
		Stop: func(b *Bed) error {
			err := UnmountIfMounted(b.Run.Dir)
			for deadline := time.Now().Add(endTimeout); ; time.Sleep(10 * time.Millisecond) {
				pids, perr := b.Run.Link.Client.PIDs()
				if perr != nil || len(pids) == 0 {
					return errors.Join(err, perr)
				}
				if time.Now().After(deadline) {
					return errors.Join(err, fmt.Errorf("%s does not end after umount", binary))
				}
			}
		},
		Truth: func(work string) (string, func() error, error) {
			dir := filepath.Join(work, "truth")
			abs, err := filepath.Abs(pack)
			if err == nil {
				err = os.Mkdir(dir, 0o755)
			}
			if err == nil {
				err = command(exec.Command(binary, "mount", "file://"+abs, dir, "--raw"))
			}
			return filepath.Join(dir, "image"), func() error { return UnmountIfMounted(dir) }, err
		},
	}
}

// FetchAllSource downloads the image as FetchAll does.
func FetchAllSource(name, image string) Source {
	return Source{
		Name: name, Served: []string{image}, Whole: true,
		Start: func(ctx context.Context, b *Bed) (string, error) {
			own, _, err := fetchWhole(ctx, b.Run)
			return own, err
		},
		Stop:  func(b *Bed) error { return UnmountIfMounted(memoryDir(b.Run)) },
		Truth: func(string) (string, func() error, error) { return image, func() error { return nil }, nil },
	}
}

// Kill ends all processes in the client's namespace at once.
func (b *Bed) Kill() {
	pids, _ := b.Run.Link.Client.PIDs()
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
