#!/bin/bash
# The dracut module of bootprof: root=bootprof:URL, or any of the parameters in docs/boot.md.

# called by dracut
check() {
	require_binaries bootprof-mount losetup || return 1
	return 255 # only where it is asked for: add_dracutmodules+=" bootprof "
}

# called by dracut
depends() {
	echo network
}

# called by dracut
installkernel() {
	hostonly='' instmods fuse loop overlay erofs squashfs isofs nfs cifs
}

# called by dracut
install() {
	inst_multiple bootprof-mount losetup mount umount uname cat mkdir sleep modprobe insmod
	inst_multiple -o blkid mount.nfs mount.cifs
	inst_simple /usr/lib/bootprof/boot.sh
	if [ -d /etc/bootprof ]; then
		local file
		for file in /etc/bootprof/*; do
			[ -f "$file" ] && inst_simple "$file"
		done
	fi
	# shellcheck disable=SC2154 # dracut's
	inst_hook cmdline 90 "$moddir/parse-bootprof.sh"
	inst_hook initqueue/settled 90 "$moddir/online-bootprof.sh"
	inst_hook initqueue/timeout 90 "$moddir/timeout-bootprof.sh"
	inst_simple "$moddir/bootprofroot.sh" /sbin/bootprofroot
	dracut_need_initqueue
}
