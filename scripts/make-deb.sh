#!/bin/bash
# Makes a Debian package of what `make install` installs:
#
#   scripts/make-deb.sh DIR
#
# prints the path of DIR/bootprof_VERSION_ARCH.deb. The programs are static: there is nothing to depend on. Installing it makes
# the machine's initramfs anew.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath "${1:?usage: make-deb.sh DIR}")
arch=$(dpkg --print-architecture)
# A Debian version begins with a digit and has no hyphen of ours.
version=$(git describe --tags --always 2>/dev/null || echo dev)
version=0.$(git rev-list --count HEAD 2>/dev/null || echo 0)+$(tr -c 'a-zA-Z0-9.\n' '.' <<<"$version")

umask 022
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
make -s install DESTDIR="$stage"
mkdir -p "$stage/DEBIAN"
cat >"$stage/DEBIAN/control" <<END
Package: bootprof
Version: $version
Architecture: $arch
Maintainer: bootprof maintainers <maintainers@users.noreply.bootprof.example>
Section: admin
Priority: optional
Suggests: initramfs-tools | dracut-core, live-boot
Installed-Size: $(du -sk "$stage" | cut -f1)
Description: boot a Linux image from a plain web server as fast as from the local disk
 Records which pages of an image a boot touches, packs these first, and streams them at boot time ahead of the reader.
 Comes with boot scripts for initramfs-tools, live-boot and dracut.
END
for script in postinst:configure postrm:remove; do
	cat >"$stage/DEBIAN/${script%:*}" <<END
#!/bin/sh
set -e
if [ "\$1" = ${script#*:} ] && command -v update-initramfs >/dev/null; then
	update-initramfs -u
fi
END
	chmod 755 "$stage/DEBIAN/${script%:*}"
done
deb=$out/bootprof_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$stage" "$deb.new" >/dev/null
mv "$deb.new" "$deb"
echo "$deb"
