// Package labinit is process 1 of the lab machine that `bootprof record --vm` boots, until the image's own init is.
//
// Its initramfs holds the bootprof program as /init, a description at ConfigPath, and the kernel modules that it names. It
// loads these, mounts the disk with the image read-only, an overlay on a tmpfs over it, makes that the root, and
// executes init. Of the disk it reads what mounting and finding init read, and nothing ahead.
//
// On an error it says so in one line on the console and powers the machine off: nobody is there to help it.
package labinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ConfigPath is where the initramfs has its Config, as JSON.
const ConfigPath = "/bootprof-lab.json"

// Prefix begins every line that this package says on the console.
const Prefix = "bootprof lab: "

// ErrorPrefix begins the line of an error.
const ErrorPrefix = Prefix + "error: "

// Where things are mounted before the root is switched.
const (
	diskDir  = "/disk"
	writeDir = "/write" // tmpfs: upper and work directory of the overlay
	rootDir  = "/root"
)

// diskWait is how long the disk may take to appear after its driver was loaded.
const diskWait = 30 * time.Second

// A Config says what to boot.
type Config struct {
	Modules    []string `json:"modules"`    // files, in the order of loading
	Serial     string   `json:"serial"`     // of the virtio disk with the image
	Filesystem string   `json:"filesystem"` // of the image, as mount(2) names it
	Init       string   `json:"init"`       // path in the image
}

// IsInit tells whether this process is the lab machine's init: process 1, called by the kernel as /init, beside a Config.
func IsInit() bool {
	if os.Getpid() != 1 || os.Args[0] != "/init" {
		return false
	}
	_, err := os.Lstat(ConfigPath)
	return err == nil
}

// Run boots the image. It does not return.
func Run() {
	err := boot()
	fmt.Printf("\n%s%s\n", ErrorPrefix, strings.Join(strings.Fields(err.Error()), " "))
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // a kernel without power-off: a panic would hide the line
}

func boot() error {
	b, err := os.ReadFile(ConfigPath)
	if err != nil {
		return err
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("%s: %w", ConfigPath, err)
	}
	if err := mountAll(c.Modules); err != nil {
		return err
	}
	disk, err := findDisk(c.Serial)
	if err != nil {
		return err
	}
	if err := mountImage(disk, c.Filesystem); err != nil {
		return err
	}
	return switchRoot(c)
}

// mountAll mounts what a process expects, and loads modules.
func mountAll(modules []string) error {
	for _, m := range []struct{ fs, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	for _, file := range modules {
		if err := load(file); err != nil {
			return fmt.Errorf("loading the kernel module %s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) { // loaded already
		return nil
	}
	return err
}

// findDisk waits for the virtio disk with this serial, and turns its readahead off.
func findDisk(serial string) (device string, err error) {
	for end := time.Now().Add(diskWait); ; time.Sleep(5 * time.Millisecond) {
		files, _ := filepath.Glob("/sys/block/*/serial")
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil || strings.TrimSpace(string(b)) != serial {
				continue
			}
			dir := filepath.Dir(file)
			if err := os.WriteFile(filepath.Join(dir, "queue/read_ahead_kb"), []byte("0"), 0); err != nil {
				return "", fmt.Errorf("turning readahead off: %w", err)
			}
			return "/dev/" + filepath.Base(dir), nil
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("no disk with the serial %s has appeared within %v", serial, diskWait)
		}
	}
}

// mountImage mounts the image and a writable layer over it at rootDir.
func mountImage(device, fs string) error {
	for _, dir := range []string{diskDir, writeDir, rootDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(device, diskDir, fs, unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting the image as %s: %w", fs, err)
	}
	if err := unix.Mount("tmpfs", writeDir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	upper, work := writeDir+"/upper", writeDir+"/work"
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", diskDir, upper, work)
	if err := unix.Mount("overlay", rootDir, "overlay", 0, layers); err != nil {
		return fmt.Errorf("mounting an overlay over the image: %w", err)
	}
	return nil
}

// switchRoot frees the initramfs, makes rootDir the root and executes init. It returns only with an error.
func switchRoot(c Config) error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, rootDir+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s into the image, which needs such a directory: %w", dir, err)
		}
	}
	for _, file := range append([]string{"/init", ConfigPath}, c.Modules...) {
		os.Remove(file) // memory; a file that stays does no harm
	}
	if err := unix.Chdir(rootDir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("making the image the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// The kernel hands words that it does not know on to init.
	err := unix.Exec(c.Init, append([]string{c.Init}, os.Args[1:]...), os.Environ())
	return fmt.Errorf("executing the image's %s: %w", c.Init, err)
}
