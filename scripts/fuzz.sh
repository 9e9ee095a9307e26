#!/bin/bash
# Runs every fuzz test of the tree, FUZZTIME (60s) each, one per processor at a time. An input that makes a decoder take
# more than about 1 GB ends it, as a panic does: the fuzzing process may map FUZZMEM KiB of data, itself included.
set -euo pipefail
cd "$(dirname "$0")/.."
export FUZZTIME=${FUZZTIME:-60s}
export FUZZMEM=${FUZZMEM:-1310720}
PATH=$PATH:/usr/local/go/bin
bins=$(mktemp -d)
export bins
trap 'rm -rf "$bins"' EXIT

# One line for each: directory, function. Each directory's tests are built once, instrumented.
targets=$(grep -rno --include='*_test.go' -E '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|^\./(.*)/[^/]*:[0-9]+:func (.*)|\1 \2|' | sort)
if [ -z "$targets" ]; then
	echo "fuzz.sh: no fuzz test found" >&2
	exit 1
fi
for dir in $(cut -d' ' -f1 <<<"$targets" | sort -u); do
	go test -c -fuzz=Fuzz -o "$bins/${dir//\//_}" "./$dir"
done

fuzz() {
	dir=$1 name=$2 log=$bins/$2.$$.log
	# What a run finds of use is dropped with its cache; an input that fails is written to testdata/fuzz.
	if (cd "$dir" && ulimit -d "$FUZZMEM" && exec "$bins/${dir//\//_}" -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "$FUZZTIME" \
		-test.fuzzminimizetime 10x -test.fuzzcachedir "$bins/cache" -test.parallel 1) >"$log" 2>&1; then
		echo "$name in $dir: $(grep -o 'execs: [0-9]*' "$log" | tail -1), nothing found"
		return
	fi
	# Before Go 1.27 the engine itself may fail when the time is up (go.dev/issue/75804): no input is to blame then.
	if [ "$(grep -A1 '^--- FAIL' "$log" | tail -n 1)" = "    context deadline exceeded" ] && ! grep -q 'Failing input\|panic' "$log"; then
		echo "$name in $dir: $(grep -o 'execs: [0-9]*' "$log" | tail -1), nothing found when the time was up"
		return
	fi
	echo "$name in $dir FAILED:"
	grep -v '^fuzz: elapsed' "$log" | head -n 60
	return 1
}
export -f fuzz
xargs -P "$(nproc)" -L 1 bash -c 'fuzz "$0" "$1"' <<<"$targets"
echo "$(wc -l <<<"$targets") fuzzers, $FUZZTIME each: nothing found"
