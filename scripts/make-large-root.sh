#!/bin/bash
# Makes a Debian 12 of more than 1 GB that starts a database, a web server and a desktop program while it boots:
#
#   scripts/make-large-root.sh OUT.tar
#
# An existing OUT.tar is kept. The desktop program (LibreOffice rendering a document) runs headless as a oneshot unit of
# multi-user.target, so the target is reached when it has done its work.
set -euo pipefail
. "$(dirname "$0")/longstep.sh"

out=${1:?usage: make-large-root.sh OUT.tar}
if [ -s "$out" ]; then
	echo "$out: kept from an earlier run" >&2
	exit 0
fi
need_root make-large-root.sh
mkdir -p "$(dirname "$out")"
tmp=$out.tmp.$$
trap 'rm -f "$tmp"' EXIT
trap 'exit 130' INT TERM

here=$(cd "$(dirname "$0")" && pwd)
packages=linux-image-amd64,systemd-sysv,udev,dbus,live-boot,ca-certificates
packages+=,mariadb-server,nginx
packages+=,libreoffice-writer,libreoffice-calc,libreoffice-impress
packages+=,fonts-dejavu,fonts-noto-core,fonts-noto-cjk,fonts-liberation

longstep "large Debian 12 root (about 4 minutes)" "$out.log" \
	mmdebstrap --variant=minbase --format=tar --include=$packages \
	--customize-hook="$here/large-root-services.sh \"\$1\"" \
	bookworm "$tmp"
sync "$tmp"
mv "$tmp" "$out"
