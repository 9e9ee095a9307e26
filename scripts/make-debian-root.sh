#!/bin/bash
# Makes a minimal Debian 12 with kernel, systemd, udev, dbus and live-boot as a tar:
#
#   scripts/make-debian-root.sh OUT.tar
#
# An existing OUT.tar is kept. The mirror is the one mmdebstrap picks for bookworm. The initrd that the kernel package
# makes is left out: 42 MB that do not compress, which a boot loader loads, and nothing in a running system reads.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

out=${1:?usage: make-debian-root.sh OUT.tar}
if [ -s "$out" ]; then
	echo "$out: kept from an earlier run" >&2
	exit 0
fi
need_root make-debian-root.sh
mkdir -p "$(dirname "$out")"
tmp=$out.tmp.$$
trap 'rm -f "$tmp"' EXIT
trap 'exit 130' INT TERM

longstep "Debian 12 root (about 80 s)" "$out.log" \
	mmdebstrap --variant=minbase --format=tar \
	--include=linux-image-amd64,systemd-sysv,udev,dbus,live-boot,ca-certificates \
	--customize-hook='rm -f "$1"/initrd.img* "$1"/boot/initrd.img*' \
	bookworm "$tmp"
sync "$tmp"
mv "$tmp" "$out"
