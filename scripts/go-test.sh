#!/bin/bash
# Runs go test with the arguments given, flags first, then packages. A test that fails is run once more by itself: on a busy machine
# a bound of time may fail that holds on a quiet one. If it passes then, it is named on standard error and in the file
# $UNSTEADY, if that is set. What is never forgiven: a data race, a panic, a package that ends by itself, and more than
# two tests that fail.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test "$@" 2>&1 | tee "$log"
code=${PIPESTATUS[0]}
[ "$code" -ne 0 ] || exit 0

if grep -qE 'DATA RACE|^panic: |\[(build|setup) failed\]' "$log"; then
	exit "$code"
fi
# One line for each test that failed: package, test. A package that failed without one has no test to run again.
if ! failed=$(awk '/^--- FAIL: / { tests[++n] = $3 }
	/^(ok|FAIL)[ \t]+[^ \t]/ { if ($1 == "FAIL" && !n) exit 1; for (i = 1; i <= n; i++) print $2, tests[i]; n = 0 }' "$log") ||
	[ -z "$failed" ] || [ "$(wc -l <<<"$failed")" -gt 2 ]; then
	exit "$code"
fi
flags=()
for arg; do
	case $arg in
	./*) ;;
	*) flags+=("$arg") ;;
	esac
done
while read -r package name; do
	printf '\n== %s of %s failed; once more, by itself\n' "$name" "$package"
	go test "${flags[@]}" -run "^$name\$" "$package" || exit 1
	echo "unsteady: $name of $package failed once and passed by itself (go test ${flags[*]})" | tee -a "${UNSTEADY:-/dev/null}" >&2
done <<<"$failed"
