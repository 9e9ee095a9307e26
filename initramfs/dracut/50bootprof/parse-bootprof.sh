#!/bin/sh
# Sourced by dracut's cmdline hooks: is the root ours? Then netroot calls /sbin/bootprofroot once an interface has its address.
# shellcheck disable=SC1091,SC2034,SC2154 # dracut's files and variables

command -v getarg >/dev/null || . /lib/dracut-lib.sh
. /usr/lib/bootprof/boot.sh

case ${netroot:-$root} in
bootprof:*) bp_dracut_url=${netroot:-$root} ;;
*) bp_dracut_url='' ;;
esac
bp_dracut_url=${bp_dracut_url#bootprof:}
# shellcheck disable=SC2046 # its words
bp_parse $(getcmdline) ${bp_dracut_url:+"bootprof=$bp_dracut_url"}
if [ "$bp_from" ]; then
	netroot="bootprof:$bp_url"
	root=bootprof
	rootok=1
	# shellcheck disable=SC2016 # expanded when it runs
	echo '[ -e "$NEWROOT/proc" ]' >"$hookdir/initqueue/finished/bootprof.sh"
fi
