#!/bin/bash
# Makes from a root's tar the images that boots are compared on:
#
#   scripts/make-images.sh ROOT.tar OUT
#
# OUT.erofs is uncompressed, for the boot from local disk; OUT.sqfs is a zstd squashfs, for the ways that fetch a whole
# image. Images that are newer than the tar are kept.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

usage="usage: make-images.sh ROOT.tar OUT"
tar=${1:?$usage}
out=${2:?$usage}
if [ "$out.erofs" -nt "$tar" ] && [ "$out.sqfs" -nt "$tar" ]; then
	echo "$out.erofs, $out.sqfs: kept from an earlier run" >&2
	exit 0
fi
need_root make-images.sh
work=$(mktemp -d "$out.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

mkdir "$work/root"
longstep "unpacking $(basename "$tar")" "$out.log" \
	tar -C "$work/root" --xattrs --xattrs-include='*' --numeric-owner -xpf "$tar"
# Extended inodes keep each file's own mtime, as a pack does: systemd compares some of them at boot.
longstep "$(basename "$out").erofs" "$out.log" mkfs.erofs -E force-inode-extended "$work/erofs" "$work/root"
longstep "$(basename "$out").sqfs (mksquashfs -comp zstd)" "$out.log" \
	mksquashfs "$work/root" "$work/sqfs" -comp zstd -noappend -no-progress
mv "$work/erofs" "$out.erofs"
mv "$work/sqfs" "$out.sqfs"
