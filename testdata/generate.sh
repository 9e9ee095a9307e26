#!/bin/bash
# Makes the images in images/, each of the same small tree, and images/tree.list, what the tree holds. Every image
# is made by the program that users make such images with; none by bootprof. As root, for owners and a device:
#
#	testdata/generate.sh [DIR]
#
# With the versions named in README.md it makes the same bytes again. The cloop is made only if create_compressed_fs
# is on the PATH: scripts/setup.sh does not install cloop-utils.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-$here/images}"
cd "${1:-$here/images}"
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000 MKE2FS_SKIP_CHECK_MSG=1
uuid=00000000-0000-4000-8000-000000000001
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
src=$work/tree

noise() { # SEED BYTES
	for i in $(seq $(($2 / 64 + 1))); do echo "$1 $i" | sha512sum; done | cut -d' ' -f1 |
		tr -d '\n' | tr a-f A-F | basenc --base16 -d | head -c "$2"
}

# The tree: files from none to several blocks, text, noise and zeros, each type of file, owners, modes, names.
mkdir -p "$src"/{etc,dev,usr/bin,usr/share/many,var/empty}
echo lab >"$src/etc/hostname"
printf '#!/bin/sh\necho hello\n' >"$src/usr/bin/hello"
noise a 3001 >"$src/usr/bin/noise"
{ noise a 3001; seq 1500; noise b 500; } >"$src/usr/share/mixed"
for _ in $(seq 400); do seq 200; done >"$src/usr/share/text"
for i in $(seq 20); do seq "$i" $((i + 5)) >"$src/usr/share/many/file-$i"; done
echo "odd name" >"$src/usr/share/with space, é and +"
: >"$src/etc/empty"
truncate -s 100000 "$src/var/zeros"
ln "$src/usr/bin/hello" "$src/usr/bin/hello-link"
ln -s ../bin/hello "$src/usr/share/link"
ln -s nowhere "$src/dangling"
mkfifo "$src/dev/fifo"
mknod "$src/dev/null" c 1 3
chmod 4755 "$src/usr/bin/hello"
chmod 600 "$src/etc/empty"
chmod 666 "$src/dev/null"
chmod 1777 "$src/var"
chown -h 1000:100 "$src/etc/hostname" "$src/dangling"
chown 12:70000 "$src/var/empty"
find "$src" -exec touch -h -d @1600000000 {} +
touch -h -d @1234567890 "$src/etc/hostname" "$src/usr/share/link" "$src/usr/bin"
touch -d @1600000000 "$src"
"$here/list.sh" "$src" >tree.list

compress() { # FILE: images are stored small
	zstd -19 -qfo "$1.zst" "$work/$1"
}

# Squashfs, one for each compressor that kernels read.
for compressor in gzip lzo lz4 xz zstd; do
	options=()
	[ $compressor != lz4 ] || options=(-Xhc)
	[ $compressor != zstd ] || options=(-Xcompression-level 19)
	mksquashfs "$src" "squashfs-$compressor.sqfs" -noappend -quiet -no-progress \
		-comp $compressor "${options[@]}" -b 131072
done
mksquashfs "$src" "$work/squashfs-none.sqfs" -noappend -quiet -no-progress \
	-noI -noD -noF -noX -b 4096
compress squashfs-none.sqfs

# EROFS.
erofs() { # OUT OPTION...
	mkfs.erofs --quiet -d0 -T$SOURCE_DATE_EPOCH --preserve-mtime -U$uuid "${@:2}" "$work/$1" "$src"
	compress "$1"
}
erofs erofs-plain.erofs
erofs erofs-lz4hc.erofs -zlz4hc -C65536 -Eztailpacking

# ext4, with a journal and without.
ext4() { # OUT BYTES OPTION...
	rm -f "$work/$1"
	truncate -s "$2" "$work/$1"
	mke2fs -q -F -t ext4 -U $uuid -E hash_seed=$uuid,root_owner=0:0 -d "$src" "${@:3}" "$work/$1"
	# mke2fs 1.47.0 takes over when the files of this run were made, and read, and leaves out the root's time.
	{
		for i in $(seq 64); do
			printf 'sif <%d> %s 1600000000\n' "$i" ctime "$i" atime "$i" crtime
		done
		echo 'sif <2> mtime 1600000000'
	} | debugfs -w -f - "$work/$1" >/dev/null 2>&1
}
ext4 ext4.img 2M -b 4096 -I 256 -O ^has_journal,^resize_inode,metadata_csum -N 256
ext4 ext4-journal.img 4M -b 1024 -I 256 -J size=1 -N 256
compress ext4.img
compress ext4-journal.img

# Tar. The plain one is what tree.tar.zst holds.
tar --sort=name --numeric-owner --format=gnu -C "$src" -cf "$work/tree.tar" .
gzip -9nc "$work/tree.tar" >tree.tar.gz
zstd -19 -qfo tree.tar.zst "$work/tree.tar"
xz -9c "$work/tree.tar" >tree.tar.xz
bzip2 -9c "$work/tree.tar" >tree.tar.bz2

# Images in images: a live ISO as Debian has it, one as Fedora had it, disks.
iso() { # OUT NAME-INSIDE IMAGE
	local dir="$work/$1.d"
	mkdir -p "$dir/$(dirname "$2")"
	cp "$3" "$dir/$2"
	find "$dir" -exec touch -d @$SOURCE_DATE_EPOCH {} +
	xorriso -as mkisofs -quiet -r -J -V BOOTPROF -o "$work/$1" "$dir" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
	compress "$1"
}
iso live.iso live/filesystem.squashfs squashfs-zstd.sqfs
mkdir -p "$work/nested/LiveOS"
cp "$work/ext4.img" "$work/nested/LiveOS/rootfs.img"
find "$work/nested" -exec touch -d @$SOURCE_DATE_EPOCH {} +
mksquashfs "$work/nested" "$work/nested.sqfs" -quiet -no-progress -comp xz
iso live-nested.iso LiveOS/squashfs.img "$work/nested.sqfs"

disk() { # OUT FIRST-SECTOR IMAGE <SFDISK-SCRIPT
	rm -f "$work/$1"
	truncate -s 4M "$work/$1"
	sfdisk -q "$work/$1"
	dd if="$3" of="$work/$1" bs=512 seek="$2" conv=notrunc status=none
	compress "$1"
}
disk disk-gpt.img 2048 "$work/ext4.img" <<END
label: gpt
label-id: $uuid
first-lba: 34
start=40, size=1000, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=$uuid, name=efi
start=2048, size=4096, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=00000000-0000-4000-8000-000000000002, name=root
END
disk disk-mbr.img 1024 "$work/erofs-lz4hc.erofs" <<END
label: dos
label-id: 0x12345678
start=1024, size=4096, type=83
END

# A cloop, as KNOPPIX had them, of the live ISO.
if command -v create_compressed_fs >/dev/null; then
	create_compressed_fs -q -B 65536 "$work/live.iso" "$work/live.cloop" >"$work/log" 2>&1 ||
		{ cat "$work/log" >&2; exit 1; }
	compress live.cloop
fi
