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
BUILD=$build make -s build
CGO_ENABLED=0 go build -trimpath -o "$build/vmboot" ./bench/cmd/vmboot
bootprof=$build/bootprof

# The machines of the VM tests serve here, too: a root, its kernel and its own initrd.
dir=$build/vm
mkdir -p "$dir"
if ! [ -e "$dir/root.tar" ]; then
	rm -f "$build"/bootprof_*.deb
	BUILD=$build make -s deb >/dev/null
	mv "$build"/bootprof_*.deb "$dir/bootprof.deb"
	"$here/make-vm-images.sh" "$dir" "$dir/bootprof.deb"
fi
out=$build/demo-vm
mkdir -p "$out"
"$here/make-images.sh" "$dir/root.tar" "$out/root"

plain=$out/plain.bpk
trained=$out/root.bpk
[ "$plain" -nt "$dir/root.tar" ] || longstep "packing without a profile" "$out/pack.log" "$bootprof" pack "$dir/root.tar" -o "$plain"
profiles=()
runs=()
for i in $(seq "$recordings"); do
	run=$out/run-$i.bprof
	if ! [ "$run" -nt "$plain" ]; then
		longstep "recording boot $i of $recordings in a virtual machine" "$out/record.log" "$bootprof" record --vm "$plain" -o "$out/recording.bprof"
		cat "$out/record.log" >&2
		mv "$out/recording.bprof" "$run"
	fi
	runs+=("$run")
	profiles+=(--profile "$run")
done
longstep "packing with ${#runs[@]} runs" "$out/pack.log" "$bootprof" pack "$dir/root.tar" -o "$trained" "${profiles[@]}"
"$bootprof" analyze --pack "$trained" "${runs[@]}" >&2
"$bootprof" initrd -o "$out/overlay.cpio" --client "$build/bootprof-mount" --modules "$dir"/modules/*

# A row for each way. Fetching all takes memory for the whole image.
rows=$out/rows.md
"$build/vmboot" --header >"$rows"
boot() { # LABEL MEMORY WORDS INITRD...
	local label=$1 memory=$2 words=$3 initrds=()
	shift 3
	for i; do initrds+=(--initrd "$i"); done
	longstep "booting: $label" "$out/$label.log" "$build/vmboot" --label "$label" --kernel "$dir/vmlinuz" "${initrds[@]}" \
		--memory "$memory" --serve "$out" --console "$out/$label.console.log" --append "$words" --row "$rows"
}
boot bootprof 1024 "bootprof={url}/root.bpk" "$dir/stock.img" "$out/overlay.cpio"
ln -f "$out/root.sqfs" "$out/root.squashfs" # live-boot knows an image by this ending alone
boot fetch-all 2048 "boot=live fetch={url}/root.squashfs" "$dir/stock.img"
cat "$rows"
