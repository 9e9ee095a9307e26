#!/bin/bash
# Installs the programs that `make bench` compares with, besides what setup.sh installs: httpfs2, httpdirfs, nbdkit with
# nbdfuse, rclone, and desync 1.0.0, which is built. What is there is left alone.
#
#   scripts/setup-bench.sh
#
# desync goes to $BUILD/peers (default build/peers).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
need_root setup-bench.sh
"$here/setup.sh"
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
build=$(realpath -m "${BUILD:-$here/../build}")

# Command and the package that has it. rclone needs fusermount3, httpfs2 is of the old libfuse.
needs=(httpfs2:httpfs2 httpdirfs:httpdirfs nbdkit:nbdkit nbdfuse:libnbd-bin rclone:rclone fusermount3:fuse3)
missing=()
for need in "${needs[@]}"; do
	command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
	log=$(mktemp)
	export DEBIAN_FRONTEND=noninteractive
	longstep "package lists" "$log" apt-get -q update
	longstep "installing ${missing[*]}" "$log" apt-get -q -y --no-install-recommends install "${missing[@]}"
	rm -f "$log"
fi

# The module of desync has a name that `go install ...@latest` refuses; a go.mod that names the version builds it.
desync=$build/peers/desync
if [ ! -x "$desync" ]; then
	module=$build/peers/desync.module
	mkdir -p "$module"
	cat >"$module/go.mod" <<'MOD'
module peers

go 1.22

require github.com/folbricht/desync v1.0.0
MOD
	cat >"$module/tools.go" <<'GO'
//go:build tools

package peers

import _ "github.com/folbricht/desync/cmd/desync"
GO
	(
		cd "$module"
		export GOFLAGS=-mod=mod CGO_ENABLED=0
		longstep "building desync 1.0.0" "$build/peers/desync.log" go build -o "$desync.new" github.com/folbricht/desync/cmd/desync
	)
	mv "$desync.new" "$desync"
fi
