#!/bin/bash
# Builds programs into $BUILD (default build). An unchanged program keeps its time, and with it the packs that it made; so the
# revision is not stamped into it.
#
#   scripts/build-programs.sh PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
build=$(realpath -m "${BUILD:-build}")
mkdir -p "$build"
for program in "$@"; do
	binary=$build/$(basename "$program")
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$binary.new" "$program"
	cmp -s "$binary.new" "$binary" || mv "$binary.new" "$binary"
	rm -f "$binary.new"
done
