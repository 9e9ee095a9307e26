#!/bin/bash
# Makes what the VM tests boot, from Debian's packages and the package that `make deb` makes:
#
#   scripts/make-vm-images.sh DIR BOOTPROF.deb
#
#   DIR/root.tar        a Debian 12: systemd, udev, dbus, live-boot, its kernel's modules
#   DIR/vmlinuz         its kernel, as it is in the package
#   DIR/stock.img       the initrd that initramfs-tools and live-boot made of it, before bootprof was installed
#   DIR/bootprof.img    the same after bootprof was installed
#   DIR/dracut.img      the one that dracut makes with its module bootprof; not with DRACUT=no
#   DIR/modules         the root's lib/modules
#
# Modules that no virtual machine needs are left out, so that initrds are small: an emulated machine unpacks them slowly. What is
# newer than the package and this script is kept.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

usage="usage: make-vm-images.sh DIR BOOTPROF.deb"
dir=$(realpath -m "${1:?$usage}")
deb=$(realpath "${2:?$usage}")
need_root make-vm-images.sh
mkdir -p "$dir"
base=$dir/base.tar

if ! [ "$base" -nt "$0" ]; then
	longstep "a Debian 12 for the machines (about 80 s)" "$dir/base.log" \
		mmdebstrap --variant=minbase --format=tar \
		--include=linux-image-amd64,systemd-sysv,udev,dbus,initramfs-tools,live-boot,live-boot-initramfs-tools,busybox,zstd,iproute2,dracut-core,dracut-network,isc-dhcp-client,procps,iputils-arping,ca-certificates \
		--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		$(for d in sound \
			drivers/{gpu,media,infiniband,iio,staging,isdn,hwmon,usb,scsi,net/wireless,net/ethernet,net/can,net/usb,net/wan} \
			drivers/{platform,mtd,firewire,thunderbolt,accel,comedi,ata,hid,md,target,misc,mmc,nvme,bluetooth,crypto,watchdog,i2c} \
			net/{netfilter,bluetooth,mac80211,wireless,sched,bridge,ceph,sctp,tipc,rds,smc,batman-adv,openvswitch,nfc} \
			fs/{xfs,btrfs,ocfs2,f2fs,nfsd,ceph,gfs2,afs,ubifs,jfs,reiserfs,dlm,orangefs,coda}; do
			echo "--dpkgopt=path-exclude=/lib/modules/*/kernel/$d/*"
		done) \
		bookworm "$base.new"
	mv "$base.new" "$base"
fi
kept() { [ "$dir/$1" -nt "$base" ] && [ "$dir/$1" -nt "$deb" ]; }
if kept bootprof.img && { [ "${DRACUT:-}" = no ] || kept dracut.img; }; then
	echo "$dir: kept from an earlier run" >&2
	exit 0
fi

work=$(mktemp -d "$dir/work.XXXXXX")
cleanup() {
	for m in proc dev; do
		umount -l "$work/root/$m" 2>/dev/null || true
	done
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
mkdir "$work/root"
tar -C "$work/root" --xattrs --xattrs-include='*' --numeric-owner -xpf "$base"
version=$(ls "$work/root/lib/modules")
mv "$work/root/boot/initrd.img-$version" "$work/stock.img"
cp "$work/root/boot/vmlinuz-$version" "$work/vmlinuz"

# The root that boots has no initrd, and not what makes one of dracut: that would restore it at shutdown.
cp -a "$work/root" "$work/boots"
rm -f "$work/boots"/{initrd.img,initrd.img.old}
longstep "the root without dracut" "$dir/root.log" chroot "$work/boots" dpkg --purge dracut-network dracut-core
tar -C "$work/boots" --xattrs --xattrs-include='*' --numeric-owner --sort=name -cf "$work/root.tar" .

mount -t proc proc "$work/root/proc"
mount -o bind /dev "$work/root/dev"
cp "$deb" "$work/root/tmp/bootprof.deb"
touch "$work/root/boot/initrd.img-$version" # there is one to be made anew
longstep "an initrd with bootprof" "$dir/bootprof-initrd.log" chroot "$work/root" dpkg -i /tmp/bootprof.deb
mv "$work/root/boot/initrd.img-$version" "$work/bootprof.img"
files=(root.tar vmlinuz stock.img bootprof.img)
if [ "${DRACUT:-}" != no ]; then
	longstep "an initrd of dracut" "$dir/dracut-initrd.log" \
		chroot "$work/root" dracut --no-hostonly --add bootprof --kver "$version" --force /dracut.img
	mv "$work/root/dracut.img" "$work/dracut.img"
	files+=(dracut.img)
fi

rm -rf "$dir/modules"
cp -a "$work/root/lib/modules" "$dir/modules"
for file in "${files[@]}"; do
	mv "$work/$file" "$dir/$file"
	touch "$dir/$file"
done
