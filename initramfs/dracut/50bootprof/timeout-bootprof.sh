#!/bin/sh
# Run by dracut when it gives up waiting for the root.
# shellcheck disable=SC1091,SC2154 # dracut's files and variables

command -v getarg >/dev/null || . /lib/dracut-lib.sh

case $netroot in
bootprof:*) [ -d "$NEWROOT/proc" ] || die "bootprof: no network: no interface, or no answer of a DHCP server (ip=, rd.neednet=1); $netroot wants one" ;;
esac
