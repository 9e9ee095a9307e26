package lab

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"bootprof/imagepack/tree"
	"bootprof/internal/cpio"
	"bootprof/internal/kmod"
	"bootprof/recorder/labinit"
)

// Serial is that of the disk with the image.
const Serial = "bootprof-lab"

// An InitrdError means that the lab's initramfs cannot boot this image.
type InitrdError struct{ Err error }

func (e *InitrdError) Error() string {
	return fmt.Sprintf("making an initramfs for this image: %v (--initrd gives another)", e.Err)
}
func (e *InitrdError) Unwrap() error { return e.Err }

// Initrd makes the lab's initramfs for an image: program, a static bootprof, as /init, and the modules that a kernel of this
// version needs to mount a file system of this kind, out of the image. The error is an *InitrdError.
func Initrd(root *tree.Inode, filesystem, version string, program []byte) ([]byte, error) {
	b, err := initrd(root, filesystem, version, program)
	if err != nil {
		return nil, &InitrdError{err}
	}
	return b, nil
}

func initrd(root *tree.Inode, filesystem, version string, program []byte) ([]byte, error) {
	if err := checkStatic(program); err != nil {
		return nil, err
	}
	init, err := findInit(root)
	if err != nil {
		return nil, err
	}
	var a cpio.Archive
	a.File("init", 0o755, program)
	a.Device("dev/console", cpio.ModeChar, 0o600, 5, 1) // the kernel opens it for init
	config := labinit.Config{Serial: Serial, Filesystem: filesystem, Init: init}
	modules, err := findModules(root, filesystem, version)
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		name := "modules/" + m.Name
		a.File(name, 0o644, m.Data)
		config.Modules = append(config.Modules, "/"+name)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	a.File(labinit.ConfigPath[1:], 0o644, text)
	var b bytes.Buffer
	_, err = a.WriteTo(&b)
	return b.Bytes(), err
}

// checkStatic refuses a program that wants libraries: the initramfs has none.
func checkStatic(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("bootprof itself, as its init: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("this bootprof wants shared libraries, and an initramfs has none: build it with CGO_ENABLED=0, as make build does")
		}
	}
	return nil
}

// findInit returns what the kernel would execute without an initramfs. A link is followed as far as the image goes.
func findInit(root *tree.Inode) (string, error) {
	for _, p := range []string{"/sbin/init", "/usr/lib/systemd/systemd", "/etc/init", "/bin/init"} {
		if n, _ := tree.Find(root, p); n != nil && n.Type() == tree.ModeRegular {
			return p, nil
		}
	}
	return "", errors.New("there is no /sbin/init in the image")
}

// findModules returns the modules that the lab needs, in the order of loading.
func findModules(root *tree.Inode, filesystem, version string) ([]kmod.Module, error) {
	if version == "" {
		return nil, errors.New("the kernel does not tell its version, by which its modules are found")
	}
	dir := "lib/modules/" + version
	if n, _ := tree.Find(root, dir+"/modules.dep"); n == nil {
		return nil, fmt.Errorf("%s/modules.dep is not in the image", dir)
	}
	wanted := append(slices.Clone(helpers), "virtio_pci", "virtio_blk", "overlay", filesystem)
	modules, missing, err := kmod.Load(treeFS{root, dir}, wanted)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	for _, name := range missing {
		if !slices.Contains(helpers, name) {
			return nil, fmt.Errorf("%s: the kernel has no module %s", dir, name)
		}
	}
	return modules, nil
}

// helpers are modules that others ask for by calling modprobe, which the initramfs has not; a kernel may have none of these.
// Every file system with checksums, and libcrc32c below it, wants the first.
var helpers = []string{"crc32c_generic", "crc32_generic", "xxhash_generic", "blake2b_generic", "sha256_generic"}
