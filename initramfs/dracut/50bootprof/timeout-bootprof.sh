#!/bin/sh
# Run by dracut when it gives up waiting for the root.
# shellcheck disable=SC1091,SC2154 # dracut's files and variables

command -v getarg >/dev/null || . /lib/dracut-lib.sh

case $netroot in
bootprof:*)
	[ -d "$NEWROOT/proc" ] || echo "bootprof: no network: no interface, or no answer of a DHCP server (ip=dhcp); $netroot wants one" >/dev/kmsg
	;;
esac
