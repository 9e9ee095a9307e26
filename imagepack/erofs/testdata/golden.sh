#!/bin/bash
# Makes the images *.erofs.gz of this folder with a mkfs.erofs of 1.8, whose options 1.5 does not have. As root:
#	MKFS=/path/to/mkfs.erofs ./golden.sh
set -euo pipefail
cd "$(dirname "$0")"
src=$(mktemp -d)
trap 'rm -rf "$src"' EXIT

noise() { # SEED BYTES
	for i in $(seq $(($2 / 64 + 1))); do echo "$1 $i" | sha512sum; done | cut -d' ' -f1 | xxd -r -p | head -c "$2"
}

mkdir -p "$src/dir/empty"
seq 1 5000 >"$src/numbers"
{ echo shifted; cat "$src/numbers"; } >"$src/numbers-shifted"
tail -c 11000 "$src/numbers" >"$src/numbers-end"
noise a 6001 >"$src/noise"
{ head -c 3000 "$src/noise"; head -c 14000 "$src/numbers"; noise b 3000; tail -c 4600 "$src/noise"; } >"$src/mixed"
{ cat "$src/noise"; seq 1 300; } >"$src/noise-then-text"
for i in 1 60 300 777; do seq "$i" $((i * 4)) >"$src/dir/tail-$i"; noise "$i" $((i * 3)) >"$src/dir/noise-$i"; done
truncate -s 150000 "$src/zeros"
ln "$src/numbers" "$src/dir/link"
ln -s ../numbers "$src/dir/symlink"
mknod "$src/dir/device" c 10 200
setfattr -n user.attr-a -v 1 "$src/mixed"
setfattr -n user.attr-b -v 2 "$src/noise"
setfattr -n user.attr- -v 3 "$src/zeros"
setfattr -n trusted.overlay.opaque -v y "$src/dir"

make() { # NAME OPTION...
	local image="$src.image"
	"$MKFS" --quiet -d0 -T1700000000 -U00000000-0000-4000-8000-000000000001 "${@:2}" "$image" "$src"
	gzip -9nc "$image" >"$1.erofs.gz"
	rm "$image"
}
make lz4-fragments -zlz4 -Efragments
make lz4-fragments-dedupe -zlz4hc -Eall-fragments,dedupe,ztailpacking -C16384 --mkfs-time
make lz4-dedupe -zlz4 -Ededupe
make lz4-zstd -zlz4:zstd -C8192
make lz4-blocks-1024 -zlz4 -b1024 -C4096 -Eztailpacking
make lzma-dedupe -zlzma,1 -Ededupe
make lzma-fragments -zlzma,1 -Efragments -C16384
make deflate -zdeflate,9 -C32768 -Eztailpacking
make deflate-dedupe -zdeflate,1 -Efragments,dedupe
make zstd -zzstd -C16384
make zstd-dedupe -zzstd,level=1 -Ededupe,ztailpacking
make prefixes --xattr-prefix=user.attr- --xattr-prefix=trusted.overlay.
make prefixes-fragments --xattr-prefix=user.attr- --xattr-prefix=trusted.overlay. -zlz4 -Eall-fragments
make blocks-512 -b512 --chunksize=1024 -Ededupe
