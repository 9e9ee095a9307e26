#!/bin/bash
# Boots machines in QEMU whose root file system comes over http, and looks at them from inside: the tests of initramfs/.
#
#   scripts/test-vm.sh [REGEX]
#
# REGEX chooses tests by name. BUILD (default ./build) keeps the images in vm/, and the console logs of machines that failed
# in vm/consoles/. DRACUT=no does without dracut's initrd, which TestDracut alone boots.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
need_root test-vm.sh
cd "$here/.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
build=$(realpath -m "${BUILD:-build}")
dir=$build/vm
mkdir -p "$dir"

"$here/setup.sh"
BUILD=$build make -s build
# Unchanged programs and scripts keep the package's time, and with it what was made of it.
files=$(git ls-files initramfs scripts/make-deb.sh scripts/make-vm-images.sh)
# shellcheck disable=SC2086 # a word for each file
sum=$(cat "$build/bootprof" "$build/bootprof-mount" $files | sha256sum)
if [ "$(cat "$dir/package.sum" 2>/dev/null)" != "$sum" ] || [ ! -e "$dir/bootprof.deb" ]; then
	rm -f "$build"/bootprof_*.deb
	BUILD=$build make -s deb >/dev/null
	mv "$build"/bootprof_*.deb "$dir/bootprof.deb"
	echo "$sum" >"$dir/package.sum"
fi
"$here/make-vm-images.sh" "$dir" "$dir/bootprof.deb"

if ! [ "$dir/overlay.cpio" -nt "$dir/bootprof.img" ]; then
	cp "$build/bootprof" "$build/bootprof-mount" "$dir/"
	longstep "packing without a profile" "$dir/pack.log" "$build/bootprof" pack "$dir/root.tar" -o "$dir/plain.bpk" --level fastest
	longstep "recording a boot, login and power-off in a machine" "$dir/record.log" \
		"$build/bootprof" record --vm "$dir/plain.bpk" -o "$dir/run.bprof"
	longstep "packing with its profile" "$dir/pack.log" \
		"$build/bootprof" pack "$dir/root.tar" -o "$dir/root.bpk" --profile "$dir/run.bprof" --level fastest --boot-level fast
	longstep "a squashfs in boot order" "$dir/pack.log" \
		"$build/bootprof" pack "$dir/root.tar" -o "$dir/root.squashfs" --format squashfs --profile "$dir/run.bprof"
	"$build/bootprof" initrd -o "$dir/overlay.cpio" --client "$build/bootprof-mount" --modules "$dir"/modules/*
fi
for initrd in stock bootprof; do
	printf '%s.img: %d bytes\n' "$initrd" "$(stat -c %s "$dir/$initrd.img")"
done
printf 'the initrd of initramfs-tools grew by %d bytes, the overlay is %d (limit 2726297)\n' \
	$(($(stat -c %s "$dir/bootprof.img") - $(stat -c %s "$dir/stock.img"))) "$(stat -c %s "$dir/overlay.cpio")"

if [ "$(stat -c %s "$dir/overlay.cpio")" -gt 2726297 ]; then
	echo "the overlay is too large" >&2
	exit 1
fi

export BOOTPROF_VM_IMAGES=$dir BOOTPROF_NEED_ALL=1 BOOTPROF_LONG=1
FORMAT=standard-verbose exec "$here/gotest.sh" machines -timeout 60m ${1:+-run "$1"} ./initramfs
