#!/bin/bash
# The test suite in three tiers; docs/testing.md says what is in which, and how long each takes.
#
#   scripts/test.sh check   format, vet, staticcheck and the fast tests; as any user, with what is installed
#   scripts/test.sh         what CI runs; as root on a Debian 12 with Go, it installs everything else
#   scripts/test.sh all     everything there is
#
# No test is run twice to pass, and only those that docs/testing.md leaves to "all" are skipped. BUILD (default ./build)
# keeps images and packs for the next run. The results go to test/, test-check/ or test-all/ in it: a JSON file of each
# step, and slowest.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
cd "$here/.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
tier=${1:-test}
build=$(realpath -m "${BUILD:-build}")
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
case $tier in
test) RESULTS=$build/test ;;
check | all) RESULTS=$build/test-$tier ;;
*) echo "usage: test.sh [check|all]" >&2; exit 2 ;;
esac
export BUILD=$build RESULTS

# Packages whose tests all run under the race detector in "test", and without it in "all" only: those with goroutines that
# share state. "test" runs only the fast tests of fastraced there, and all of them without it.
raced=(./mountclient ./recorder/... ./bench/... ./internal/... ./imagepack/tree ./imagepack/cloop ./imagepack/erofs ./imagepack/ext4)
fastraced=(./imagepack ./imagepack/bpk ./imagepack/squashfs/... ./cmd/... ./analyzer ./profiles)
# The encoder zopt starts no goroutine, and takes ten times as long under the race detector: only "all" has it there.
race=(-race -gcflags=bootprof/imagepack/zopt=-race=false)
[ "$tier" = test ] || race=(-race)

lint() {
	local files unformatted
	files=$(git ls-files --cached --others --exclude-standard '*.go')
	unformatted=$(xargs -d '\n' gofmt -l <<<"$files")
	if [ -n "$unformatted" ]; then
		printf 'gofmt would change:\n%s\n' "$unformatted"
		return 1
	fi
	go vet ./...
	GOFLAGS='' go run $staticcheck ./...
}

# binaries are static, for both machine types, and the boot binary is small enough for an initramfs.
binaries() {
	make -s cross
	local arch program
	for arch in amd64 arm64; do
		for program in bootprof bootprof-mount; do
			go version -m "$build/$program-$arch" | grep -q 'CGO_ENABLED=0'
		done
	done
	"$here/boot-binary-size.sh" "$build/bootprof-mount-amd64"
}

# others NAME [FLAG...] tests the packages that are not in raced.
others() {
	local all these
	all=$(go list ./... | sort)
	these=$(go list "${raced[@]}" | sort)
	these=$(comm -23 - <(echo "$these") <<<"$all")
	# shellcheck disable=SC2086 # a word for each package
	"$here/gotest.sh" "$@" $these
}

# demo takes the way of `make demo` once; a real Debian is then booted from what that made, from each web server.
# "test" takes the Debian that the machines boot instead of making a larger one.
demo() {
	local dir=$build/test-demo
	mkdir -p "$dir"
	[ "$tier" = all ] || ln -f "$build/vm/root.tar" "$dir/debian.tar"
	BUILD=$dir ROUNDS=1 FETCH_ROUNDS=1 RECORDINGS=2 "$here/demo.sh" debian
	BOOTPROF_BOOT=$dir "$here/gotest.sh" servers -run '^TestRealServersBoot$' ./mountclient
}

names=() times=()
# step NAME COMMAND... runs a command in a process group of its own, so that a signal to this script can end all of it.
step() {
	names+=("$1") times+=($SECONDS)
	printf '\n== %s (%d s)\n' "$1" $SECONDS
	shift
	set -m
	"$@" </dev/null &
	child=$!
	set +m
	wait $child
}

if [ "$tier" != check ]; then
	need_root test.sh
fi
mkdir -p "$RESULTS"
rm -f "$RESULTS"/*
child=''
TMPDIR=$(mktemp -d /tmp/bptest.XXXXXX)
chmod 1777 "$TMPDIR" # some tests run as nobody
export TMPDIR BOOTPROF_TEST_RUN=$$.$RANDOM # seen in the environment of what the tests leave running
export GORACE=atexit_sleep_ms=0            # a process of a race binary sleeps for a second at its end otherwise
finish() {
	local code=$1 i
	set +e
	trap - EXIT
	trap '' INT TERM
	if [ -n "$child" ]; then
		kill -TERM -- -"$child" 2>/dev/null && sleep 1
	fi
	times+=($SECONDS)
	if [ -s "$RESULTS/before" ]; then
		printf '\n== what the tests left behind (%d s)\n' $SECONDS
		if "$here/leftovers.sh" check "$RESULTS/before"; then
			echo nothing
		else
			"$here/leftovers.sh" end
			[ "$code" -ne 0 ] || code=1 names+=("what the tests left behind") times+=($SECONDS)
		fi
	fi
	rm -rf --one-file-system "$TMPDIR" "${BOOTPROF_MEMORY:-$TMPDIR}"
	"$here/slowest.sh" >"$RESULTS/slowest.md"
	printf '\n'
	for ((i = 0; i + 1 < ${#times[@]}; i++)); do
		printf '%5d s  %s\n' $((times[i + 1] - times[i])) "${names[i]}"
	done
	printf '%5d s  in all\n' $SECONDS
	[ "$code" -eq 0 ] || echo "FAILED with code $code in: ${names[-1]:-the beginning}"
	exit "$code"
}
trap 'finish $?' EXIT
trap 'finish 130' INT
trap 'finish 143' TERM

if [ "$tier" = check ]; then
	step "format, vet, staticcheck" lint
	step "fast tests" "$here/gotest.sh" fast -short ./...
	exit
fi

step "set-up" "$here/setup.sh"
export BOOTPROF_NEED_ALL=1 # set-up has installed everything: a test that lacks something fails
[ "$tier" = test ] || export BOOTPROF_LONG=1
BOOTPROF_MEMORY=$(mktemp -d /dev/shm/bptest.XXXXXX)
export BOOTPROF_MEMORY
chmod 755 "$BOOTPROF_MEMORY"
"$here/leftovers.sh" list >"$RESULTS/before"

step "format, vet, staticcheck" lint
step "static binaries for amd64 and arm64" binaries
step "tests" others plain
step "tests under the race detector" "$here/gotest.sh" race "${race[@]}" "${raced[@]}"
step "fast tests of other packages under the race detector" "$here/gotest.sh" race-fast "${race[@]}" -short "${fastraced[@]}"
step "one processor" env GOMAXPROCS=1 "$here/gotest.sh" one ./mountclient ./recorder

if [ "$tier" = test ]; then
	step "fuzzers, ${FUZZTIME:=3s} each" env FUZZTIME="$FUZZTIME" "$here/fuzz.sh"
	step "a machine in QEMU" env DRACUT=no "$here/test-vm.sh" '^TestInitramfsTools$'
else
	step "raced packages without the race detector" "$here/gotest.sh" plain-raced "${raced[@]}"
	step "all other packages under the race detector" others race-others -race -timeout 60m
	step "all machines in QEMU" "$here/test-vm.sh"
	step "fuzzers, ${FUZZTIME:=60s} each" env FUZZTIME="$FUZZTIME" "$here/fuzz.sh"
	step "soak" make -s soak
fi
step "the demo, one round, and a boot from each web server" demo
