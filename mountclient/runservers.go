package mountclient

import (
	"io"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// runFiles are files below /run that tell of the network that there is now. Files with name servers of the loopback
// interface tell of a program on the root file system, which must not be needed to read that file system; so those
// are passed over.
var runFiles = []string{
	"bootprof/resolv.conf",               // of whoever knows better
	"systemd/resolve/resolv.conf",        // systemd-resolved, with what it got by DHCP
	"NetworkManager/no-stub-resolv.conf", // NetworkManager
	"NetworkManager/resolv.conf",         // the same without systemd-resolved
	"resolvconf/resolv.conf",             // ifupdown and others
	"connman/resolv.conf",                // ConnMan
}

const maxRunFile = 64 << 10

// runServers returns name servers and search list that files below /run name now. /run is a tmpfs that the change of the
// root takes along. Reading the new root's /etc/resolv.conf instead could wait for this very client.
func (r *resolver) runServers() (servers, search []string) {
	if r.run == nil {
		return nil, nil
	}
	for _, name := range runFiles {
		s, more := parseResolvConf(r.readRun(name))
		servers, search = append(servers, withoutLoopback(s)...), append(search, more...)
	}
	if len(servers) == 0 {
		s, more := r.ipconfigServers()
		servers, search = withoutLoopback(s), more
	}
	return unique(servers), search
}

func withoutLoopback(servers []string) (out []string) {
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err == nil && !a.IsLoopback() {
			out = append(out, s)
		}
	}
	return out
}

// ipconfigServers reads what klibc's ipconfig left in net-DEVICE.conf, in the initramfs of initramfs-tools.
func (r *resolver) ipconfigServers() (servers, search []string) {
	f, err := openIn(r.run, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		if !strings.HasPrefix(name, "net-") || !strings.HasSuffix(name, ".conf") {
			continue
		}
		for line := range strings.Lines(r.readRun(name)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			value = strings.Trim(value, `'"`)
			switch key {
			case "IPV4DNS0", "IPV4DNS1", "IPV6DNS0", "IPV6DNS1":
				if a, err := netip.ParseAddr(value); err == nil && !a.IsUnspecified() {
					servers = append(servers, value)
				}
			case "DNSDOMAIN", "DOMAINSEARCH":
				search = append(search, strings.Fields(value)...)
			}
		}
	}
	return servers, search
}

// readRun returns the content of a file below /run, "" if there is none. It follows no symbolic link and crosses no mount,
// so that it reads from the memory of this machine and nothing else; nor does it wait for the writer of a pipe. It
// takes Linux 5.6.
func (r *resolver) readRun(name string) string {
	fd, err := unix.Openat2(int(r.run.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	b, _ := io.ReadAll(io.LimitReader(f, maxRunFile))
	return string(b)
}
