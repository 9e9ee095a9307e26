# Sourced by the boot scripts of initramfs-tools, dracut and mkinitcpio: mounts the root file system that the kernel's
# command line names. POSIX sh, for the shells of klibc, busybox and dash; no program is called that klibc has not got.
#
# Flow: bp_parse reads the command line, bp_root mounts
#
#   /run/bootprof/cache   the cache: a labelled disk or a tmpfs of its own, if there is one
#   /run/bootprof/lower   the image, read-only
#   /run/bootprof/rw      the writable layer: a tmpfs of its own, or a labelled disk
#
# and puts an overlay of the last two on the new root. /run moves along to the new root, and these with it. bp_keep leaves
# notes below /run that keep the network's managers from taking the address away. docs/boot.md has all parameters.
#
# Whoever sources it defines:
#   bp_network         brings the network up, or returns an error
# and runs bp_root in a shell of its own: what ends that is bp_fail, which leaves one line in $bp_error to be shown in front of
# the initramfs's own shell. bp_root may be run again after that.
# shellcheck shell=sh

bp_run=/run/bootprof
bp_etc=/etc/bootprof
bp_client=/usr/bin/bootprof-mount
bp_error=$bp_run/error
bp_net_seconds=120 # how long bp_network may take
bp_routes=/proc/net/route

# bp_parse WORD... takes the words of the kernel's command line. bp_url is empty if none of them is ours.
bp_parse() {
	bp_url='' bp_from='' bp_netboot='' bp_iso_url='' bp_overlay=tmpfs bp_cache='' bp_wait=60s bp_options='' bp_unknown=''
	for bp_word; do
		bp_value=${bp_word#*=}
		case $bp_word in
		bootprof=*) bp_url=$bp_value bp_from=bootprof ;;
		httproot=*) [ "$bp_from" = bootprof ] || { bp_url=$bp_value bp_from=httproot; } ;;
		netboot=*://*) [ "$bp_from" ] || { bp_url=$bp_value bp_from=netboot; } ;;
		netboot=url) bp_netboot=y ;;
		url=*) bp_iso_url=$bp_value ;;
		bootprof.overlay=*) bp_overlay=$bp_value ;;
		bootprof.cache=*) bp_cache=$bp_value ;;
		bootprof.cache-size=* | bootprof.memory=* | bootprof.ca=* | bootprof.cert=* | bootprof.key=* | bootprof.credentials=* | \
			bootprof.proxy=* | bootprof.pubkey=* | bootprof.digest=* | bootprof.timeout=* | bootprof.fill=*)
			[ "$bp_value" ] || bp_unknown="$bp_word has no value"
			bp_word=${bp_word%%=*}
			bp_options="$bp_options --${bp_word#bootprof.}=$bp_value"
			;;
		bootprof.start-timeout=*) bp_wait=$bp_value ;;
		bootprof.network-timeout=*) bp_net_seconds=$bp_value ;;
		bootprof.debug) bp_options="$bp_options --verbose" ;;
		bootprof.record) bp_options="$bp_options --record" ;;
		bootprof.*) bp_unknown="${bp_word%%=*} is no parameter of bootprof (see docs/boot.md)" ;;
		esac
	done
	if [ -z "$bp_from" ] && [ "$bp_netboot" ] && [ "$bp_iso_url" ]; then
		bp_url=$bp_iso_url bp_from=url
	fi
	case $bp_net_seconds in
	'' | *[!0-9]*) bp_unknown="bootprof.network-timeout=$bp_net_seconds: want seconds" ;;
	esac
	case $bp_url in
	http://* | https://* | nfs://* | cifs://*) ;;
	'') [ -z "$bp_from" ] || bp_unknown="$bp_from= has no URL" ;;
	*) bp_unknown="$bp_from=$bp_url: want http://HOST/PATH or https://HOST/PATH" ;;
	esac
}

# bp_fail MESSAGE ends bp_root.
bp_fail() {
	echo "bootprof: $*" >$bp_error
	exit 1
}

# bp_root ROOT mounts the root file system at ROOT.
bp_root() {
	bp_undo
	[ -z "$bp_unknown" ] || bp_fail "$bp_unknown"
	[ "$bp_url" ] || bp_fail "bootprof= is missing: want bootprof=URL on the kernel's command line"
	bp_modules
	bp_lower=$bp_run/lower
	mkdir -p "$bp_lower"
	bp_network || bp_offline
	bp_started=$(bp_clock)
	case $bp_url in
	http*)
		[ -e /dev/fuse ] || bp_fail "the kernel has no FUSE, or this initrd has not got its module: make the initrd again, or the overlay with bootprof initrd --modules"
		bp_mount_cache
		bp_mount_http
		;;
	nfs://*) bp_mount_nfs ;;
	cifs://*) bp_mount_cifs ;;
	esac
	bp_layers=$bp_lower
	bp_is_root "$bp_lower" || bp_inner
	bp_write "$1"
	bp_is_root "$1" && [ -d "$1/proc" ] || bp_fail "$bp_from=$bp_url: there is no root file system in it"
	bp_say "$1 is $bp_url, mounted $(bp_since "$bp_started") s after the network was up"
	bp_keep "$1"
}

# bp_offline is for a boot whose network is away: a cache on a disk may have all that it wants, if a digest says of what.
bp_offline() {
	case "$bp_cache $bp_options " in
	[LU/]*" --digest="*) bp_say "no network: the boot goes on from bootprof.cache=$bp_cache" ;;
	*) bp_fail "no network: no interface, or no answer of a DHCP server (ip=, BOOTIF=); $bp_from=$bp_url wants one" ;;
	esac
}

# bp_undo takes away what an earlier attempt left.
bp_undo() {
	mkdir -p $bp_run
	for bp_dir in "$bp_run"/inner/* $bp_run/lower $bp_run/rw $bp_run/cache; do
		[ ! -d "$bp_dir" ] || umount "$bp_dir" 2>/dev/null || :
		[ ! -s "$bp_dir.loop" ] || losetup -d "$(cat "$bp_dir.loop")" 2>/dev/null || :
	done
	: >$bp_error # klibc has no rm
}

# bp_say MESSAGE writes to the kernel's log, which the console shows unless the boot is "quiet".
bp_say() { echo "<5>bootprof: $*" >/dev/kmsg; }

# bp_clock prints the hundredths of seconds since the kernel started; bp_since CLOCK the seconds since then.
bp_clock() {
	read -r bp_up _ </proc/uptime
	case $bp_up in
	0.0*) echo "${bp_up#0.0}" ;; # a number that begins with 0 is octal
	0.*) echo "${bp_up#0.}" ;;
	*) echo "${bp_up%.*}${bp_up#*.}" ;;
	esac
}
bp_since() {
	bp_centi=$(($(bp_clock) - $1))
	bp_frac=$((bp_centi % 100))
	[ $bp_frac -ge 10 ] || bp_frac=0$bp_frac
	echo "$((bp_centi / 100)).$bp_frac"
}

# bp_modules loads what the mounts need. An overlay initrd brings the modules that the initrd beside it may not have; what
# is in neither is built into the kernel, or the mount that needs it says so.
bp_modules() {
	bp_ko=/usr/lib/bootprof/modules/$(uname -r)
	if [ -e "$bp_ko/order" ]; then
		while read -r bp_name; do
			insmod "$bp_ko/$bp_name" 2>/dev/null || : # it is loaded already, as a rule
		done <"$bp_ko/order"
	fi
	for bp_name in fuse loop overlay erofs squashfs; do
		modprobe -q -b $bp_name 2>/dev/null || :
	done
}

# bp_device NAME prints the block device that LABEL=, UUID= or a path names, waiting up to ten seconds for it.
bp_device() {
	bp_tries=0
	while [ $bp_tries -lt 100 ]; do
		case $1 in
		LABEL=*) bp_dev=/dev/disk/by-label/${1#*=} ;;
		UUID=*) bp_dev=/dev/disk/by-uuid/${1#*=} ;;
		*) bp_dev=$1 ;;
		esac
		[ ! -b "$bp_dev" ] || { echo "$bp_dev"; return 0; }
		sleep 0.1
		bp_tries=$((bp_tries + 1))
	done
	return 1
}

# bp_mount_place PARAMETER VALUE DIR mounts at DIR what a parameter for a place names: tmpfs, tmpfs:SIZE, or a disk. It returns an error
# if there is no such disk.
bp_mount_place() {
	mkdir -p "$3"
	case $2 in
	tmpfs) mount -t tmpfs -o mode=0755,size=50% tmpfs "$3" || bp_fail "$1=$2: no tmpfs can be mounted" ;;
	tmpfs:*) mount -t tmpfs -o "mode=0755,size=${2#tmpfs:}" tmpfs "$3" || bp_fail "$1=$2: want a size such as tmpfs:512M" ;;
	LABEL=* | UUID=* | /dev/*)
		bp_disk=$(bp_device "$2") || return 1
		bp_type=$(bp_fstype "$bp_disk")
		modprobe -q -b "$bp_type" 2>/dev/null || :
		mount -t "$bp_type" -o rw,noatime "$bp_disk" "$3" || bp_fail "$1=$2: $bp_disk cannot be mounted as $bp_type"
		;;
	*) bp_fail "$1=$2: want tmpfs, tmpfs:SIZE, LABEL=, UUID= or /dev/" ;;
	esac
}

# bp_fstype DEVICE prints the type of its file system, ext4 if nothing here can tell.
bp_fstype() {
	FSTYPE=''
	if command -v blkid >/dev/null 2>&1; then
		FSTYPE=$(blkid -o value -s TYPE "$1" 2>/dev/null) || :
	elif command -v fstype >/dev/null 2>&1; then
		eval "$(fstype "$1" 2>/dev/null)" || :
	fi
	case $FSTYPE in
	'' | unknown) echo ext4 ;;
	*) echo "$FSTYPE" ;;
	esac
}

# bp_mount_cache goes on without a cache if its disk is missing: the network has all that is in it.
bp_mount_cache() {
	[ "$bp_cache" ] && [ "$bp_cache" != none ] || return 0
	if ! bp_mount_place bootprof.cache "$bp_cache" $bp_run/cache; then
		bp_say "bootprof.cache=$bp_cache: there is no such disk, the boot goes on without a cache"
		return 0
	fi
	mkdir -p $bp_run/cache/bootprof
	bp_options="$bp_options --cache=$bp_run/cache/bootprof"
}

# bp_mount_http runs the client, which stays behind. It leaves the control group it was started in: that of a unit, whose
# end systemd would make it share. What is in $bp_etc is used unless a parameter names something else.
bp_mount_http() {
	case "$bp_options " in
	*" --ca="*) ;;
	*) [ ! -e $bp_etc/ca.pem ] || bp_options="$bp_options --ca=$bp_etc/ca.pem" ;;
	esac
	case "$bp_options " in
	*" --credentials="*) ;;
	*) [ ! -e $bp_etc/credentials ] || bp_options="$bp_options --credentials=$bp_etc/credentials" ;;
	esac
	case "$bp_options " in
	*" --pubkey="* | *" --digest="*) ;;
	*) [ ! -e $bp_etc/pubkey ] || bp_options="$bp_options --pubkey=$bp_etc/pubkey" ;;
	esac
	# shellcheck disable=SC2086 # options are words
	(
		[ ! -e /sys/fs/cgroup/cgroup.procs ] || echo 0 >/sys/fs/cgroup/cgroup.procs
		exec $bp_client --root --start-timeout=$bp_wait $bp_options "$bp_url" "$bp_lower"
	) 2>$bp_run/client.log </dev/null
	bp_code=$?
	bp_last=''
	while read -r bp_line; do
		bp_last=${bp_line#bootprof: }
		bp_say "$bp_last"
	done <$bp_run/client.log
	case $bp_code in
	0) ;;
	2 | 6) bp_fail "$bp_last ($bp_from=$bp_url$bp_options)" ;;
	*) bp_fail "$bp_from=$bp_url: $bp_last" ;;
	esac
}

# bp_split_url puts host and path of URL into bp_host and bp_path.
bp_split_url() {
	bp_path=${bp_url#*://}
	bp_host=${bp_path%%/*}
	bp_path=/${bp_path#*/}
}

bp_mount_nfs() {
	bp_split_url
	modprobe -q -b nfs 2>/dev/null || :
	if command -v nfsmount >/dev/null 2>&1; then
		nfsmount -o ro,nolock "$bp_host:$bp_path" "$bp_lower"
	else
		mount -t nfs -o ro,nolock "$bp_host:$bp_path" "$bp_lower"
	fi || bp_fail "$bp_from=$bp_url: the kernel's NFS client cannot mount it"
}

bp_mount_cifs() {
	bp_split_url
	modprobe -q -b cifs 2>/dev/null || :
	bp_user=guest
	[ ! -e $bp_etc/cifs ] || bp_user=credentials=$bp_etc/cifs
	if command -v mount.cifs >/dev/null 2>&1; then
		mount.cifs "//$bp_host$bp_path" "$bp_lower" -o "ro,$bp_user"
	else # without its helper, the kernel wants an address
		mount -t cifs -o "ro,$bp_user,ip=$bp_host" "//$bp_host$bp_path" "$bp_lower"
	fi || bp_fail "$bp_from=$bp_url: the kernel's CIFS client cannot mount it"
}

# bp_is_root DIR tells whether DIR holds a root file system.
bp_is_root() { [ -d "$1/etc" ] && { [ -d "$1/usr" ] || [ -d "$1/bin" ]; }; }

# bp_inner is for what holds images, as live media do: each is mounted, the later in the alphabet above the earlier. klibc's
# losetup has no -r; a file on a read-only file system makes a read-only device anyway.
bp_inner() {
	bp_layers='' bp_count=0
	for bp_image in "$bp_lower"/casper/*.squashfs "$bp_lower"/live/*.squashfs "$bp_lower"/LiveOS/squashfs.img; do
		[ -e "$bp_image" ] || continue
		bp_count=$((bp_count + 1))
		mkdir -p $bp_run/inner/$bp_count
		bp_loop=$(losetup -f) && losetup "$bp_loop" "$bp_image" && echo "$bp_loop" >$bp_run/inner/$bp_count.loop &&
			mount -t squashfs -o ro "$bp_loop" $bp_run/inner/$bp_count ||
			bp_fail "$bp_from=$bp_url: $bp_image in it cannot be mounted"
		bp_layers=$bp_run/inner/$bp_count${bp_layers:+:$bp_layers}
	done
	[ $bp_count -gt 0 ] || bp_fail "$bp_from=$bp_url holds neither a root file system nor live/*.squashfs or casper/*.squashfs"
}

# bp_write ROOT mounts at ROOT the writable layer over the image, or the image alone.
bp_write() {
	if [ "$bp_overlay" = none ]; then
		case $bp_layers in
		*:*) mount -t overlay -o "ro,lowerdir=$bp_layers" overlay "$1" ;;
		*) mount -o bind "$bp_layers" "$1" ;;
		esac || bp_fail "bootprof.overlay=none: $1 cannot be mounted"
		return 0
	fi
	bp_mount_place bootprof.overlay "$bp_overlay" $bp_run/rw || bp_fail "bootprof.overlay=$bp_overlay: there is no such disk"
	mkdir -p $bp_run/rw/upper $bp_run/rw/work
	mount -t overlay -o "lowerdir=$bp_layers,upperdir=$bp_run/rw/upper,workdir=$bp_run/rw/work,index=off" overlay "$1" ||
		bp_fail "bootprof.overlay=$bp_overlay: the overlay cannot be mounted (is the kernel's module overlay in this initrd?)"
}

# bp_keep ROOT tells whatever manages the network in the new root that the addresses of the boot have to stay: a root file
# system hangs on them. Interfaces without a route are left alone. All of it lies below /run, so a machine that boots otherwise knows nothing of it.
bp_keep() {
	bp_kept=''
	while read -r bp_iface _; do # a line of the table is a route of an interface
		case "$bp_kept Iface lo " in
		*" $bp_iface "*) continue ;;
		esac
		bp_kept="$bp_kept $bp_iface"
		read -r bp_mac <"/sys/class/net/$bp_iface/address" || continue
		bp_keep_networkd
		bp_keep_networkmanager
		bp_keep_ifupdown
	done <$bp_routes
	bp_keep_names "$1"
}

# systemd-networkd: what is configured stays. An address of a DHCP server is asked for again, so that somebody renews it; one that
# was given by hand (ip=) is left as it is.
bp_keep_networkd() {
	mkdir -p /run/systemd/network
	bp_dhcp=ipv4
	if [ -e "/run/net-$bp_iface.conf" ]; then
		PROTO=''
		# shellcheck disable=SC1090 # what klibc's ipconfig leaves
		. "/run/net-$bp_iface.conf"
		case $PROTO in
		dhcp | bootp | '') ;;
		*) bp_dhcp=no ;;
		esac
	fi
	cat >"/run/systemd/network/00-bootprof-$bp_iface.network" <<-END
		# The root file system comes through this interface.
		[Match]
		MACAddress=$bp_mac
		Type=ether

		[Network]
		DHCP=$bp_dhcp
		KeepConfiguration=yes

		[DHCPv4]
		ClientIdentifier=mac
		UseMTU=no
		SendRelease=no
	END
}

bp_keep_networkmanager() {
	mkdir -p /run/NetworkManager/conf.d
	cat >"/run/NetworkManager/conf.d/00-bootprof-$bp_iface.conf" <<-END
		# The root file system comes through this interface.
		[device-bootprof-$bp_iface]
		match-device=mac:$bp_mac
		managed=0
	END
}

# ifupdown leaves an interface alone that it takes for configured; what it takes it for is no stanza of its file, so that it does not
# take it down at shutdown either.
bp_keep_ifupdown() {
	mkdir -p /run/network
	echo "$bp_iface=bootprof" >>/run/network/ifstate
	echo bootprof >"/run/network/ifstate.$bp_iface"
}

# bp_keep_names ROOT gives a root without any name server those of the boot.
bp_keep_names() {
	[ "$bp_overlay" != none ] && [ ! -s "$1/etc/resolv.conf" ] && [ ! -L "$1/etc/resolv.conf" ] || return 0
	for bp_conf in /run/net-*.conf; do
		[ -e "$bp_conf" ] || continue
		IPV4DNS0='' IPV4DNS1=''
		# shellcheck disable=SC1090 # what klibc's ipconfig leaves
		. "$bp_conf"
		for bp_server in $IPV4DNS0 $IPV4DNS1; do
			[ "$bp_server" = 0.0.0.0 ] || echo "nameserver $bp_server" >>"$1/etc/resolv.conf"
		done
	done
	if [ ! -s "$1/etc/resolv.conf" ] && [ -s /etc/resolv.conf ]; then # as dracut has it
		cat /etc/resolv.conf >"$1/etc/resolv.conf"
	fi
}
