#!/bin/bash
# The whole flow in virtual machines: make a Debian, pack it, record its boots in QEMU, pack it again with the runs, and boot a
# machine from that pack over HTTP, with Debian's own kernel and initrd and bootprof's overlay beside them. The same machine
# boots by fetching the whole image first (live-boot's fetch=), to compare.
#
#   scripts/demo-vm.sh
#
# BUILD (default ./build) keeps what is made; RECORDINGS (2) is the number of recorded boots. Without KVM the processor is
# emulated: then the bytes are those of any machine, the seconds are not.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/longstep.sh"
need_root demo-vm.sh
cd "$here/.."

build=$(realpath -m "${BUILD:-build}")
recordings=${RECORDINGS:-2}
mkdir -p "$build"

"$here/setup.sh"
PATH=$PATH:/usr/local/go/bin
for program in ./cmd/bootprof ./bench/cmd/vmboot; do
	binary=$build/$(basename $program)
	CGO_ENABLED=0 go build -trimpath -o "$binary.new" $program
	cmp -s "$binary.new" "$binary" || mv "$binary.new" "$binary"
	rm -f "$binary.new"
done
bootprof=$build/bootprof
initrd=$build/debian.initrd
kernel=$build/debian.vmlinuz
"$here/make-debian-root.sh" "$build/debian.tar" "$initrd"
"$here/make-images.sh" "$build/debian.tar" "$build/debian"
[ "$kernel" -nt "$build/debian.tar" ] || tar -xOf "$build/debian.tar" --wildcards './boot/vmlinuz-*' >"$kernel"

newer() { [ "$1" -nt "$build/debian.tar" ] && [ "$1" -nt "$bootprof" ]; }
plain=$build/debian.plain.bpk
trained=$build/debian.vm.bpk
newer "$plain" || longstep "packing without a profile" "$build/debian.pack.log" "$bootprof" pack "$build/debian.tar" -o "$plain"

runs=()
stale=0
for i in $(seq "$recordings"); do
	run=$build/debian.vm-$i.bprof
	if ! [ "$run" -nt "$plain" ]; then
		longstep "recording boot $i of $recordings in a virtual machine" "$build/debian.record.log" \
			"$bootprof" record --vm "$plain" -o "$run"
		cat "$build/debian.record.log" >&2
		stale=1
	fi
	runs+=("$run")
done
if [ $stale = 1 ] || ! newer "$trained"; then
	profiles=()
	for run in "${runs[@]}"; do profiles+=(--profile "$run"); done
	longstep "packing with ${#runs[@]} runs" "$build/debian.pack.log" \
		"$bootprof" pack "$build/debian.tar" -o "$trained" "${profiles[@]}"
fi
"$bootprof" analyze --pack "$trained" "${runs[@]}" | sed -n '1,12p' >&2

"$bootprof" initrd -o "$build/overlay.cpio"

# Each machine has the memory that its way needs: fetching all takes room for the whole image.
rows=$build/debian.vm.md
export ROWS=$rows
"$build/vmboot" --header >"$rows"
longstep "booting from the pack over HTTP" "$build/debian.vmboot.log" sh -c '"$0" "$@" >>"$ROWS"' "$build/vmboot" \
	--label bootprof --kernel "$kernel" --initrd "$initrd" --initrd "$build/overlay.cpio" --memory 1024 --serve "$build" \
	--console "$build/debian.bootprof.console.log" --append "boot=bootprof bootprof={url}/debian.vm.bpk"
longstep "booting by fetching all" "$build/debian.vmboot.log" sh -c '"$0" "$@" >>"$ROWS"' "$build/vmboot" \
	--label fetch-all --kernel "$kernel" --initrd "$initrd" --memory 2048 --serve "$build" \
	--console "$build/debian.fetch.console.log" --append "boot=live fetch={url}/debian.sqfs"
cat "$rows"
