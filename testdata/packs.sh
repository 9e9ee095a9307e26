#!/bin/bash
# Makes the packs of a format version that can be mounted as file systems, DIR/tree.*, of the tree in
# images/tree.tar.xz, and the profile they are made with, if it is not there. It runs once for each format version,
# with the release that brings it. What is there is not written anew: a pack must stay as the released bootprof
# wrote it. As root.
#
#	testdata/packs.sh BOOTPROF DIR PROFILE
#	testdata/packs.sh build/bootprof testdata/packs/v1.0/tree testdata/profiles/v1-tree.bprof
set -euo pipefail
[ $# -eq 3 ] || { sed -n '/^#\t/s/^#\t/usage: /p' "$0" | head -n 1 >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
bootprof=$(realpath "$1") dir=$2 profile=$(realpath "$3")
[ ! -e "$dir" ] || { echo "packs.sh: $dir is there already" >&2; exit 1; }
dir=$(realpath -m "$dir")
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree"
cd "$work/tree"
tree=$here/images/tree.tar.xz

if [ ! -e "$profile" ]; then
	"$bootprof" pack "$tree" -o "$work/first.bpk"
	# shellcheck disable=SC2016 # that shell expands it
	"$bootprof" record --image "$work/first.bpk" -o "$profile" -- \
		sh -c 'cd "$1" && cat usr/share/with* etc/hostname usr/bin/hello && head -c 9000 usr/share/mixed' sh '{dir}' >/dev/null
fi
"$bootprof" pack "$tree" -o tree.bpk --profile "$profile"
"$bootprof" pack "$tree" -o tree.bpi --profile "$profile" --format split
"$bootprof" pack "$tree" -o tree.sqfs --profile "$profile" --format squashfs
cp "$here/images/tree.list" .
find . -type f | LC_ALL=C sort | xargs sha256sum >"$work/sums"
cp "$work/sums" SHA256SUMS
mv "$work/tree" "$dir"
