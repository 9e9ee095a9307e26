#!/bin/bash
# Takes the kernel out of Debian's package, for tests that boot one:
#
#   scripts/lab-kernel.sh OUT
#
# OUT is the kernel image, and the directory OUT.modules has the few modules of it that the lab's initramfs takes. What is
# there is kept; several of these may run at once.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

out=${1:?usage: lab-kernel.sh OUT}
mkdir -p "$(dirname "$out")"
out=$(realpath -m "$out")
exec 9>"$out.lock"
flock 9
[ -s "$out" ] && [ -d "$out.modules" ] && exit 0
work=$(mktemp -d "$out.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work"

candidate() { apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)$/\1/p' | tail -n 1; }
[ -n "$(candidate)" ] || longstep "package lists" "$out.log" apt-get -q update
package=$(candidate)
if [ -z "$package" ]; then
	echo "lab-kernel.sh: apt knows no linux-image-amd64" >&2
	exit 1
fi
# Without the sandbox user, who may not write here.
longstep "kernel $package" "$out.log" apt-get -q -o APT::Sandbox::User=root download "$package"
dpkg-deb --fsys-tarfile ./*.deb | tar -xf - --wildcards './boot/vmlinuz-*' './lib/modules/*/modules.builtin' \
	'./lib/modules/*/kernel/drivers/virtio' './lib/modules/*/kernel/drivers/block/virtio_blk*' './lib/modules/*/kernel/crypto' \
	'./lib/modules/*/kernel/lib' './lib/modules/*/kernel/fs/erofs' './lib/modules/*/kernel/fs/overlayfs'
rm -rf "$out.modules"
mv lib/modules "$out.modules"
mv boot/vmlinuz-* "$out"
