#!/bin/bash
# Runs go test, prints a line for each package and what fails, and keeps the results in $RESULTS/NAME.json (default: build/test):
#
#   scripts/gotest.sh NAME [FLAG...] PACKAGE...
#
# FORMAT is one of gotestsum's. A test that fails is not run again.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
results=${RESULTS:-$(realpath -m "${BUILD:-build}")/test}
name=$1
shift
mkdir -p "$results"
GOFLAGS='' exec go run gotest.tools/gotestsum@v1.13.0 --format "${FORMAT:-pkgname-and-test-fails}" --format-hide-empty-pkg \
	--format-icons text --hide-summary skipped --jsonfile "$results/$name.json" -- -count=1 -timeout 30m "$@"
