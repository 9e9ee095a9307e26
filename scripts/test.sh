#!/bin/bash
# The whole test suite, as CI runs it: set-up, format, vet, staticcheck, tests, the concurrent packages under the race
# detector and on one processor, both machine types, machines in QEMU, fuzzing, and a real Debian that boots.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
need_root test.sh
cd "$here/.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

export BOOTPROF_NEED_SERVERS=1 # set-up installs the web servers: a test of one must not be skipped
export BOOTPROF_NEED_VM=1      # and QEMU
UNSTEADY=$(mktemp) # tests that passed the second time only, see go-test.sh
export UNSTEADY
trap 'rm -f "$UNSTEADY"' EXIT

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "set-up"
"$here/setup.sh"

step "gofmt"
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	printf 'gofmt would change:\n%s\n' "$unformatted"
	exit 1
fi

step "go vet, staticcheck"
go vet ./...
GOFLAGS= go run $staticcheck ./...

step "static binaries for amd64 and arm64"
make -s cross
for arch in amd64 arm64; do
	for program in bootprof bootprof-mount; do
		go version -m "${BUILD:-build}/$program-$arch" | grep -q 'CGO_ENABLED=0'
	done
done
"$here/boot-binary-size.sh" "${BUILD:-build}/bootprof-mount-amd64"

step "tests"
"$here/go-test.sh" -count=1 -timeout 20m ./...

step "race detector"
"$here/go-test.sh" -count=1 -race -timeout 20m ./mountclient ./recorder ./internal/... ./imagepack/tree
"$here/go-test.sh" -count=1 -race -timeout 20m -run 'LeavesTheDirectory|WriteProgress|BodyTree|FrameEncoder|Split' ./imagepack ./imagepack/bpk
"$here/go-test.sh" -count=1 -race -timeout 20m -run 'Concurrent|ReadAt' ./imagepack/erofs ./imagepack/ext4 ./imagepack/cloop ./imagepack/squashfs
"$here/go-test.sh" -count=1 -race -timeout 20m -run 'TestWrite/zstd' ./imagepack/squashfs/relayout

step "one processor"
GOMAXPROCS=1 "$here/go-test.sh" -count=1 -timeout 10m ./mountclient ./recorder

# A fuzzer takes its time, whatever it is given; the machines wait for each other. So the fuzzers get what these leave over.
step "machines in QEMU, and fuzzers (${FUZZTIME:=60s} each) beside them"
fuzzlog=$(mktemp)
FUZZTIME=$FUZZTIME nice -n 19 "$here/fuzz.sh" >"$fuzzlog" 2>&1 &
fuzzers=$!
trap 'kill $fuzzers 2>/dev/null || true; rm -f "$fuzzlog" "$UNSTEADY"' EXIT # under set -e a kill that fails would be the script's exit code
"$here/test-vm.sh" 'TestInitramfsTools|TestLiveBoot|TestStockInitrdHTTPS|TestDracut|TestCacheOnDisk|TestBadInput' # what fits; make test-vm has all
step "what the fuzzers found"
code=0
wait $fuzzers || code=$?
cat "$fuzzlog"
[ $code -eq 0 ]

step "the demo, one round: a real Debian, recorded, packed, mounted over a link and booted"
ROUNDS=1 FETCH_ROUNDS=1 RECORDINGS=2 "$here/demo.sh" debian

step "the same Debian, booted from nginx, Apache, lighttpd, Caddy and python3 -m http.server"
BOOTPROF_BOOT=$(realpath "${BUILD:-build}") "$here/go-test.sh" -count=1 -v -run '^TestRealServersBoot$' ./mountclient

if [ -s "$UNSTEADY" ]; then
	step "to be mended"
	cat "$UNSTEADY"
fi
step "done"
