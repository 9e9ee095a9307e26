package link

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// txQueuePackets is the length of the kernel's queue in front of a TUN device. It only holds what the pump has not
// fetched yet; the queue that drops is the pump's.
const txQueuePackets = 20000

// newTUN makes a TUN device with the point-to-point address local in the namespace and returns its handle in
// non-blocking mode. The device is gone when the handle is closed.
func newTUN(n *Netns, name string, local, peer [4]byte, mtu int) (fd int, err error) {
	err = n.Do(func() error {
		fd, err = openTUN(name)
		if err != nil {
			return err
		}
		if err := configure(name, local, peer, mtu); err != nil {
			unix.Close(fd)
			return err
		}
		return nil
	})
	return fd, err
}

func openTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TUN device name %q: %w", name, err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("making TUN device %s: %w", name, err)
	}
	return fd, nil
}

// configure gives the device of the current thread's namespace its address and brings it up.
func configure(name string, local, peer [4]byte, mtu int) error {
	// IPv6 would send router solicitations of its own over the link. The file is absent where IPv6 is.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	steps := []struct {
		what string
		req  uint
		set  func(*unix.Ifreq) error
	}{
		{"address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(local[:]) }},
		{"peer address", unix.SIOCSIFDSTADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(peer[:]) }},
		{"netmask", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 252}) }},
		{"MTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(uint32(mtu)); return nil }},
		{"queue length", unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) error { r.SetUint32(txQueuePackets); return nil }},
	}
	for _, s := range steps {
		if err := ifreq(name, s.req, s.set); err != nil {
			return fmt.Errorf("setting the %s of %s: %w", s.what, name, err)
		}
	}
	return setUp(name, unix.IFF_UP|unix.IFF_RUNNING|unix.IFF_POINTOPOINT)
}

func setUp(name string, flags uint16) error {
	err := ifreq(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(flags); return nil })
	if err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	return nil
}

// ifreq runs one device ioctl in the current thread's namespace.
func ifreq(name string, req uint, set func(*unix.Ifreq) error) error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := set(r); err != nil {
		return err
	}
	return unix.IoctlIfreq(sock, req, r)
}

// setSysctl writes a setting of the current thread's network namespace.
func setSysctl(path, value string) error {
	if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
		return fmt.Errorf("setting %s to %s: %w", path, value, err)
	}
	return nil
}
