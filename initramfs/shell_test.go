package initramfs_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bootprof/internal/testrig"
)

// shells run boot.sh as an initramfs does: dash is that of initramfs-tools and dracut, busybox that of mkinitcpio.
var shells = [][]string{{"dash"}, {"busybox", "ash"}}

// inShell runs a script in a mount namespace of its own, where /run and /proc/cmdline are its own, too.
func inShell(t *testing.T, shell []string, cmdline, script string) string {
	t.Helper()
	testrig.NeedRoot(t)
	testrig.NeedProgram(t, shell[0], "unshare")
	file := filepath.Join(t.TempDir(), "cmdline")
	testrig.WriteFile(t, file, cmdline+"\n")
	const stage = `mount -t tmpfs tmpfs /run && mount --bind "$1" /proc/cmdline && shift && exec "$@"`
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", stage, "sh", file}, append(shell, "-c", script)...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

func TestParameters(t *testing.T) {
	const show = ". ./boot.sh; bp_parse $(cat /proc/cmdline); echo \"$bp_from|$bp_url|$bp_overlay|$bp_cache|$bp_options|$bp_unknown\""
	for _, c := range []struct{ name, cmdline, want string }{
		{"nothing of ours", "quiet ro root=/dev/sda1", "|||||"},
		{"the usual", "quiet bootprof=http://a/b.bpk,https://c/b.bpk", "bootprof|http://a/b.bpk,https://c/b.bpk|tmpfs|||"},
		{"httproot", "httproot=https://a/b", "httproot|https://a/b|tmpfs|||"},
		{"netboot", "netboot=http://a/b", "netboot|http://a/b|tmpfs|||"},
		{"netboot by NFS", "netboot=nfs://a/b", "netboot|nfs://a/b|tmpfs|||"},
		{"netboot of live-boot", "netboot=nfs nfsroot=a:/b", "|||||"},
		{"casper's", "boot=casper netboot=url url=http://a/b.iso", "url|http://a/b.iso|tmpfs|||"},
		{"a url alone", "url=http://a/preseed.cfg", "|||||"},
		{"bootprof goes before others", "netboot=http://n/ bootprof=http://b/ httproot=http://h/", "bootprof|http://b/|tmpfs|||"},
		{"places", "bootprof=http://a/ bootprof.cache=LABEL=c bootprof.overlay=none", "bootprof|http://a/|none|LABEL=c||"},
		{"flags of the client", "bootprof=http://a/ bootprof.memory=16 bootprof.fill=2M bootprof.debug", "bootprof|http://a/|tmpfs|| --memory=16 --fill=2M --verbose|"},
		{"a URL with a query", "bootprof=https://a/b?x=1&y=2", "bootprof|https://a/b?x=1&y=2|tmpfs|||"},
		{"no URL", "bootprof=", "bootprof||tmpfs|||bootprof= has no URL"},
		{"a path", "bootprof=/srv/a", "bootprof|/srv/a|tmpfs|||bootprof=/srv/a: want http://HOST/PATH or https://HOST/PATH"},
		{"unknown", "bootprof=http://a/ bootprof.speed=9", "bootprof|http://a/|tmpfs|||bootprof.speed is no parameter of bootprof (see docs/boot.md)"},
		{"empty value", "bootprof=http://a/ bootprof.ca=", "bootprof|http://a/|tmpfs|| --ca=|bootprof.ca= has no value"},
		{"no number", "bootprof=http://a/ bootprof.network-timeout=1m", "bootprof|http://a/|tmpfs|||bootprof.network-timeout=1m: want seconds"},
	} {
		for _, shell := range shells {
			t.Run(shell[0]+"/"+c.name, func(t *testing.T) {
				got := inShell(t, shell, c.cmdline, show)
				if c.want == "|||||" { // the defaults of what is not asked for do not matter
					got = strings.Replace(got, "tmpfs", "", 1)
				}
				if got != c.want {
					t.Errorf("%s\ngot  %s\nwant %s", c.cmdline, got, c.want)
				}
			})
		}
	}
}

// Every parameter of the client's is a flag of it, and every parameter is in the manual.
func TestParametersAreDocumented(t *testing.T) {
	script, manual := testrig.ReadFile(t, "boot.sh"), testrig.ReadFile(t, "../docs/boot.md")
	help, _ := exec.Command("go", "run", "../cmd/bootprof-mount", "-h").CombinedOutput()
	own := map[string]bool{"overlay": true, "debug": true, "network-timeout": true}
	n := 0
	_, parse, _ := strings.Cut(string(script), "\nbp_parse()")
	parse, _, _ = strings.Cut(parse, "\n}\n")
	for word := range strings.FieldsFuncSeq(parse, func(r rune) bool { return strings.ContainsRune(" \t\n|)*=\"", r) }) {
		name, ok := strings.CutPrefix(word, "bootprof.")
		if !ok || name == "" {
			continue
		}
		n++
		if !strings.Contains(string(manual), "`bootprof."+name) {
			t.Errorf("docs/boot.md does not name bootprof.%s", name)
		}
		if flag := regexp.MustCompile(`(?m)^  -` + name + `\b`); !own[name] && !flag.Match(help) {
			t.Errorf("bootprof.%s: bootprof-mount has no such flag", name)
		}
	}
	if n < 15 {
		t.Errorf("found only %d parameters in boot.sh", n)
	}
}

func TestClock(t *testing.T) {
	for _, shell := range shells {
		for _, c := range []struct{ uptime, since, want string }{
			{"0.05 1.0", "3", "0.02"}, {"0.80 1.0", "8", "0.72"}, {"12.08 3.4", "0", "12.08"}, {"100.00 1", "9990", "0.10"},
		} {
			script := ". ./boot.sh; mkdir -p /run/p; echo '" + c.uptime + "' >/run/p/uptime; mount --bind /run/p/uptime /proc/uptime; bp_since " + c.since
			if got := inShell(t, shell, "", script); got != c.want {
				t.Errorf("%s: %s since %s: %s, want %s", shell[0], c.uptime, c.since, got, c.want)
			}
		}
	}
}

// The notes for the network's managers. What NetworkManager and ifupdown make of them is theirs; systemd-networkd's are tested in
// a machine.
func TestKeepsTheAddress(t *testing.T) {
	for _, shell := range shells {
		out := inShell(t, shell, "", `. ./boot.sh
mkdir -p /run/sys/class/net/eth7 /run/sys/class/net/lo /run/sys/class/net/eth8 /run/sys/class/net/eth9
for i in 7 8 9; do echo 52:54:00:12:34:5$i >/run/sys/class/net/eth$i/address; done
mount --bind /run/sys /sys
echo "Iface	Destination	Gateway
eth7	00000000	0202000A
eth7	0002000A	00000000
eth9	0003000A	00000000" >/run/route; bp_routes=/run/route
mkdir -p /run/root/etc; echo "IPV4DNS0='10.0.2.3'
IPV4DNS1='0.0.0.0'
PROTO='dhcp'" >/run/net-eth7.conf; echo "PROTO='none'" >/run/net-eth9.conf
bp_overlay=tmpfs; bp_keep /run/root
cd /run; for f in systemd/network/* NetworkManager/conf.d/* network/* root/etc/*; do echo "== $f"; cat $f; done`)
		for _, want := range []string{
			"== systemd/network/00-bootprof-eth7.network\n", "\nMACAddress=52:54:00:12:34:57\nType=ether\n\n[Network]\nDHCP=ipv4\nKeepConfiguration=yes\n",
			"\nMACAddress=52:54:00:12:34:59\nType=ether\n\n[Network]\nDHCP=no\n",
			"== NetworkManager/conf.d/00-bootprof-eth7.conf\n", "\nmatch-device=mac:52:54:00:12:34:57\nmanaged=0\n",
			"== network/ifstate\neth7=bootprof\neth9=bootprof\n", "== network/ifstate.eth7\nbootprof\n",
			"== root/etc/resolv.conf\nnameserver 10.0.2.3",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", shell[0], want, out)
			}
		}
		if strings.Contains(out, "eth8") || strings.Contains(out, "0.0.0.0") {
			t.Errorf("%s: an interface without a route, or a name server that is none:\n%s", shell[0], out)
		}
	}
}

// The kernel's own clients for NFS and CIFS, with stand-ins for the programs that call them.
func TestKernelClients(t *testing.T) {
	const script = `. ./boot.sh
for f in nfsmount mount modprobe; do eval "$f() { echo $f \$*; }"; done
bp_fail() { echo "fail: $*"; exit; }
bp_parse $(cat /proc/cmdline); bp_lower=/run/lower
case $bp_url in nfs:*) bp_mount_nfs ;; cifs:*) bp_mount_cifs ;; esac`
	for _, c := range []struct{ cmdline, want string }{
		{"netboot=nfs://10.0.0.1/srv/live/x", "modprobe -q -b nfs\nnfsmount -o ro,nolock 10.0.0.1:/srv/live/x /run/lower"},
		{"netboot=cifs://10.0.0.1/share/x", "modprobe -q -b cifs\nmount -t cifs -o ro,guest,ip=10.0.0.1 //10.0.0.1/share/x /run/lower"},
	} {
		for _, shell := range shells {
			if got := inShell(t, shell, c.cmdline, script); got != c.want {
				t.Errorf("%s: %s:\n%s\nwant\n%s", shell[0], c.cmdline, got, c.want)
			}
		}
	}
}

// mkinitcpio's hooks against stand-ins for what mkinitcpio gives them; its distribution is not at hand.
func TestMkinitcpio(t *testing.T) {
	install := inShell(t, []string{"bash"}, "", `. ./mkinitcpio/install/bootprof
for f in add_module add_checked_modules add_binary add_file add_full_dir add_runscript; do eval "$f() { echo $f \$*; }"; done
build; help >/dev/null`)
	for _, want := range []string{"add_module fuse", "add_module erofs", "add_module overlay", "add_binary /usr/bin/bootprof-mount", "add_file /usr/lib/bootprof/boot.sh", "add_runscript"} {
		if !strings.Contains(install, want) {
			t.Errorf("install does not call %q:\n%s", want, install)
		}
	}
	const hook = `mkdir -p /run/lib; mount --bind . /run/lib; mkdir -p /usr/lib/bootprof 2>/dev/null; mount -t tmpfs tmpfs /usr/lib && mkdir /usr/lib/bootprof && cp /run/lib/boot.sh /usr/lib/bootprof/
err() { echo "err: $*"; }
launch_interactive_shell() { echo shell; exit 0; }
. /run/lib/mkinitcpio/hooks/bootprof
run_hook; echo "handler: $mount_handler, root: $root"
[ -z "$mount_handler" ] || $mount_handler /run/new`
	if got := inShell(t, []string{"busybox", "ash"}, "root=/dev/sda1", hook); got != "handler: , root: " {
		t.Errorf("a boot that is not ours: %q", got)
	}
	want := "handler: bootprof_mount, root: bootprof\nerr: bootprof: bootprof.speed is no parameter of bootprof (see docs/boot.md)\nshell"
	if got := inShell(t, []string{"busybox", "ash"}, "bootprof=http://a/b bootprof.speed=1", hook); got != want {
		t.Errorf("a parameter that is none: %q", got)
	}
}

func TestShellcheck(t *testing.T) {
	testrig.NeedProgram(t, "shellcheck")
	for _, c := range []struct {
		shell string
		files []string
	}{
		{"sh", []string{"boot.sh", "initramfs-tools/scripts/bootprof", "initramfs-tools/hooks/bootprof", "initramfs-tools/conf.d/bootprof", "initramfs-tools/conf-hooks.d/bootprof", "initramfs-tools/scripts/init-premount/bootprof",
			"dracut/50bootprof/parse-bootprof.sh", "dracut/50bootprof/bootprofroot.sh", "dracut/50bootprof/online-bootprof.sh", "dracut/50bootprof/timeout-bootprof.sh", "mkinitcpio/hooks/bootprof"}},
		{"bash", []string{"dracut/50bootprof/module-setup.sh", "mkinitcpio/install/bootprof"}},
	} {
		// Files that lie elsewhere, words of a command line that are to be split, a list of && and ||.
		out, err := exec.Command("shellcheck", append([]string{"-s", c.shell, "-e", "SC1091,SC2013,SC2015"}, c.files...)...).CombinedOutput()
		if err != nil {
			t.Errorf("shellcheck: %v\n%s", err, out)
		}
	}
}
