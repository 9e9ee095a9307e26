#!/bin/bash
# Prints what the boot binary adds to an initrd, and fails if it is more than the limit of 2.5 MiB under xz -9.
set -euo pipefail
limit=$((5 << 19))
bytes=$(xz -9 --stdout "$1" | wc -c)
echo "$(basename "$1"): $bytes bytes under xz -9 (limit $limit)"
[ "$bytes" -le "$limit" ]
