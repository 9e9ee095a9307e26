#!/bin/bash
# Runs every fuzz test of the tree, one after the other, FUZZTIME (60s) each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-60s}
PATH=$PATH:/usr/local/go/bin

found=0
while IFS=: read -r file _ line; do
	name=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/' <<<"$line")
	echo "fuzz $name in $(dirname "$file") for $time"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x "./$(dirname "$file")"
	found=$((found + 1))
done < <(grep -rn --include='*_test.go' '^func Fuzz' . | sort)
if [ "$found" = 0 ]; then
	echo "fuzz.sh: no fuzz test found" >&2
	exit 1
fi
echo "$found fuzzers, $time each: nothing found"
