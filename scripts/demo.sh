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
export BUILD=$build
"$here/build-programs.sh" ./cmd/bootprof ./bench/cmd/bench ./bench/cmd/labboot
"$here/make-$kind-root.sh" "$build/$kind.tar"
"$here/make-images.sh" "$build/$kind.tar" "$build/$kind"

"$here/make-packs.sh" "$build/$kind.tar" "$build/$kind" "$recordings"

flags=(--zstd19 "$(stat -c %s "$build/$kind.pages.zst")")
for i in $(seq "$recordings"); do flags+=(--run "$build/$kind.$i.bprof"); done
exec "$build/bench" --link "$link" --rounds "${ROUNDS:-5}" --fetch-rounds "$fetch_rounds" \
	--bootprof "$build/bootprof" \
	--local "$build/$kind.erofs" --fetch "$build/$kind.sqfs" --plain-pack "$build/$kind.plain.bpk" --pack "$build/$kind.bpk" "${flags[@]}" \
	--markdown "$build/$kind.md" --json "$build/$kind.json"
