#!/bin/sh
# Run by dracut's loop while it waits for the root. Not every module for the network calls netroot (that for systemd-networkd does not): an
# interface with an address is as good.
# shellcheck disable=SC1091,SC2154 # dracut's files and variables

command -v getarg >/dev/null || . /lib/dracut-lib.sh

case $netroot in
bootprof:*)
	bp_iface=$(ip -4 -o addr show scope global | while read -r _ name _; do echo "$name" && break; done)
	if [ "$bp_iface" ] && [ ! -d "$NEWROOT/proc" ]; then
		/sbin/bootprofroot "$bp_iface" "$netroot" "$NEWROOT"
	fi
	;;
esac
