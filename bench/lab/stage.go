package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageName is argv[0] of this program when it is started again inside the new namespaces.
const stageName = "bench-lab-stage"

// stageConfig is what the stage is told, as JSON in argv[1]. All paths are the host's.
type stageConfig struct {
	Root, FIFO, Console, Target, Init string
}

func (c stageConfig) command() *exec.Cmd {
	b, err := json.Marshal(c)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return &exec.Cmd{
		Path: "/proc/self/exe",
		Args: []string{stageName, string(b)},
		Env:  []string{},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:    true,
			Pdeathsig: syscall.SIGKILL,
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
				unix.CLONE_NEWNET,
		},
	}
}

// RunStage must be the first thing that main (TestMain) of a program with a lab does. It returns at once unless the
// program was started again as the guest's process 1; then it makes the guest's file systems, runs the guest's init
// and never returns.
func RunStage() {
	if len(os.Args) != 2 || os.Args[0] != stageName {
		return
	}
	var c stageConfig
	err := json.Unmarshal([]byte(os.Args[1]), &c)
	if err == nil {
		err = c.run()
	}
	fmt.Fprintf(os.Stderr, "lab: %v\n", err)
	os.Exit(1)
}

// run is the stage: it leaves by exec, or with an error.
func (c stageConfig) run() error {
	// The group was entered at the clone; a namespace made now has it as its root.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	root, err := c.mountRoot()
	if err != nil {
		return err
	}
	if err := c.mountAPI(root); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root over itself takes the host's tree, and with it every mount of the host, out of the guest.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root to %s: %w", c.Root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the host's tree: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	args := []string{c.Init}
	if c.Init == "" {
		// In a container systemd takes its own arguments for the kernel's command line.
		args = []string{"/sbin/init", "--unit=" + c.Target, "systemd.show_status=true"}
	}
	env := []string{"container=lab", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb"}
	return fmt.Errorf("running %s: %w", args[0], unix.Exec(args[0], args, env))
}

// mountRoot makes the overlay and returns where it is.
func (c stageConfig) mountRoot() (string, error) {
	// The work area hides the host's /tmp in this mount namespace alone, unless the root itself lies there: then a
	// bind mount keeps hold of it first.
	lower, err := unix.OpenTree(unix.AT_FDCWD, c.Root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", c.Root, err)
	}
	fifo, err := unix.OpenTree(unix.AT_FDCWD, c.FIFO, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", c.FIFO, err)
	}
	const area = "/tmp"
	if err := unix.Mount("tmpfs", area, "tmpfs", 0, "mode=755"); err != nil {
		return "", fmt.Errorf("mounting the writable layer: %w", err)
	}
	for _, d := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(area, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := moveTo(lower, area+"/lower"); err != nil {
		return "", err
	}
	if err := c.fillUpper(area + "/upper"); err != nil {
		return "", err
	}
	opts := "lowerdir=" + area + "/lower,upperdir=" + area + "/upper,workdir=" + area + "/work"
	if err := unix.Mount("overlay", area+"/root", "overlay", 0, opts); err != nil {
		return "", fmt.Errorf("mounting the overlay over %s: %w", c.Root, err)
	}
	if err := unix.Mount("tmpfs", area+"/root/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return "", fmt.Errorf("mounting /run: %w", err)
	}
	target := area + "/root" + markerFIFO
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		return "", err
	}
	return area + "/root", moveTo(fifo, target)
}

func moveTo(tree int, target string) error {
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting %s: %w", target, err)
	}
	return nil
}

// fillUpper writes the files that differ from the image: the marker unit and the fixed identity.
func (c stageConfig) fillUpper(upper string) error {
	if c.Init != "" { // not systemd
		return nil
	}
	units := "/etc/systemd/system/"
	unit := "[Unit]\nDescription=Boot marker\nAfter=" + c.Target +
		"\n\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo booted >" + markerFIFO + "'\n"
	files := []struct{ path, text string }{
		{"/etc/machine-id", machineID + "\n"},
		{"/etc/hostname", "lab\n"},
		{units + "bench-booted.service", unit},
	}
	wants := upper + units + c.Target + ".wants"
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(upper+f.path, []byte(f.text), 0o644); err != nil {
			return err
		}
	}
	return os.Symlink(units+"bench-booted.service", wants+"/bench-booted.service")
}
