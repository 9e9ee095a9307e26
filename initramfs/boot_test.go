package initramfs_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bootprof/internal/testrig"
	"bootprof/recorder/vm"
)

// The initrd of initramfs-tools: the whole root, signals to the client, a server that is away, power-off.
func TestInitramfsTools(t *testing.T) {
	web := newSite(t, filepath.Dir(image(t, "root.bpk")), nil)
	m := boot(t, vm.Options{Initrds: []string{image(t, "bootprof.img")}, Net: true}, "bootprof="+web.url("root.bpk"))
	m.booted()
	m.running()
	web.once()
	if got := m.sh("findmnt -no FSTYPE /; findmnt -no FSTYPE /run/bootprof/lower"); got != "overlay\nerofs" {
		t.Errorf("file systems of / and of the image: %q", got)
	}
	m.sameTree("/run/bootprof/lower")

	client := m.client()
	m.sh("kill -TERM %d; kill -STOP %d; kill -CONT %d", client, client, client)
	m.sh("echo 3 >/proc/sys/vm/drop_caches; cat /run/bootprof/lower/usr/bin/* >/dev/null")
	if m.client() != client {
		t.Error("the client is another one after SIGTERM, SIGSTOP and SIGCONT")
	}

	// A reader waits while the server is away, and goes on when it is back.
	const part = "cd /run/bootprof/lower/usr/bin && cat * | sha256sum"
	want := m.sh(part)
	web.stop()
	pos := m.ConsolePos()
	m.sh("echo 3 >/proc/sys/vm/drop_caches; (%s; echo $?) >/run/reader 2>&1 &", part)
	m.wait(outage, pos, 2*time.Minute)
	time.Sleep(15 * time.Second) // the fault is seen; readers wait some more
	web.start()
	if got := m.sh("while [ $(wc -l </run/reader) -lt 2 ]; do sleep 0.2; done; cat /run/reader"); got != want+"\n0" {
		t.Errorf("a reader through an outage got %q, want %q and exit code 0", got, want)
	}

	// What manages the network in the new root leaves the address alone.
	const address = "ip -4 -o addr show scope global | cut -d' ' -f2-7"
	before := m.sh(address)
	m.sh("systemctl start systemd-networkd && /usr/lib/systemd/systemd-networkd-wait-online --timeout=60 --any; systemctl restart systemd-networkd && /usr/lib/systemd/systemd-networkd-wait-online --timeout=60 --any")
	if got := m.sh(address); got != before || before == "" {
		t.Errorf("the address under systemd-networkd: %q, before: %q", got, before)
	}
	if got := m.sh("networkctl status --no-pager $(cd /sys/class/net; echo e*)"); !strings.Contains(got, "00-bootprof-") {
		t.Errorf("networkd does not use the file of the boot:\n%s", got)
	}
	m.sh("echo 3 >/proc/sys/vm/drop_caches; %s", part)
	m.noErrors()

	m.sh("systemctl poweroff --no-block")
	m.ends(vm.EndPowerOff)
}

// live-boot, not patched, mounts a squashfs by its own httpfs=, which is our client under another name.
func TestLiveBoot(t *testing.T) {
	testrig.Long(t)
	web := newSite(t, filepath.Dir(image(t, "root.squashfs")), nil)
	m := boot(t, vm.Options{Initrds: []string{image(t, "stock.img"), image(t, "overlay.cpio")}, Net: true},
		"boot=live httpfs="+web.url("root.squashfs"))
	m.booted()
	m.running()
	if got := m.sh("cat /proc/%d/comm; findmnt -no FSTYPE /", m.client()); got != "httpfs\noverlay" {
		t.Errorf("the client's name and the root's type: %q", got)
	}
	m.sh("echo 3 >/proc/sys/vm/drop_caches; cat /usr/bin/* >/dev/null")
	m.noErrors()
	m.sh("systemctl reboot --no-block")
	m.ends(vm.EndReboot)
}

// The overlay beside a stock initrd; https with a CA of one's own, a clock in the year 2000; power-off with the server gone.
func TestStockInitrdHTTPS(t *testing.T) {
	testrig.Long(t)
	ca, tls := authority(t, vm.HostAddress)
	web := newSite(t, filepath.Dir(image(t, "root.bpk")), tls)
	overlay := filepath.Join(t.TempDir(), "overlay.cpio")
	testrig.Run(t, image(t, "bootprof"), "initrd", "-o", overlay, "--client", image(t, "bootprof-mount"),
		"--ca", ca, "--modules", kernelModules(t))
	m := boot(t, vm.Options{Initrds: []string{image(t, "stock.img"), overlay}, Net: true, RTC: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"netboot="+web.url("root.bpk"))
	m.booted()
	m.running()
	if got := m.sh("dmesg | grep -c 'setting system clock to 2000-01-01' || :"); got != "1" {
		t.Errorf("the guest's clock was not in 2000: %s", m.sh("dmesg | grep -i 'system clock' || :"))
	}
	web.stop()
	testrig.Must(t, m.Powerdown(m.ctx)) // as in the recorded boot: what it reads is in the boot zone
	m.ends(vm.EndPowerOff)
}

// dracut's root=bootprof:URL; reboot with the server gone.
func TestDracut(t *testing.T) {
	testrig.Long(t)
	web := newSite(t, filepath.Dir(image(t, "root.bpk")), nil)
	m := boot(t, vm.Options{Initrds: []string{image(t, "dracut.img")}, Net: true}, "root=bootprof:"+web.url("root.bpk"), "ip=dhcp rd.neednet=1")
	m.booted()
	m.running()
	if got := m.sh("findmnt -no FSTYPE /"); got != "overlay" {
		t.Errorf("the root's type: %q", got)
	}
	m.sh("echo 3 >/proc/sys/vm/drop_caches; cat /usr/bin/* >/dev/null")
	m.noErrors()
	web.stop()
	m.sh("kill -INT 1") // what Ctrl-Alt-Del does: systemctl, and the agent that it starts, are not in the recorded boot
	m.ends(vm.EndReboot)
}

// kernelModules is the lib/modules/VERSION of the machines' kernel.
func kernelModules(t *testing.T) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(image(t, "modules"), "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%v: %v, want one kernel's modules", dirs, err)
	}
	return dirs[0]
}
