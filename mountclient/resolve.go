package mountclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Tuning of names.
const (
	namesFor     = time.Minute             // an answer is used without asking again, while its addresses can be reached
	askServer    = 1500 * time.Millisecond // for one name server to answer
	askKnown     = 3 * time.Second         // for all of them, if there are addresses of an earlier answer
	askUnknown   = 10 * time.Second        // the same without
	leastDial    = time.Second             // for one of several addresses to answer
	mostServers  = 6
	mostSearches = 6
)

// A resolver finds the addresses of servers without opening a file by its path. It knows hosts and name servers from
// when it was made, sees other name servers that come up below /run (see runServers), and falls back to the
// addresses that it found last. Safe for concurrent use.
type resolver struct {
	log    *slog.Logger
	run    *os.File // the directory /run; nil: none
	hosts  map[string][]netip.Addr
	port   string   // of name servers
	start  []string // name servers of the start
	search []string

	mu    sync.Mutex
	known map[string]*knownHost
	last  string // the name server that answered last
}

type knownHost struct {
	mu    sync.Mutex // held while name servers are asked
	addrs []netip.Addr
	at    time.Time // when addrs were got
	asked time.Time // when the last question ended
	err   error     // what it ended with
}

// newResolver reads the files of this machine that concern names; etc is where they lie, run is opened if it is there.
func newResolver(etc, run string, log *slog.Logger) *resolver {
	r := &resolver{log: log, port: "53", known: make(map[string]*knownHost)}
	if b, err := os.ReadFile(etc + "/hosts"); err == nil {
		r.hosts = parseHosts(string(b))
	}
	if b, err := os.ReadFile(etc + "/resolv.conf"); err == nil {
		r.start, r.search = parseResolvConf(string(b))
	}
	if f, err := os.Open(run); err == nil {
		r.run = f
	}
	return r
}

func (r *resolver) close() {
	if r.run != nil {
		r.run.Close()
	}
}

// parseHosts returns the addresses in a hosts file, by name.
func parseHosts(s string) map[string][]netip.Addr {
	out := make(map[string][]netip.Addr)
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(words[0])
		if err != nil {
			continue
		}
		for _, name := range words[1:] {
			name = hostKey(name)
			out[name] = append(out[name], addr)
		}
	}
	return out
}

// parseResolvConf returns the name servers and the search list of a resolv.conf.
func parseResolvConf(s string) (servers, search []string) {
	for line := range strings.Lines(s) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(words[1]); err == nil && len(servers) < mostServers {
				servers = append(servers, words[1])
			}
		case "search", "domain":
			search = words[1:min(len(words), 1+mostSearches)]
		}
	}
	return servers, search
}

func hostKey(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// dial connects to an address HOST:PORT. If no address that is known of HOST answers, it asks for others at once.
func (r *resolver) dial(ctx context.Context, dialer *net.Dialer, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return dialer.DialContext(ctx, network, address)
	}
	begin := time.Now()
	addrs, got, err := r.lookup(ctx, host, begin.Add(-namesFor))
	if err != nil {
		return nil, err
	}
	conn, err := r.dialAny(ctx, dialer, network, host, addrs, port)
	if err == nil || ctx.Err() != nil || got.IsZero() || !got.Before(begin) {
		return conn, err
	}
	if addrs, got, _ = r.lookup(ctx, host, begin); got.Before(begin) {
		return nil, err // they were tried
	}
	return r.dialAny(ctx, dialer, network, host, addrs, port)
}

// dialAny connects to the first address that answers, which is the first to be asked the next time.
func (r *resolver) dialAny(ctx context.Context, dialer *net.Dialer, network, host string, addrs []netip.Addr, port string) (conn net.Conn, err error) {
	one := *dialer
	one.Timeout = max(leastDial, dialer.Timeout/time.Duration(max(1, len(addrs))))
	for i, a := range addrs {
		if conn, err = one.DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
			if k := r.knownHost(host); i > 0 {
				k.mu.Lock()
				if j := slices.Index(k.addrs, a); j > 0 {
					k.addrs = slices.Insert(slices.Delete(slices.Clone(k.addrs), j, j+1), 0, a)
				}
				k.mu.Unlock()
			}
			return conn, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (r *resolver) knownHost(host string) *knownHost {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[hostKey(host)]
	if k == nil {
		k = &knownHost{}
		r.known[hostKey(host)] = k
	}
	return k
}

// lookup returns addresses of host that were got after the time since, if any can be had; else the last ones. The time
// when they were got is zero for those of the hosts file.
func (r *resolver) lookup(ctx context.Context, host string, since time.Time) ([]netip.Addr, time.Time, error) {
	if addrs := r.hosts[hostKey(host)]; len(addrs) > 0 {
		return addrs, time.Time{}, nil
	}
	begin := time.Now()
	k := r.knownHost(host)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.addrs) > 0 && k.at.After(since) {
		return k.addrs, k.at, nil
	}
	if k.asked.Before(begin) { // else another reader asked while this one waited
		r.ask(ctx, host, k)
	}
	if len(k.addrs) == 0 {
		return nil, time.Time{}, k.err
	}
	return k.addrs, k.at, nil
}

// ask asks the name servers for the addresses of host. The caller holds k.mu.
func (r *resolver) ask(ctx context.Context, host string, k *knownHost) {
	patience := askUnknown
	if len(k.addrs) > 0 {
		patience = askKnown
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addrs, err := r.query(ctx, host)
	if err == nil {
		k.addrs, k.at = addrs, time.Now()
		if k.err != nil {
			r.log.Warn("names are resolved again", "host", host, "addresses", fmt.Sprint(addrs))
		}
	} else if k.err == nil && len(k.addrs) > 0 {
		r.log.Warn("no name server knows the host, its last addresses are used", "host", host, "addresses", fmt.Sprint(k.addrs), "error", err)
	}
	k.asked, k.err = time.Now(), err
}

// query asks one name server after the other, the one that answered last first.
func (r *resolver) query(ctx context.Context, host string) (addrs []netip.Addr, err error) {
	servers, search := r.runServers()
	servers = unique(append(servers, r.start...))
	r.mu.Lock()
	if i := slices.Index(servers, r.last); i > 0 {
		servers = slices.Insert(slices.Delete(servers, i, i+1), 0, r.last)
	}
	r.mu.Unlock()
	if len(servers) == 0 {
		return nil, fmt.Errorf("no name server is known to ask for %s: give the server's IP address, or a nameserver in /etc/resolv.conf", host)
	}
	for _, s := range servers {
		for _, name := range searched(host, append(search, r.search...)) {
			if addrs, err = r.queryOne(ctx, s, name); err == nil {
				r.mu.Lock()
				r.last = s
				r.mu.Unlock()
				return addrs, nil
			}
			if dns := (*net.DNSError)(nil); !errors.As(err, &dns) || !dns.IsNotFound {
				break // it does not answer
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// queryOne asks one name server for one name.
func (r *resolver) queryOne(ctx context.Context, server, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, askServer)
	defer cancel()
	var d net.Dialer
	// Go takes its own idea of the name servers from /etc/resolv.conf, or from its absence: Dial overrules it.
	res := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, net.JoinHostPort(server, r.port))
	}}
	addrs, err := res.LookupNetIP(ctx, "ip", name)
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		dns.Server = server // and not the one that Go had in mind
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return addrs, err
}

// searched returns the absolute names that host may stand for.
func searched(host string, search []string) (names []string) {
	full := strings.TrimSuffix(host, ".") + "."
	if strings.HasSuffix(host, ".") {
		return []string{full}
	}
	for _, s := range unique(search) {
		names = append(names, full+strings.Trim(s, ".")+".")
	}
	if strings.Contains(host, ".") {
		return append([]string{full}, names...)
	}
	return append(names, full)
}

func unique(in []string) (out []string) {
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
