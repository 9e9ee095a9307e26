package testrig

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Mount has the kernel mount an image file by a loop device, read-only, until the end of the test, and returns where.
func Mount(t testing.TB, fs, image string) string {
	t.Helper()
	return MountWith(t, fs, image, "ro")
}

// MountWith is Mount with options of mount(8).
func MountWith(t testing.TB, fs, image, options string) string {
	t.Helper()
	NeedDevices(t, "/dev/loop-control")
	dir := t.TempDir()
	Run(t, "mount", "-t", fs, "-o", "loop,"+options, image, dir)
	t.Cleanup(func() { Unmount(t, dir) })
	return dir
}

// Unmount unmounts what is mounted at dir, if anything is. It waits while the mount is busy: a child of another test that has
// not come to its exec holds copies of this process's open files.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	if !IsMounted(dir) {
		return
	}
	var err error
	if !Await(Patience, func() bool { err = unix.Unmount(dir, 0); return err != unix.EBUSY }) || err != nil {
		t.Errorf("unmounting %s: %v", dir, err)
	}
}

// A MountPoint is a line of /proc/self/mountinfo.
type MountPoint struct {
	Path    string // where it is mounted
	Device  string // MAJ:MIN
	FS      string // type, such as "fuse.bootprof"
	Options string // of the mount: "ro,nosuid"
}

// IsImage tells whether the mount is one that tests make: FUSE, EROFS, or a file system on a loop device.
func (m MountPoint) IsImage() bool {
	return m.FS == "fuse" || m.FS == "erofs" || strings.HasPrefix(m.FS, "fuse.") || strings.HasPrefix(m.Device, "7:")
}

// Mounts returns what is mounted in this namespace, in mountinfo's order.
func Mounts() (out []MountPoint) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.SplitSeq(string(b), "\n") {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !ok || len(f) < 6 {
			continue
		}
		fs, _, _ := strings.Cut(after, " ")
		out = append(out, MountPoint{Path: f[4], Device: f[2], FS: fs, Options: f[5]})
	}
	return out
}

// ImageMounts returns where images are mounted in this namespace.
func ImageMounts() (paths []string) {
	for _, m := range Mounts() {
		if m.IsImage() {
			paths = append(paths, m.Path)
		}
	}
	return paths
}

// IsMounted tells whether anything is mounted at path.
func IsMounted(path string) bool {
	for _, m := range Mounts() {
		if m.Path == path {
			return true
		}
	}
	return false
}

// privateEnv says that this process has a mount namespace of its own.
const privateEnv = "BOOTPROF_TEST_PRIVATE"

// Private gives the tests of a package a mount namespace of their own, so that no other process comes to hold one of their
// mounts. TestMain calls it first. In the first process it runs the test binary again in a new namespace and ends with that
// one's exit code; there it returns, with the image mounts of other programs taken out of the namespace's copy, which would
// keep them alive. Without root it just returns: tests that mount skip.
func Private() {
	if os.Geteuid() != 0 {
		return
	}
	if os.Getenv(privateEnv) != "" {
		for _, path := range ImageMounts() {
			_ = unix.Unmount(path, unix.MNT_DETACH)
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "starting the tests in a mount namespace:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// EmptyRun mounts an empty tmpfs on /run of a private namespace: clients started there are the only ones that `bootprof
// status` finds. It ends the process if it cannot. Without root it does nothing.
func EmptyRun() {
	if os.Geteuid() != 0 {
		return
	}
	if err := unix.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "mounting an empty /run:", err)
		os.Exit(1)
	}
}
