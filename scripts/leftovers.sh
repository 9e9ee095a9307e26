#!/bin/bash
# Names what tests left on the machine:
#
#   scripts/leftovers.sh list           prints what is there, a line each
#   scripts/leftovers.sh check BEFORE   waits until nothing is there that is not in BEFORE, an earlier list; prints
#                                       what stays and ends with 1 if anything does
#   scripts/leftovers.sh end            kills the processes of the list, with which their mount namespaces go, and
#                                       unmounts what is below $TMPDIR
#
# A line is a mount, a loop device with its file, a FUSE connection, a network namespace, a process that has
# $BOOTPROF_TEST_RUN in its environment, a file in $TMPDIR, or one of ours in /tmp, /dev/shm or /run/bootprof. A client ends a
# moment after its mount: check waits up to 30 s.
set -euo pipefail

list() {
	{
		awk '{ print "mount " $5 }' /proc/self/mountinfo
		losetup --noheadings --output NAME,BACK-FILE | sed 's/  */ /g; s/^/loop device /'
		# Each mount of fusectl shows all connections; a private one needs nothing of the machine.
		unshare -m sh -c 'mount -t fusectl fusectl /mnt && ls /mnt' | sed 's/^/FUSE connection /'
		ip netns list | sed 's/ .*//; s/^/network namespace /'
		if [ -n "${BOOTPROF_TEST_RUN:-}" ]; then
			processes
		fi
		if [ -n "${TMPDIR:-}" ]; then
			find "$TMPDIR" -mindepth 1 -maxdepth 1 -printf 'file %p\n'
		fi
		find /tmp /dev/shm "${BOOTPROF_MEMORY:-/dev/shm}" -mindepth 1 -maxdepth 1 -name 'bootprof*' -printf 'file %p\n'
		find /run/bootprof -mindepth 1 -maxdepth 1 -printf 'file %p\n' 2>/dev/null || true
	} | sort -u
}

# processes prints the tests' processes: none of this script's callers, and nothing that it or its first caller started.
processes() {
	local own=" " callers="" pid=$BASHPID
	while [ "${pid:-1}" -gt 1 ]; do
		own+="$pid "
		[ -n "$callers" ] || [ "$pid" != "$PPID" ] || callers=$own
		pid=$(parent "$pid")
	done
	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		if grep -zqxF "BOOTPROF_TEST_RUN=$BOOTPROF_TEST_RUN" "$dir/environ" 2>/dev/null; then
			case $own in *" $pid "*) continue ;; esac
			case $callers in *" $(parent "$pid") "*) continue ;; esac
			echo "process $pid $(tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | cut -c1-150)"
		fi
	done
}

parent() { sed -n 's/^PPid:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null || true; }

case ${1:-} in
list) list ;;
check)
	before=${2:?usage: leftovers.sh check BEFORE}
	for _ in $(seq 60); do
		left=$(list | comm -13 "$before" -) || { echo "leftovers.sh: cannot list what is there" >&2; exit 2; }
		[ -n "$left" ] || exit 0
		sleep 0.5
	done
	printf 'left behind: %s\n' "$left" | sed '2,$s/^/left behind: /' >&2
	exit 1
	;;
end)
	processes | while read -r _ pid _; do
		kill -KILL "$pid" || true
	done
	awk -v dir="${TMPDIR:?}/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l
	;;
*)
	echo "usage: leftovers.sh list | check BEFORE | end" >&2
	exit 2
	;;
esac
