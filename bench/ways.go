package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Local boots the image file from the local disk through a loop device.
func Local(name, image string) Way {
	return Way{
		Name: name,
		Open: func(_ context.Context, r *Run) error {
			// Through a name in the run's directory, so that a loop device that stays is seen as the run's.
			own := filepath.Join(r.Work, "image")
			abs, err := filepath.Abs(image)
			if err != nil {
				return err
			}
			if err := os.Symlink(abs, own); err != nil {
				return err
			}
			return mount("-o", "loop,ro", own, r.Dir)
		},
		Close: func(r *Run) error { return UnmountIfMounted(r.Dir) },
	}
}

// FetchAll fetches the whole image into memory and boots from there: what live-boot's fetch=, casper's url= and dracut's
// root=live:http do.
func FetchAll(name, image string) Way {
	return Way{
		Name:   name,
		Served: image,
		Warm:   []string{"curl"},
		Open: func(ctx context.Context, r *Run) error {
			own, state, err := fetchWhole(ctx, r)
			if err != nil {
				return err
			}
			if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
				r.ClientRSS = usage.Maxrss << 10
			}
			r.ClientCPU = (state.UserTime() + state.SystemTime()).Seconds()
			return mount("-o", "loop,ro", own, r.Dir)
		},
		Close: func(r *Run) error {
			return errors.Join(UnmountIfMounted(r.Dir), UnmountIfMounted(memoryDir(r)))
		},
	}
}

// memoryDir is where the tmpfs of FetchAll is.
func memoryDir(r *Run) string { return filepath.Join(r.Work, "memory") }

// fetchWhole downloads the image into a tmpfs.
func fetchWhole(ctx context.Context, r *Run) (image string, state *os.ProcessState, err error) {
	if err := os.Mkdir(memoryDir(r), 0o755); err != nil {
		return "", nil, err
	}
	if err := mount("-t", "tmpfs", "-o", "size=100%", "tmpfs", memoryDir(r)); err != nil {
		return "", nil, err
	}
	image = filepath.Join(memoryDir(r), "image")
	state, err = runClient(r, exec.CommandContext(ctx, "curl", "-sS", "--fail", "-o", image, r.URL))
	return image, state, err
}

// runClient runs a command to its end in the client's network namespace. Its output goes to a file, not a pipe: a daemon
// that it leaves behind may keep it open.
func runClient(r *Run, cmd *exec.Cmd) (*os.ProcessState, error) {
	said, err := os.CreateTemp(r.Work, "output-")
	if err != nil {
		return nil, err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	if err := r.Link.Client.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		text := make([]byte, 4096)
		n, _ := said.ReadAt(text, 0)
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(text[:n])))
	}
	return cmd.ProcessState, nil
}

// UnmountIfMounted unmounts dir unless Open did not come as far as to mount it.
func UnmountIfMounted(dir string) error {
	var here, above syscall.Stat_t
	if err := syscall.Stat(dir, &here); errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err := syscall.Stat(filepath.Dir(dir), &above); err == nil && here.Dev == above.Dev {
		return nil
	}
	return unmount(dir)
}
