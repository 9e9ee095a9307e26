#!/bin/bash
# Compares bootprof pack with mksquashfs and mkfs.erofs on two real trees, a minimal Debian and one of more than 1 GB,
# and prints the tables of docs/packing.md. What the demos made is used again: without their recorded runs there are
# no rows with a boot zone.
#
#   scripts/bench-pack.sh [debian] [large]
#
# BUILD (default ./build) keeps what is made; ROUNDS (3); ONLY, a regular expression, picks rows of the tables.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
need_root bench-pack.sh
cd "$here/.."
build=$(realpath -m "${BUILD:-build}")
mkdir -p "$build"
"$here/setup.sh"
PATH=$PATH:/usr/local/go/bin
CGO_ENABLED=0 go build -trimpath -o "$build/packbench.bootprof" ./cmd/bootprof
CGO_ENABLED=0 go build -trimpath -o "$build/packbench" ./bench/cmd/packbench
trap 'rm -rf "$build/packbench.tree"' EXIT
trap 'exit 130' INT TERM
[ $# -gt 0 ] || set -- debian large
for kind in "$@"; do
	"$here/make-$kind-root.sh" "$build/$kind.tar"
	rm -rf "$build/packbench.tree"
	mkdir "$build/packbench.tree"
	longstep "unpacking $kind.tar" "$build/$kind.log" \
		tar -C "$build/packbench.tree" --xattrs --xattrs-include='*' --numeric-owner -xpf "$build/$kind.tar"
	runs=()
	for run in "$build/$kind".[0-9].bprof; do
		[ -e "$run" ] && runs+=(--run "$run")
	done
	echo "### $kind"
	"$build/packbench" --tree "$build/packbench.tree" --bootprof "$build/packbench.bootprof" --work "$build" \
		--rounds "${ROUNDS:-3}" ${ONLY:+--only "$ONLY"} --json "$build/$kind.packs.json" ${runs[@]+"${runs[@]}"} | tee "$build/$kind.packs.md"
done
