#!/bin/bash
# Makes the next build of the minimal Debian of make-debian-root.sh: the same packages, of which systemd, udev and what comes with
# them are upgraded to those of bookworm-backports.
#
#   scripts/make-debian2-root.sh OUT.tar
#
# An existing OUT.tar is kept.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

out=${1:?usage: make-debian2-root.sh OUT.tar}
if [ -s "$out" ]; then
	echo "$out: kept from an earlier run" >&2
	exit 0
fi
need_root make-debian2-root.sh
mkdir -p "$(dirname "$out")"
tmp=$out.tmp.$$
trap 'rm -f "$tmp"' EXIT
trap 'exit 130' INT TERM

backports='deb http://deb.debian.org/debian bookworm-backports main'
longstep "Debian 12 root with systemd of backports (about 100 s)" "$out.log" \
	mmdebstrap --variant=minbase --format=tar \
	--include=linux-image-amd64,systemd-sysv,udev,dbus,live-boot,ca-certificates \
	--customize-hook="echo '$backports' >\"\$1\"/etc/apt/sources.list.d/backports.list" \
	--customize-hook='chroot "$1" apt-get -q update' \
	--customize-hook='chroot "$1" apt-get -q -y --no-install-recommends -t bookworm-backports install systemd-sysv udev' \
	--customize-hook='rm -f "$1"/etc/apt/sources.list.d/backports.list "$1"/var/lib/apt/lists/*backports*' \
	--customize-hook='rm -f "$1"/initrd.img* "$1"/boot/initrd.img*' \
	bookworm "$tmp"
sync "$tmp"
mv "$tmp" "$out"
