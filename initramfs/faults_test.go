package initramfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"bootprof/internal/testrig"
	"bootprof/recorder/vm"
)

// The server goes away as soon as the root is mounted, for a minute of the boot.
func TestServerStopsWhileBooting(t *testing.T) {
	testrig.Long(t)
	web := newSite(t, filepath.Dir(image(t, "plain.bpk")), nil)
	m := boot(t, vm.Options{Initrds: []string{image(t, "stock.img"), image(t, "overlay.cpio")}, Net: true}, "bootprof="+web.url("plain.bpk"))
	m.wait(rootLine, 0, loginWait)
	web.stop()
	gone := m.ConsolePos()
	m.wait(outage, gone, 2*time.Minute)
	time.Sleep(time.Minute) // most of the 90 s that systemd lets a unit take to start
	if login.MatchString(m.Console()) {
		t.Fatal("the boot did not need the server: nothing was tested")
	}
	web.start()
	m.booted()
	m.running()
	m.sh("systemctl poweroff --no-block")
	m.ends(vm.EndPowerOff)
}

// maxResidentKiB is what a client may have in memory while booting, whatever the image's size; memfds are not in it.
const maxResidentKiB = 64 << 10

// A machine of 512 MB boots an image of more than 1 GB from two mirrors, one of which dies on the way, and reads more of it than
// it has memory.
func TestSmallMemoryTwoMirrors(t *testing.T) {
	testrig.Long(t)
	dir := filepath.Dir(largePack(t))
	good, dying := newSite(t, dir, nil), newSite(t, dir, nil)
	m := boot(t, vm.Options{Initrds: []string{image(t, "stock.img"), image(t, "overlay.cpio")}, Net: true, MemoryMiB: 512},
		"bootprof="+dying.url("large.bpk")+","+good.url("large.bpk"))
	m.wait(rootLine, 0, loginWait)
	dying.stop()
	m.booted()
	m.running()
	if got := m.sh("stat -c %%s /run/bootprof/lower/srv/large; cmp -n 700000000 /run/bootprof/lower/srv/large /run/bootprof/lower/srv/large2 && echo same"); got != fmt.Sprintf("%d\nsame", largeBytes) {
		t.Errorf("the large file: %q", got)
	}
	var kib int
	got := m.sh("grep VmHWM /proc/%d/status", m.client())
	if _, err := fmt.Sscanf(strings.Join(strings.Fields(got), " "), "VmHWM: %d kB", &kib); err != nil || kib > maxResidentKiB {
		t.Errorf("client of a machine with 512 MB: %q, want %d kB at most", got, maxResidentKiB)
	}
	t.Logf("client of a machine with 512 MB: %d kB resident at most", kib)
	m.noErrors()
	m.sh("systemctl poweroff --no-block")
	m.ends(vm.EndPowerOff)
}

// A cache on a disk: the image becomes local and the client leaves; the next boot needs no network.
func TestCacheOnDisk(t *testing.T) {
	testrig.Long(t)
	web := newSite(t, filepath.Dir(image(t, "root.bpk")), nil)
	disk := filepath.Join(t.TempDir(), "cache.disk")
	testrig.Run(t, "truncate", "-s", "1G", disk)
	testrig.Run(t, "mkfs.ext4", "-q", "-L", "bpcache", disk)
	digest := strings.TrimSpace(testrig.Run(t, image(t, "bootprof"), "verify", image(t, "root.bpk")))
	digest = regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(digest)
	if digest == "" {
		t.Fatal("verify prints no digest")
	}
	o := vm.Options{Initrds: []string{image(t, "bootprof.img")}, Net: true, Disks: []vm.Disk{{Path: disk}}}
	words := []string{"bootprof=" + web.url("root.bpk"), "bootprof.cache=LABEL=bpcache", "bootprof.digest=" + digest}

	m := boot(t, o, append(words, "bootprof.fill=max")...)
	m.booted()
	m.running()
	m.wait(regexp.MustCompile(`bootprof: the image is local`), 0, loginWait)
	web.stop()
	m.sh("echo 3 >/proc/sys/vm/drop_caches")
	m.sameTree("/run/bootprof/lower")
	if got := m.sh("pgrep -x bootprof-mount || echo none"); got != "none" {
		t.Errorf("the client still runs: %s", got)
	}
	m.noErrors()
	m.sh("systemctl poweroff --no-block")
	m.ends(vm.EndPowerOff)

	o.Net = false // not even an interface
	second := boot(t, o, append(words, "bootprof.network-timeout=5")...)
	second.booted()
	second.running()
	second.sh("systemctl poweroff --no-block")
	second.ends(vm.EndPowerOff)
}

// What is wrong is told in one line that names the parameter, in front of the initramfs's own shell.
func TestBadInput(t *testing.T) {
	testrig.Long(t)
	dir := t.TempDir()
	testrig.Run(t, "cp", image(t, "root.bpk"), filepath.Join(dir, "root.bpk"))
	testrig.WriteFile(t, filepath.Join(dir, "root.bpk.minisig"), "untrusted comment: none\nRWRqPYGoU7TdHNAJ8Fm9bd+zW5kq\n")
	web := newSite(t, dir, nil)
	const key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
	for _, c := range []struct {
		name, words, want string
		net               bool
	}{
		{"wrong URL", "bootprof=" + web.url("none.bpk"), `bootprof: bootprof=http://\S+/none.bpk: .*404`, true},
		{"no network", "bootprof=" + web.url("root.bpk") + " bootprof.network-timeout=5", `bootprof: no network: `, false},
		{"bad signature", "bootprof=" + web.url("root.bpk") + " bootprof.pubkey=" + key, `bootprof: .*signature.*--pubkey=` + key, true},
		{"unknown parameter", "bootprof=" + web.url("root.bpk") + " bootprof.speed=9", `bootprof: bootprof.speed is no parameter`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			// With panic= there would be no shell.
			m := boot(t, vm.Options{Initrds: []string{image(t, "stock.img"), image(t, "overlay.cpio")}, Net: c.net, Append: "console=ttyS0"}, c.words)
			end := m.wait(panicked, 0, loginWait)
			lines := regexp.MustCompile(`(?m)^.*\b`+c.want+`.*$`).FindAllString(m.Console()[:end], -1)
			if len(lines) == 0 {
				t.Fatalf("no line %q", c.want)
			}
			t.Logf("%q", lines)
		})
	}
}

// A live ISO as casper boots it, by netboot=url url=URL, but without downloading it.
func TestISO(t *testing.T) {
	testrig.Long(t)
	dir := t.TempDir()
	testrig.Must(t, os.MkdirAll(filepath.Join(dir, "iso/casper"), 0o755))
	testrig.Run(t, "cp", image(t, "root.squashfs"), filepath.Join(dir, "iso/casper/filesystem.squashfs"))
	testrig.Run(t, "xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-o", filepath.Join(dir, "live.iso"),
		filepath.Join(dir, "iso"))
	web := newSite(t, dir, nil)
	m := boot(t, vm.Options{Initrds: []string{image(t, "bootprof.img")}, Net: true}, "boot=casper netboot=url url="+web.url("live.iso"))
	m.booted()
	m.running()
	if got := m.sh("findmnt -no FSTYPE /run/bootprof/lower; findmnt -no FSTYPE /"); got != "iso9660\noverlay" {
		t.Errorf("file systems: %q", got)
	}
	m.sh("systemctl poweroff --no-block")
	m.ends(vm.EndPowerOff)
}

// largeBytes is the size of each of the two large files of largePack.
const largeBytes = 720 << 20

// largePack makes a pack of the root and two large equal files, which compress a little. Equal content is in the pack once.
func largePack(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	testrig.Must(t, os.Mkdir(root, 0o755))
	testrig.Run(t, "tar", "-C", root, "--numeric-owner", "-xpf", image(t, "root.tar"))
	f, err := os.Create(filepath.Join(root, "srv/large"))
	testrig.Must(t, err)
	defer f.Close()
	rnd := rand.NewChaCha8([32]byte{'l'})
	block := make([]byte, 1<<20)
	for n := 0; n < largeBytes; n += len(block) {
		rnd.Read(block[:len(block)/4])
		_, err := f.Write(block)
		testrig.Must(t, err)
	}
	testrig.Run(t, "cp", filepath.Join(root, "srv/large"), filepath.Join(root, "srv/large2"))
	pack := filepath.Join(dir, "large.bpk")
	testrig.Run(t, image(t, "bootprof"), "pack", root, "-o", pack, "--profile", image(t, "run.bprof"),
		"--level", "fastest", "--boot-level", "fast")
	return pack
}
