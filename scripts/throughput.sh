#!/bin/bash
# Reads a fully cached image through a mount before and after the hand-over to the kernel, and the same image through a local
# loop device, in turns; all backing files are in the page cache:
#
#   scripts/throughput.sh BOOTPROF PACK [ROUNDS]
#
# Prints MB/s (10^6) of each round and the medians. Needs root.
set -euo pipefail
bootprof=$1 pack=$2 rounds=${3:-5}
work=$(mktemp -d)
server= loop=
clean() {
	umount "$work/raw" "$work/mnt" 2>/dev/null || true
	[ -z "$loop" ] || losetup -d "$loop" || true
	[ -z "$server" ] || kill "$server" || true
	rm -rf "$work" || true
}
trap clean EXIT
mkdir "$work/raw" "$work/mnt" "$work/cache"
: >"$work/server"
"$bootprof" serve "$(dirname "$pack")" --listen 127.0.0.1:0 >/dev/null 2>"$work/server" &
server=$!
until grep -q 'http://' "$work/server"; do kill -0 "$server"; sleep 0.1; done
url=$(grep -o 'http://[^ ]*' "$work/server")$(basename "$pack")

# Everything comes into the cache, then the kernel has the mount from there.
"$bootprof" mount --cache "$work/cache" --fill max "$url" "$work/mnt"
until "$bootprof" status "$work/mnt" --json | grep -q '"phase":"local"'; do sleep 0.5; done
dev=$(findmnt -n -o SOURCE "$work/mnt")
cp --sparse=never "$work"/cache/*.image "$work/local.img"
loop=$(losetup -r -f --show "$work/local.img")
cat "$work"/cache/*.image "$work/local.img" >/dev/null

# rate FILE [FLAG]: MB/s of reading it. A loop device is read past its own page cache (direct), and out of that of its file.
rate() {
	dd if="$1" of=/dev/null bs=1M ${2:+iflag="$2"} 2>&1 | awk 'END { for (i = 1; i <= NF; i++) if ($i ~ /^s,?$/) s = $(i - 1); print $1 / s / 1e6 }'
}
for _ in $(seq "$rounds"); do
	a=$(rate "$dev" direct) b=$(rate "$loop" direct)
	echo "after the hand-over $a, local loop device $b"
	echo "$a" >>"$work/after"; echo "$b" >>"$work/loop"
done
umount "$work/mnt"
median() { sort -n "$1" | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }
"$bootprof" mount --raw --cache "$work/cache" "$url" "$work/raw"
sleep 22 # until the boot counts as over: before that the kernel reads nothing ahead
for _ in $(seq "$rounds"); do
	dd if="$work/raw/image" iflag=nocache count=0 2>/dev/null # takes it out of the page cache
	a=$(rate "$work/raw/image")
	echo "before the hand-over $a"
	echo "$a" >>"$work/before"
done
umount "$work/raw"
echo "medians of $rounds: before the hand-over $(median "$work/before") MB/s, after $(median "$work/after") MB/s, local loop device $(median "$work/loop") MB/s"
