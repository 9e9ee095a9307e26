package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// AddClients makes n more network namespaces behind the client's end of the link, which becomes their router: all share the
// link, and nothing else slows them. They are gone when they are closed and no process is in them.
func (l *Link) AddClients(n int) (clients []*Netns, err error) {
	const most = 1 << 14 // networks of four addresses in 10.78.0.0/16
	if n > most {
		return nil, fmt.Errorf("%d clients behind a link: want %d at most", n, most)
	}
	defer func() {
		if err != nil {
			for _, c := range clients {
				err = errors.Join(err, c.Close())
			}
			clients = nil
		}
	}()
	if err := l.Client.Do(func() error { return setSysctl("net/ipv4/ip_forward", "1") }); err != nil {
		return nil, err
	}
	congestion := ""
	if l.Congestion == wantCongestion {
		congestion = " congctl " + wantCongestion
	}
	if err := ip(l.Server, "route replace 10.78.0.0/16 dev "+l.device+" src "+l.ServerIP+congestion); err != nil {
		return nil, err
	}
	var router strings.Builder
	for i := range n {
		c, err := newEnd()
		if err != nil {
			return clients, err
		}
		clients = append(clients, c)
		near, _ := herdAddresses(i)
		fmt.Fprintf(&router, "link add h%d type veth peer name uplink netns %s\naddr add %s/30 dev h%d\nlink set h%d up\n", i, c.Path(), near, i, i)
	}
	if err := ip(l.Client, router.String()); err != nil {
		return clients, err
	}
	for i, c := range clients {
		near, far := herdAddresses(i)
		err := ip(c, fmt.Sprintf("addr add %s/30 dev uplink\nlink set uplink up\nroute add default via %s%s", far, near, congestion))
		if err != nil {
			return clients, err
		}
	}
	return clients, nil
}

// herdAddresses are those of the router's and of the client's end.
func herdAddresses(i int) (near, far netip.Addr) {
	at := func(last int) netip.Addr { return netip.AddrFrom4([4]byte{10, 78, byte(i >> 6), byte(i<<2 + last)}) }
	return at(1), at(2)
}

// ip runs lines of ip(8) in a namespace.
func ip(n *Netns, lines string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines + "\n")
	var said strings.Builder
	cmd.Stderr = &said
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("ip %s: %w %s", lines[:min(len(lines), 80)], err, strings.TrimSpace(said.String()))
	}
	return nil
}
