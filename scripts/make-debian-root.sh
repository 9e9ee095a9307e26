#!/bin/bash
# Makes a minimal Debian 12 with kernel, systemd, udev, dbus and live-boot as a tar:
#
#   scripts/make-debian-root.sh OUT.tar [INITRD]
#
# What is there already is kept. The mirror is the one mmdebstrap picks for bookworm. The initrd that the kernel package
# makes is left out: 42 MB that do not compress, which a boot loader loads, and nothing in a running system reads. It goes to INITRD, for machines that boot with it.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

out=${1:?usage: make-debian-root.sh OUT.tar [INITRD]}
initrd=${2:-}
if [ -s "$out" ] && { [ -z "$initrd" ] || [ -s "$initrd" ]; }; then
	echo "$out: kept from an earlier run" >&2
	exit 0
fi
need_root make-debian-root.sh
mkdir -p "$(dirname "$out")"
tmp=$out.tmp.$$
trap 'rm -f "$tmp" "$tmp.initrd"' EXIT
trap 'exit 130' INT TERM

longstep "Debian 12 root (about 80 s)" "$out.log" \
	mmdebstrap --variant=minbase --format=tar \
	--include=linux-image-amd64,systemd-sysv,udev,dbus,live-boot,ca-certificates \
	--customize-hook="cat \"\$1\"/boot/initrd.img-* >'$tmp.initrd'" \
	--customize-hook='rm -f "$1"/initrd.img* "$1"/boot/initrd.img*' \
	bookworm "$tmp"
sync "$tmp"
[ -z "$initrd" ] || mv "$tmp.initrd" "$initrd"
mv "$tmp" "$out"
