#!/bin/bash
# The customize hook of make-large-root.sh: the units that do a desktop's work at boot. $1 is the root directory.
set -euo pipefail
root=${1:?usage: large-root-services.sh ROOT}

# The document: prose in several scripts and styles, so that fonts, filters and layout code are loaded.
mkdir -p "$root/usr/share/bench" "$root/etc/systemd/system/multi-user.target.wants"
{
	echo '<html><head><meta charset="utf-8"><title>Report</title></head><body><h1>Report</h1>'
	for i in $(seq 1 40); do
		echo "<h2>Section $i</h2><p><b>Plain</b>, <i>slanted</i>, <tt>fixed</tt>; Ελληνικά, Кириллица, 漢字かな, עברית.</p>"
		echo "<table border=1><tr><td>$i</td><td>$((i * i))</td></tr><tr><td>a</td><td>b</td></tr></table>"
	done
	echo '</body></html>'
} >"$root/usr/share/bench/report.html"

unit() { # NAME, then the unit on stdin
	cat >"$root/etc/systemd/system/$1"
	ln -sf "/etc/systemd/system/$1" "$root/etc/systemd/system/multi-user.target.wants/$1"
}

unit bench-office.service <<'UNIT'
[Unit]
Description=Render a document with LibreOffice
After=mariadb.service nginx.service

[Service]
Type=oneshot
Environment=HOME=/var/lib/bench-office
StateDirectory=bench-office
ExecStart=/usr/bin/soffice --headless --norestore --convert-to pdf:writer_web_pdf_Export --outdir /var/lib/bench-office /usr/share/bench/report.html
ExecStartPost=/usr/bin/test -s /var/lib/bench-office/report.pdf
UNIT

# The package's own start of the services stays as Debian enables it; a failure of one of them must not be silent.
test -L "$root/etc/systemd/system/multi-user.target.wants/mariadb.service"
test -L "$root/etc/systemd/system/multi-user.target.wants/nginx.service"
