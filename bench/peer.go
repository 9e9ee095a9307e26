package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Peer is a program, or several that work together, that shows the image on a web server as a local file. The image is then
// mounted by a loop device, as a boot script would.
type Peer struct {
	Name   string
	Served string   // the file to ask for: the image, or what the peer has in its place
	Beside []string // files and directories that the server offers beside it
	Warm   []string // programs to hold in the page cache
	// Commands are started one after the other, each when the one before is ready. They must stay in the foreground: they are
	// ended by unmounting, the last one first, or else by SIGTERM.
	Commands func(m PeerMount) []PeerCommand
	// Image is where the image file appears, seen from the peer's mount point; "" is the name of Served.
	Image   string
	Mirrors bool // whether Commands makes use of PeerMount.Bases beyond the first
}

// A PeerMount has the places that a peer's command lines name.
type PeerMount struct {
	URL   string   // of Served, on the first server
	Bases []string // URLs of the directories that have Served, one on each server, without a slash at the end
	Name  string   // of Served, the last part of URL
	Dir   string   // the empty directory to mount at
	Work  string   // a directory for sockets and the like
	Cache string   // a directory for what is kept from boot to boot
}

// A PeerCommand is one command line.
type PeerCommand struct {
	Args  []string
	Await string // path that exists, with a size unless it is a socket, once the command is ready
	Env   []string
}

// peer is a running Peer.
type peer struct {
	dir   string
	cmds  []*exec.Cmd
	ended []chan struct{} // closed when the command has been waited for
	logs  []string
}

const (
	// peerTimeout is how long a peer may take until the image is there.
	peerTimeout = 60 * time.Second
	peerPoll    = time.Millisecond
)

// Way makes the boot by this peer.
func (p Peer) Way() Way {
	return Way{
		Name: p.Name, Served: p.Served, Beside: p.Beside, Warm: p.Warm,
		Open: func(ctx context.Context, r *Run) error {
			image, err := p.start(ctx, r)
			if err != nil {
				return err
			}
			return mount("-o", "loop,ro", image, r.Dir)
		},
		Sample: samplePeer,
		Close: func(r *Run) error {
			return errors.Join(UnmountIfMounted(r.Dir), r.peer.stop())
		},
	}
}

// start starts the peer and returns where the image is.
func (p Peer) start(ctx context.Context, r *Run) (image string, err error) {
	urls := strings.Split(r.URL, ",")
	m := PeerMount{URL: urls[0], Name: path.Base(urls[0]), Dir: filepath.Join(r.Work, "peer"), Work: r.Work, Cache: r.Cache}
	for _, url := range urls {
		m.Bases = append(m.Bases, strings.TrimSuffix(url, "/"+m.Name))
	}
	if err := os.Mkdir(m.Dir, 0o755); err != nil {
		return "", err
	}
	name := p.Image
	if name == "" {
		name = m.Name
	}
	image = filepath.Join(m.Dir, name)
	run := &peer{dir: m.Dir}
	r.peer = run
	commands := p.Commands(m)
	commands[len(commands)-1].Await = image
	for _, c := range commands {
		if err := run.command(ctx, r, c); err != nil {
			return "", err
		}
	}
	return image, nil
}

// command starts one command and waits until it is ready.
func (p *peer) command(ctx context.Context, r *Run, c PeerCommand) error {
	said, err := os.CreateTemp(r.Work, "output-")
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = said, said, append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.Link.Client.Start(cmd); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	p.cmds, p.ended, p.logs = append(p.cmds, cmd), append(p.ended, ended), append(p.logs, said.Name())
	for deadline := time.Now().Add(peerTimeout); ; {
		if isReady(c.Await) {
			return nil
		}
		var why string
		select {
		case <-ended:
			why = cmd.ProcessState.String()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(peerPoll):
			if time.Now().Before(deadline) {
				continue
			}
			why = fmt.Sprintf("%s not there after %v", c.Await, peerTimeout)
		}
		text, _ := os.ReadFile(said.Name())
		return fmt.Errorf("%s: %s: %s", strings.Join(c.Args, " "), why, strings.TrimSpace(string(text[:min(len(text), 2048)])))
	}
}

func isReady(path string) bool {
	info, err := os.Stat(path)
	return err == nil && (info.Size() > 0 || info.Mode().Type() == os.ModeSocket)
}

// stop unmounts the peer and sees to it that its processes end: without being told when their mount is gone, by SIGTERM
// otherwise, at last by SIGKILL.
func (p *peer) stop() error {
	if p == nil {
		return nil
	}
	err := UnmountIfMounted(p.dir)
	if err != nil { // a peer that hangs
		err = errors.Join(err, unix.Unmount(p.dir, unix.MNT_DETACH))
	}
	for i := len(p.cmds) - 1; i >= 0; i-- {
		for _, step := range []struct {
			signal syscall.Signal
			wait   time.Duration
		}{{0, time.Second}, {syscall.SIGTERM, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
			if i < len(p.cmds)-1 && step.signal == 0 { // only the last one has a mount to end with
				continue
			}
			if step.signal != 0 {
				_ = p.cmds[i].Process.Signal(step.signal)
			}
			if p.awaitEnd(i, step.wait) {
				break
			}
		}
		if !p.awaitEnd(i, 0) {
			err = errors.Join(err, fmt.Errorf("%s does not end", p.cmds[i].Args[0]))
		}
	}
	return err
}

func (p *peer) awaitEnd(i int, d time.Duration) bool {
	select {
	case <-p.ended[i]:
		return true
	default:
	}
	select {
	case <-p.ended[i]:
		return true
	case <-time.After(d):
		return false
	}
}

// samplePeer adds up the figures of all processes in the client's namespace.
func samplePeer(_ context.Context, r *Run) error {
	pids, err := r.Link.Client.PIDs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		rss, err := peakRSS(pid)
		if err != nil {
			continue // a thread that has just ended, or one of the kernel
		}
		cpu, err := cpuTime(pid)
		if err != nil {
			continue
		}
		r.ClientRSS += rss
		r.ClientCPU += cpu.Seconds()
	}
	return nil
}
