package lab

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bootprof/imagepack/tree"
	"bootprof/internal/testrig"
)

// fakeKernel is the part of a bzImage that tells its version.
func fakeKernel(version string) []byte {
	b := make([]byte, 0x800)
	copy(b[headerMagicOff:], headerMagic)
	binary.LittleEndian.PutUint16(b[versionPtrOff:], 0x400)
	copy(b[0x600:], version+" (builder@host) #1 SMP")
	return b
}

// treeOf makes a tree of files (path: content) and links (path: "-> target").
func treeOf(t *testing.T, files map[string]string) *tree.Inode {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if target, link := strings.CutPrefix(content, "-> "); link {
			testrig.Must(t, os.MkdirAll(filepath.Dir(p), 0o755))
			testrig.Must(t, os.Symlink(target, p))
		} else {
			testrig.WriteFile(t, p, content)
		}
	}
	root, err := tree.FromDir(t.Context(), dir, tree.DirOptions{})
	testrig.Must(t, err)
	return root
}

func TestFindKernel(t *testing.T) {
	k := func(version string) string { return string(fakeKernel(version)) }
	for _, tt := range []struct {
		name          string
		files         map[string]string
		path, version string
	}{
		{"the link", map[string]string{"vmlinuz": "-> boot/vmlinuz-6.1", "boot/vmlinuz-6.1": k("6.1"), "boot/vmlinuz-6.2": k("6.2")}, "boot/vmlinuz-6.1", "6.1"},
		{"the newest", map[string]string{"boot/vmlinuz-6.9.1": k("6.9.1"), "boot/vmlinuz-6.10.0": k("6.10.0")}, "boot/vmlinuz-6.10.0", "6.10.0"},
		{"the one with modules", map[string]string{"boot/vmlinuz-6.1": k("6.1"), "boot/vmlinuz-6.2": k("6.2"), "lib": "-> usr/lib",
			"usr/lib/modules/6.1/modules.dep": ""}, "boot/vmlinuz-6.1", "6.1"},
		{"live", map[string]string{"live/vmlinuz": k("6.1"), "boot/grub": "x"}, "live/vmlinuz", "6.1"},
		{"beside its modules", map[string]string{"lib/modules/6.1/vmlinuz": k("6.1")}, "lib/modules/6.1/vmlinuz", "6.1"},
		{"no version", map[string]string{"vmlinuz": "an ELF kernel"}, "vmlinuz", ""},
		{"a link to nowhere", map[string]string{"vmlinuz": "-> boot/gone", "boot/vmlinuz-6.1": k("6.1")}, "boot/vmlinuz-6.1", "6.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := FindKernel(treeOf(t, tt.files))
			if err != nil || got.Path != tt.path || got.Version != tt.version {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	if _, err := FindKernel(treeOf(t, map[string]string{"etc/passwd": "x"})); !errors.Is(err, ErrNoKernel) {
		t.Errorf("without a kernel: %v", err)
	}
}

func TestKernelVersion(t *testing.T) {
	for want, b := range map[string][]byte{
		"6.1.0-56-amd64": fakeKernel("6.1.0-56-amd64"),
	} {
		if got := KernelVersion(b); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	good := fakeKernel("6.1")
	outside := fakeKernel("6.1")
	binary.LittleEndian.PutUint16(outside[versionPtrOff:], 0xffff)
	none := fakeKernel("6.1")
	binary.LittleEndian.PutUint16(none[versionPtrOff:], 0)
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:headerMagicOff], "no magic": make([]byte, 0x800), "outside": outside, "none": none,
		"a path": fakeKernel("../../etc"), "up": fakeKernel(".."), "cut off": good[:0x600],
	} {
		if got := KernelVersion(b); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestInitrdErrors(t *testing.T) {
	self := testrig.ReadFile(t, "/proc/self/exe")
	static := filepath.Join(t.TempDir(), "static")
	goBuild(t, static, "./testdata/guest")
	program := testrig.ReadFile(t, static)
	const dep = "v/virtio_pci.ko:\nv/virtio_blk.ko:\nv/overlay.ko:\nv/erofs.ko:\n"
	good := map[string]string{
		"sbin/init": "x", "lib/modules/6.1/modules.dep": dep, "lib/modules/6.1/v/virtio_pci.ko": "\x7fELF1", "lib/modules/6.1/v/virtio_blk.ko": "\x7fELF2",
		"lib/modules/6.1/v/overlay.ko": "\x7fELF3", "lib/modules/6.1/v/erofs.ko": "\x7fELF4",
	}
	if b, err := Initrd(treeOf(t, good), "erofs", "6.1", program); err != nil || len(b) < len(program) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	without := func(name string) map[string]string {
		out := map[string]string{}
		for k, v := range good {
			if k != name {
				out[k] = v
			}
		}
		return out
	}
	for _, tt := range []struct {
		name, fs, version string
		files             map[string]string
		program           []byte
		want              string
	}{
		{"no init", "erofs", "6.1", without("sbin/init"), program, "no /sbin/init"},
		{"no modules", "erofs", "6.2", good, program, "lib/modules/6.2/modules.dep is not in the image"},
		{"no version", "erofs", "", good, program, "does not tell its version"},
		{"no driver", "squashfs", "6.1", good, program, "no module squashfs"},
		{"a module is gone", "erofs", "6.1", without("lib/modules/6.1/v/erofs.ko"), program, "v/erofs.ko"},
		{"not a program", "erofs", "6.1", good, []byte("#!/bin/sh"), "bootprof itself"},
	} {
		var i *InitrdError
		if _, err := Initrd(treeOf(t, tt.files), tt.fs, tt.version, tt.program); !errors.As(err, &i) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if checkStatic(self) != nil { // the test itself is dynamic where there is a C compiler
		if _, err := Initrd(treeOf(t, good), "erofs", "6.1", self); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
			t.Errorf("a dynamic program: %v", err)
		}
	}
}
