#!/bin/sh
# Called by dracut's netroot: bootprofroot INTERFACE bootprof:URL NEWROOT.
# shellcheck disable=SC1091,SC2034,SC2154 # dracut's files and variables

command -v getarg >/dev/null || . /lib/dracut-lib.sh
. /usr/lib/bootprof/boot.sh

[ "$#" = 3 ] || exit 1
[ ! -d "$3/proc" ] || exit 0

bp_network() { :; } # it is up: dracut calls for that reason

# shellcheck disable=SC2046 # its words
bp_parse $(getcmdline) "bootprof=${2#bootprof:}"

# Whoever asks dracut for an overlay gets ours, in the place that was named: dracut's hooks for one run before a root like this is there.
# One that runs later, before the change of the root, is left to its work.
case $(getarg rd.overlay) in
LABEL=* | UUID=* | /dev/*) bp_overlay=$(getarg rd.overlay) ;;
esac
if getarg rd.overlay >/dev/null && grep -qs 'rd\.overlay' "$hookdir"/pre-pivot/*overlay*.sh; then
	bp_overlay=none
fi

# Not die: it halts the machine unless rd.shell is given, and writes its words into a script. Whoever leaves the shell has another try.
if ! (bp_root "$3"); then
	cat "$bp_error" >&2
	emergency_shell -n bootprof "The root file system could not be mounted: cat $bp_error"
	exit 1
fi

[ -e /dev/root ] || ln -s null /dev/root
: >"$hookdir/initqueue/work"
