#!/bin/bash
# Makes the packs of a root's tar as a user would: a pack without a profile, recorded boots of it, a pack with the runs.
#
#   scripts/make-packs.sh ROOT.tar OUT RECORDINGS
#
# OUT.plain.bpk, OUT.1.bprof and so on, OUT.bpk; OUT.pages.zst are the touched pages as one stream of zstd -19. Needs bootprof and
# labboot in $BUILD (default build). A pack is made again when the tar or bootprof is newer.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

usage="usage: make-packs.sh ROOT.tar OUT RECORDINGS"
tar=${1:?$usage}
out=${2:?$usage}
recordings=${3:?$usage}
build=$(realpath -m "${BUILD:-build}")
need_root make-packs.sh

plain=$out.plain.bpk
trained=$out.bpk
newer() { [ "$1" -nt "$tar" ] && [ "$1" -nt "$build/bootprof" ]; }

newer "$plain" || longstep "packing $(basename "$tar") without a profile" "$out.pack.log" \
	"$build/bootprof" pack "$tar" -o "$plain"
profiles=()
runs=()
stale=0
for i in $(seq "$recordings"); do
	run=$out.$i.bprof
	if ! [ "$run" -nt "$plain" ]; then
		longstep "recording boot $i of $recordings" "$out.record.log" \
			"$build/bootprof" record --image "$plain" -o "$run" --until booted -- "$build/labboot" '{dir}'
		stale=1
	fi
	runs+=("$run")
	profiles+=(--profile "$run")
done
if [ $stale = 1 ] || ! newer "$trained"; then
	longstep "packing with ${#runs[@]} runs" "$out.pack.log" \
		"$build/bootprof" pack "$tar" -o "$trained" --boot-level best "${profiles[@]}"
fi

# What the touched pages take as one stream, to compare the bytes on the link with.
pages=$out.pages
if ! [ "$pages.zst" -nt "$trained" ]; then
	"$build/bootprof" analyze --pack "$trained" --pages-to "$pages" --json "${runs[@]}" >/dev/null
	longstep "the touched pages under zstd -19" "$out.zstd.log" zstd -19 -q -f --rm "$pages" -o "$pages.zst"
fi
