#!/bin/bash
# Makes of what make-images.sh and make-packs.sh made the other forms that `make bench` compares:
#
#   scripts/make-bench-forms.sh OUT
#
# OUT.reordered/image.sqfs with its manifest, OUT.split/image.bpk with its chunks, OUT.caibx and OUT.castr for desync, of the
# squashfs. Needs bootprof and peers/desync in $BUILD (default build). What is newer than the pack is kept.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

out=${1:?usage: make-bench-forms.sh OUT}
build=$(realpath -m "${BUILD:-build}")
need_root make-bench-forms.sh

profiles=()
for run in "$out".[0-9].bprof; do profiles+=(--profile "$run"); done
if ! [ "$out.reordered/image.sqfs" -nt "$out.bpk" ]; then
	mkdir -p "$out.reordered"
	longstep "reordered squashfs of $(basename "$out")" "$out.forms.log" \
		"$build/bootprof" pack "$out.sqfs" -o "$out.reordered/image.sqfs" --format squashfs "${profiles[@]}"
fi
if ! [ "$out.split/image.bpk" -nt "$out.bpk" ]; then
	rm -rf "$out.split"
	mkdir -p "$out.split"
	longstep "split pack of $(basename "$out")" "$out.forms.log" \
		"$build/bootprof" pack "$out.bpk" -o "$out.split/image.bpk" --format split
fi
if ! [ "$out.caibx" -nt "$out.sqfs" ]; then
	rm -rf "$out.castr" "$out.desync-state"
	mkdir -p "$out.castr"
	longstep "desync chunks of $(basename "$out")" "$out.forms.log" \
		"$build/peers/desync" make --store "$out.castr" "$out.caibx" "$out.sqfs"
fi
