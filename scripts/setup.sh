#!/bin/bash
# Installs what the demo and the tests need on a bare Debian 12: Debian packages, and Go if the machine has none that is
# new enough. May be run again at any time; what is there is left alone.
#
#   scripts/setup.sh
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

need_root setup.sh

# Command and the package that has it.
needs=(
	mmdebstrap:mmdebstrap mksquashfs:squashfs-tools mkfs.erofs:erofs-utils nginx:nginx-light zstd:zstd curl:curl
	ip:iproute2 losetup:mount setfattr:attr setfacl:acl umount:mount mkfs.ext4:e2fsprogs make:make xz:xz-utils git:git
	minisign:minisign xorriso:xorriso genisoimage:genisoimage sfdisk:fdisk qemu-img:qemu-utils
	bsdtar:libarchive-tools setpriv:util-linux chattr:e2fsprogs bzip2:bzip2
	qemu-system-x86_64:qemu-system-x86 cpio:cpio shellcheck:shellcheck busybox:busybox-static dash:dash
	apache2:apache2-bin lighttpd:lighttpd caddy:caddy python3:python3
)
missing=()
PATH=$PATH:/usr/sbin:/sbin
for need in "${needs[@]}"; do
	command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
[ -e /usr/lib/lighttpd/mod_openssl.so ] || missing+=(lighttpd-mod-openssl)
[ -e /usr/lib/ISOLINUX/isohdpfx.bin ] || missing+=(isolinux) # boot sectors for the ISOs of a test

if [ "${#missing[@]}" -gt 0 ]; then
	if ! command -v apt-get >/dev/null; then
		echo "setup.sh: these are missing and there is no apt-get to install them: ${missing[*]}" >&2
		exit 1
	fi
	log=$(mktemp)
	export DEBIAN_FRONTEND=noninteractive
	longstep "package lists" "$log" apt-get -q update
	# A service that the package would start is not wanted: bench and tests start their own servers.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		trap 'rm -f '$policy EXIT
	fi
	longstep "installing ${missing[*]}" "$log" \
		apt-get -q -y --no-install-recommends install "${missing[@]}"
	rm -f "$log"
fi

# What the kernel must have. Modules are loaded where they are modules.
for module in fuse loop tun overlay squashfs erofs; do
	modprobe -q $module 2>/dev/null || true
done
fail=0
for device in /dev/fuse /dev/loop-control /dev/net/tun; do
	[ -e $device ] || { echo "setup.sh: $device is missing: the kernel or the container does not offer it" >&2; fail=1; }
done
for fs in overlay squashfs erofs cgroup2; do
	grep -qw $fs /proc/filesystems || { echo "setup.sh: the kernel has no $fs file system" >&2; fail=1; }
done
if ! command -v go >/dev/null && [ ! -x /usr/local/go/bin/go ]; then
	echo "setup.sh: Go 1.26 or newer is missing: install it and put it on the PATH" >&2
	fail=1
fi
exit $fail
