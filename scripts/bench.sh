#!/bin/bash
# Compares bootprof with what a user could pick instead: sets everything up, makes the images, measures, and writes tables and
# plots to bench/results. docs/benchmarks.md tells how to read them; bench-keep.sh keeps them in the repository.
#
#   scripts/bench.sh [quick] [FLAGS of bench/cmd/compare]
#
# BUILD (default ./build) keeps what is made; making it the first time takes about half an hour besides. RESULTS (default
# bench/results) is where the results go. KINDS (default "debian debian2 large", debian with quick) are the images to make: enough for
# what --only leaves.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
need_root bench.sh
cd "$here/.."
build=$(realpath -m "${BUILD:-build}")
export BUILD=$build

kinds=(${KINDS:-debian debian2 large})
flags=()
if [ "${1:-}" = quick ]; then
	shift
	kinds=(${KINDS:-debian})
	flags+=(--quick)
fi
if [[ " $* " = *" --dry-run "* ]]; then
	"$here/build-programs.sh" ./bench/cmd/compare
	exec "$build/compare" --build "$build" "${flags[@]}" "$@"
fi
"$here/setup-bench.sh"
"$here/build-programs.sh" ./cmd/bootprof ./bench/cmd/labboot ./bench/cmd/compare
for kind in "${kinds[@]}"; do
	recordings=3
	[ "$kind" != large ] || recordings=5
	"$here/make-$kind-root.sh" "$build/$kind.tar"
	"$here/make-images.sh" "$build/$kind.tar" "$build/$kind"
	"$here/make-packs.sh" "$build/$kind.tar" "$build/$kind" "$recordings"
	"$here/make-bench-forms.sh" "$build/$kind"
done
revision=$(git describe --tags --always --dirty 2>/dev/null || true)
exec "$build/compare" --build "$build" --results "${RESULTS:-bench/results}" --revision "$revision" "${flags[@]}" "$@"
