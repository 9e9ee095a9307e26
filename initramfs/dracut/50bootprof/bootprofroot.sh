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

# Whoever asks dracut for an overlay gets dracut's where this dracut has one for it, else ours in the place that was named.
if getargbool 0 rd.live.overlay.overlayfs; then
	bp_overlay=none
elif getargbool 0 rd.overlay || getarg rd.overlay >/dev/null; then
	if grep -qs 'rd\.overlay' "$hookdir"/*/*overlay*.sh; then
		bp_overlay=none
	else
		case $(getarg rd.overlay) in
		LABEL=* | UUID=* | /dev/*) bp_overlay=$(getarg rd.overlay) ;;
		esac
	fi
fi

(bp_root "$3") || die "$(cat "$bp_error")"

[ -e /dev/root ] || ln -s null /dev/root
: >"$hookdir/initqueue/work"
