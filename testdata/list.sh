#!/bin/bash
# Lists what the kernel shows of the directory DIR, for comparison: a line for every name, then the SHA-256 of every
# file. Left out is what no image keeps (inode numbers, sizes of directories) and what only some keep (xattrs, parts
# of a second).
#
#	testdata/list.sh DIR >tree.list
set -euo pipefail
export LC_ALL=C
cd "$1"

names() { # find's tests; ext4 has a lost+found that the tree has not
	find . -path ./lost+found -prune -o "$@"
}

{
	names -type d -printf '%M %U:%G %Ts %p\n'
	names -type f -printf '%M %U:%G %Ts links %n size %s %p\n'
	names -type l -printf '%M %U:%G %Ts %p -> %l\n'
	names -type p -printf '%M %U:%G %Ts %p\n'
	names \( -type c -o -type b \) -exec stat -c '%A %u:%g %Y device %t:%T %n' {} +
} | sort
names -type f -print0 | sort -z | xargs -0r sha256sum
