// Package initramfs has what makes a root file system over http part of a machine's boot: the scripts for initramfs-tools,
// dracut and mkinitcpio, which `make install` puts in their places, and the overlay, an initrd to load beside a stock one.
//
//	boot.sh            what all scripts share: parameters, mounts, the writable layer, notes for the network's managers
//	initramfs-tools/   boot=bootprof; also live-boot's httpfs
//	dracut/            root=bootprof:URL
//	mkinitcpio/        the hook bootprof
//
// docs/boot.md is the manual. The tests of this package boot real machines in QEMU.
package initramfs

import (
	"embed"
	"fmt"
	"io"
	"path"

	"bootprof/internal/cpio"
	"bootprof/internal/kmod"
)

//go:embed boot.sh initramfs-tools/scripts/bootprof initramfs-tools/conf.d/bootprof
var scripts embed.FS

// Places in an initramfs. The scripts know them, too.
const (
	clientPath = "usr/bin/bootprof-mount"
	httpfsPath = "usr/bin/httpfs" // live-boot's name for its FUSE client
	libDir     = "usr/lib/bootprof"
	etcDir     = "etc/bootprof"
)

// overlayFiles are the scripts of an overlay: those of initramfs-tools, as live-boot needs none. No path may begin with bin,
// lib or sbin, which are symlinks in the initrd below. What lies in scripts/init-premount runs only if the file ORDER beside
// it names it, and that belongs to the stock initrd.
var overlayFiles = map[string]string{
	libDir + "/boot.sh":    "boot.sh",
	"scripts/bootprof":     "initramfs-tools/scripts/bootprof",
	"conf/conf.d/bootprof": "initramfs-tools/conf.d/bootprof",
}

// Overlay says what an overlay holds. Client must be set.
type Overlay struct {
	Client    []byte        // bootprof-mount, a static program for the machine that boots
	CA        []byte        // PEM: the CA certificates that it trusts besides Mozilla's; nil: none
	PublicKey []byte        // a minisign public key that every pack must be signed with; nil: any pack
	Modules   []kmod.Module // for a kernel whose stock initrd lacks some; in the order of loading
	Release   string        // of that kernel, as uname -r prints it; must be set if Modules are
}

// BootModules are the kernel modules that a boot wants from an overlay. The last one is for squashfs images.
var BootModules = []string{"fuse", "loop", "overlay", "erofs", "squashfs"}

// WriteTo writes the overlay as an uncompressed cpio archive. A kernel unpacks it on top of the initrd that a boot loader
// puts before it.
func (o *Overlay) WriteTo(w io.Writer) (int64, error) {
	var a cpio.Archive
	a.File(clientPath, 0o755, o.Client)
	a.Symlink(httpfsPath, path.Base(clientPath))
	for to, from := range overlayFiles {
		b, err := scripts.ReadFile(from)
		if err != nil {
			return 0, fmt.Errorf("BUG: %s is not built in: %w", from, err)
		}
		a.File(to, 0o644, b)
	}
	if o.CA != nil {
		a.File(etcDir+"/ca.pem", 0o644, o.CA)
	}
	if o.PublicKey != nil {
		a.File(etcDir+"/pubkey", 0o644, o.PublicKey)
	}
	if len(o.Modules) > 0 {
		dir := path.Join(libDir, "modules", o.Release)
		var order []byte
		for _, m := range o.Modules {
			a.File(path.Join(dir, m.Name), 0o644, m.Data)
			order = append(order, m.Name+"\n"...)
		}
		a.File(dir+"/order", 0o644, order)
	}
	return a.WriteTo(w)
}
