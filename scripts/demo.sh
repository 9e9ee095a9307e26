#!/bin/bash
# The whole flow on a real Debian: make the root, pack, record boots of the pack, pack again with the runs, and measure
# boots over an emulated link against local disk and fetch-all.
#
#   scripts/demo.sh [debian|large]
#
# BUILD (default ./build) keeps what is made; ROUNDS (5), FETCH_ROUNDS (all; 2 for large), RECORDINGS (3; 5 for large) and
# LINK (100mbit/20ms) change the measurement.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
need_root demo.sh
cd "$here/.."

kind=${1:-debian}
case $kind in
debian) recordings=${RECORDINGS:-3} fetch_rounds=${FETCH_ROUNDS:-0} ;;
large) recordings=${RECORDINGS:-5} fetch_rounds=${FETCH_ROUNDS:-2} ;;
*) echo "demo.sh: $kind: want debian or large" >&2; exit 2 ;;
esac
build=$(realpath -m "${BUILD:-build}")
link=${LINK:-100mbit/20ms}
mkdir -p "$build"

"$here/setup.sh"
PATH=$PATH:/usr/local/go/bin
for program in ./cmd/bootprof ./bench/cmd/bench ./bench/cmd/labboot; do
	binary=$build/$(basename $program)
	CGO_ENABLED=0 go build -trimpath -o "$binary.new" $program
	# An unchanged program keeps its time, and with it the packs that it made.
	cmp -s "$binary.new" "$binary" || mv "$binary.new" "$binary"
	rm -f "$binary.new"
done
"$here/make-$kind-root.sh" "$build/$kind.tar"
"$here/make-images.sh" "$build/$kind.tar" "$build/$kind"

# A pack is made again when the tar or the program is newer.
plain=$build/$kind.plain.bpk
trained=$build/$kind.bpk
newer() { [ "$1" -nt "$build/$kind.tar" ] && [ "$1" -nt "$build/bootprof" ]; }

newer "$plain" || longstep "packing without a profile" "$build/$kind.pack.log" \
	"$build/bootprof" pack "$build/$kind.tar" -o "$plain"
runs=()
stale=0
for i in $(seq "$recordings"); do
	run=$build/$kind.$i.bprof
	if ! [ "$run" -nt "$plain" ]; then
		longstep "recording boot $i of $recordings" "$build/$kind.record.log" \
			"$build/bootprof" record --image "$plain" -o "$run" --until booted -- "$build/labboot" '{dir}'
		stale=1
	fi
	runs+=("$run")
done
if [ $stale = 1 ] || ! newer "$trained"; then
	profiles=()
	for run in "${runs[@]}"; do profiles+=(--profile "$run"); done
	longstep "packing with ${#runs[@]} runs" "$build/$kind.pack.log" \
		"$build/bootprof" pack "$build/$kind.tar" -o "$trained" --boot-level best "${profiles[@]}"
fi

# What the touched pages take as one stream, to compare the bytes on the link with.
pages=$build/$kind.pages
if ! [ "$pages.zst" -nt "$trained" ]; then
	"$build/bootprof" analyze --pack "$trained" --pages-to "$pages" --json "${runs[@]}" >/dev/null
	longstep "the touched pages under zstd -19" "$build/$kind.zstd.log" zstd -19 -q -f --rm "$pages" -o "$pages.zst"
fi

flags=(--zstd19 "$(stat -c %s "$pages.zst")")
for run in "${runs[@]}"; do flags+=(--run "$run"); done
exec "$build/bench" --link "$link" --rounds "${ROUNDS:-5}" --fetch-rounds "$fetch_rounds" \
	--bootprof "$build/bootprof" \
	--local "$build/$kind.erofs" --fetch "$build/$kind.sqfs" --plain-pack "$plain" --pack "$trained" "${flags[@]}" \
	--markdown "$build/$kind.md" --json "$build/$kind.json"
