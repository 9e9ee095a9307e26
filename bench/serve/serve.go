// Package serve runs nginx as the plain web server of a measurement and reads from its access log what was asked for.
//
// nginx has a configuration and a directory of its own, so a system nginx is not touched. Compression, ETag rewriting
// and buffering of the log are off; sendfile is on.
//
// Traps. nginx logs a request when it ends: while a client still downloads, its request is not in Stats. The log has
// the time at which each request began, so a caller asks after the client has ended, for the span that matters. Body
// bytes of a request that was cut off count what nginx handed to the kernel, not what arrived.
package serve

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options of a server. Root and Addr must be set.
type Options struct {
	Root string // directory that is served; its files must not change while served
	Addr string // IP address to listen on
	Port int    // 0 is 8080
	TLS  *TLS   // nil: plain HTTP
	// Start starts nginx, for instance in a network namespace; nil is (*exec.Cmd).Start.
	Start func(*exec.Cmd) error
	// Probe tells whether the server answers, from where the clients will ask; nil dials Addr.
	Probe func() error
}

// TLS makes it an HTTPS server.
type TLS struct {
	CertFile, KeyFile string // PEM
}

// listen is what follows "listen" in nginx's configuration.
func (o *Options) listen(addr string) string {
	if o.TLS == nil {
		return addr
	}
	return fmt.Sprintf("%s ssl;\n    ssl_certificate %s;\n    ssl_certificate_key %s", addr, o.TLS.CertFile, o.TLS.KeyFile)
}

// A Server is a running nginx. Close ends it. Safe for concurrent use, but for Kill and Restart.
type Server struct {
	dir    string // configuration, log, pid file
	addr   string
	args   []string
	start  func(*exec.Cmd) error
	probe  func() error
	cmd    *exec.Cmd
	exited chan error // gets the result of Wait once
	said   bytes.Buffer
}

const defaultPort = 8080

// startTimeout is how long nginx may take until it answers.
const startTimeout = 10 * time.Second

// config is complete: nginx reads no other file but mime types, which are left out.
const config = `daemon off;
user root;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log warn;
events { worker_connections 1024; }
http {
  log_format bench '$msec $request_time $status $body_bytes_sent $bytes_sent "$http_range" "$request"';
  access_log %[1]s/access.log bench;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  gzip off;
  etag on;
  keepalive_requests 100000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  map $http_range $accept_ranges {
    default bytes;
    "" "";
  }
  server {
    listen %[2]s;
    root %[3]s;
    # Not needed by bootprof: rclone looks at listings; httpfs2 and httpdirfs refuse a server whose answers with a range do
    # not say that it gives ranges, as nginx's do not by themselves.
    autoindex on;
    add_header Accept-Ranges $accept_ranges;
  }
}
`

// Start starts nginx and returns when it answers.
func Start(o Options) (*Server, error) {
	nginx, err := findNginx()
	if err != nil {
		return nil, err
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(root, "\"'\\;{}$ \n") {
		return nil, fmt.Errorf("serving %q: nginx takes no path with such characters", root)
	}
	if o.Port == 0 {
		o.Port = defaultPort
	}
	s := &Server{addr: net.JoinHostPort(o.Addr, strconv.Itoa(o.Port))}
	if s.dir, err = os.MkdirTemp("", "bench-serve-"); err != nil {
		return nil, err
	}
	conf := filepath.Join(s.dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, config, s.dir, o.listen(s.addr), root), 0o644); err != nil {
		os.RemoveAll(s.dir)
		return nil, err
	}
	s.start = o.Start
	if s.start == nil {
		s.start = (*exec.Cmd).Start
	}
	s.probe = o.Probe
	if s.probe == nil {
		s.probe = func() error {
			conn, err := net.DialTimeout("tcp", s.addr, time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		}
	}
	s.args = []string{nginx, "-p", s.dir, "-c", conf, "-e", filepath.Join(s.dir, "error.log")}
	if err := s.Restart(); err != nil {
		os.RemoveAll(s.dir)
		return nil, err
	}
	return s, nil
}

// Restart starts nginx again after Kill, on the same address, and returns when it answers.
func (s *Server) Restart() error {
	s.cmd, s.exited = exec.Command(s.args[0], s.args[1:]...), make(chan error, 1)
	s.said.Reset()
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	if err := s.start(s.cmd); err != nil {
		return fmt.Errorf("starting %s: %w", s.args[0], err)
	}
	cmd, exited := s.cmd, s.exited
	go func() { exited <- cmd.Wait() }()
	if err := s.awaitAnswer(s.probe); err != nil {
		return errors.Join(err, s.end())
	}
	return nil
}

// Kill ends nginx at once: connections are reset, and new ones refused until Restart. Its log stays.
func (s *Server) Kill() error {
	if err := s.signalAll(syscall.SIGKILL); err != nil {
		return err
	}
	<-s.exited
	s.exited <- nil // for Close
	return nil
}

func (s *Server) awaitAnswer(probe func() error) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := probe()
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			s.exited <- nil
			log, _ := os.ReadFile(filepath.Join(s.dir, "error.log"))
			return fmt.Errorf("nginx on %s ended: %s%s", s.addr, s.said.String(), log)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nginx on %s does not answer: %w", s.addr, err)
		}
	}
}

// findNginx looks where Debian has it as well: /usr/sbin is not on every user's path.
func findNginx() (string, error) {
	if path, err := exec.LookPath("nginx"); err == nil {
		return path, nil
	}
	const debian = "/usr/sbin/nginx"
	if _, err := os.Stat(debian); err != nil {
		return "", errors.New("nginx is not installed (apt-get install nginx-light)")
	}
	return debian, nil
}

// URL is that of a file below Root.
func (s *Server) URL(name string) string { return "http://" + s.addr + "/" + name }

// Freeze stops nginx in the middle of whatever it does: connections stay, and nothing comes. Thaw lets it go on.
func (s *Server) Freeze() error { return s.signalAll(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() error { return s.signalAll(syscall.SIGCONT) }

// signalAll signals the master process and then its workers: a master that sees a worker end starts another one.
func (s *Server) signalAll(sig syscall.Signal) error {
	pid := s.cmd.Process.Pid
	workers, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("listing nginx's workers: %w", err)
	}
	for _, field := range append([]string{strconv.Itoa(pid)}, strings.Fields(string(workers))...) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		if err := syscall.Kill(child, sig); err != nil {
			return fmt.Errorf("signalling nginx %d: %w", child, err)
		}
	}
	return nil
}

// Close ends nginx and removes what it wrote.
func (s *Server) Close() error { return errors.Join(s.end(), os.RemoveAll(s.dir)) }

// end ends nginx.
func (s *Server) end() error {
	// QUIT would wait for clients that keep their connections open.
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending nginx: %w", err)
	}
	select {
	case <-s.exited:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	return nil
}
