#!/bin/bash
# Keeps the results of a run of bench.sh in the repository: docs/benchmarks gets its results.json, and the tables and plots made of
# that anew, so that nothing of an earlier run stays.
#
#   scripts/bench-keep.sh [RESULTS]
#
# RESULTS (default bench/results) is where bench.sh put them. BUILD (default ./build) keeps the program. Needs no root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=$(realpath -m "${1:-$here/../bench/results}")
cd "$here/.."
build=$(realpath -m "${BUILD:-build}")
export BUILD=$build
kept=docs/benchmarks
if [ ! -s "$results/results.json" ]; then
	echo "bench-keep.sh: no $results/results.json: scripts/bench.sh makes it" >&2
	exit 1
fi
"$here/build-programs.sh" ./bench/cmd/compare
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
"$build/compare" --render "$results/results.json" --results "$new"
# Messages of programs may name directories that compare does not know of.
if grep -nF -e "$PWD/" -e "$build/" -e "${TMPDIR:-/tmp}/" "$new/results.json" >&2; then
	echo "bench-keep.sh: results.json names directories of this machine" >&2
	exit 1
fi
mkdir -p "$kept"
rm -f "$kept"/results.* "$kept"/*.svg
install -m 644 "$new"/* -t "$kept"
du -sh "$kept"
