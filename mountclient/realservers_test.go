package mountclient

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
)

// A realServer is a web server as Debian packages it, started with a configuration of its own.
type realServer struct {
	program string
	deb     string
	args    func(dir string) []string // dir holds root, conf, log, cert.pem and key.pem
	conf    string                    // {port} and {dir} are filled in
	secure  string                    // what conf has besides for https with HTTP/2; empty: the server has none
	ranges  bool

	asNobody bool // it does not serve as root
}

var realServers = []realServer{
	{program: "nginx", deb: "nginx-light", ranges: true,
		args: func(dir string) []string { return []string{"-p", dir, "-c", dir + "/conf", "-e", dir + "/errors"} },
		conf: `daemon off; user root; worker_processes 1; pid {dir}/pid; events { worker_connections 256; }
http {
  log_format proto '$server_protocol $status $request_uri'; access_log {dir}/log proto;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server { listen 127.0.0.1:{port}{secure}; root {dir}/root; }
}`,
		secure: ` ssl http2; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem`},
	{program: "apache2", deb: "apache2-bin", ranges: true, asNobody: true,
		args: func(dir string) []string { return []string{"-X", "-d", dir, "-f", dir + "/conf"} },
		conf: `Listen 127.0.0.1:{port}
ServerName 127.0.0.1
PidFile {dir}/pid
DefaultRuntimeDir {dir}
ErrorLog {dir}/errors
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
CustomLog {dir}/log "%H %>s %U"
DocumentRoot {dir}/root
{secure}`,
		secure: `LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
Protocols h2 http/1.1
SSLEngine on
SSLCertificateFile {dir}/cert.pem
SSLCertificateKeyFile {dir}/key.pem`},
	{program: "lighttpd", deb: "lighttpd", ranges: true,
		args: func(dir string) []string { return []string{"-D", "-f", dir + "/conf"} },
		conf: `server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{dir}/root"
server.errorlog = "{dir}/errors"
server.modules = ("mod_accesslog")
accesslog.filename = "{dir}/log"
accesslog.format = "%H %s %U"
{secure}`,
		secure: `server.modules += ("mod_openssl")
ssl.engine = "enable"
ssl.pemfile = "{dir}/cert.pem"
ssl.privkey = "{dir}/key.pem"`},
	{program: "caddy", deb: "caddy", ranges: true,
		args: func(dir string) []string { return []string{"run", "--adapter", "caddyfile", "--config", dir + "/conf"} },
		conf: `{
  admin off
  auto_https off
  storage file_system {dir}
}
{scheme}://127.0.0.1:{port} {
  bind 127.0.0.1
  root * {dir}/root
  file_server
  log {
    output file {dir}/log
  }
  {secure}
}`,
		secure: `tls {dir}/cert.pem {dir}/key.pem`},
	{program: "python3", deb: "python3",
		args: func(dir string) []string { return []string{"-u", dir + "/conf"} },
		conf: `import functools, http.server, sys
sys.stderr = open("{dir}/log", "w", 1)
serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory="{dir}/root")
http.server.ThreadingHTTPServer(("127.0.0.1", {port}), serve).serve_forever()`},
}

// start runs the server on a free port, with root below dir. It returns the beginning of its URLs, and what ends it.
func (s *realServer) start(t *testing.T, dir string, secure bool) (url string, stop func()) {
	t.Helper()
	program, err := exec.LookPath(s.program)
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/" + s.program)
	}
	if err != nil {
		testrig.Missing(t, "needs %s: apt-get install %s", s.program, s.deb)
	}
	port := fmt.Sprint(testrig.FreePort(t))
	addr := "127.0.0.1:" + port
	scheme, more := "http", ""
	if secure {
		scheme, more = "https", s.secure
	}
	conf := strings.NewReplacer("{scheme}", scheme, "{secure}", more).Replace(s.conf)
	conf = strings.NewReplacer("{dir}", dir, "{port}", port).Replace(conf)
	testrig.WriteFile(t, dir+"/conf", conf)
	cmd := exec.Command(program, s.args(dir)...)
	var said syncBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.asNobody { // it still reads and writes below directories of ours
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_OVERRIDE}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(testrig.Patience):
			_ = cmd.Process.Kill()
			<-ended
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			errors, _ := os.ReadFile(dir + "/errors")
			t.Logf("%s said:\n%s%s", s.program, &said, errors)
		}
	})
	testrig.Eventually(t, s.program+" answers", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended at once", s.program)
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return scheme + "://" + addr + "/", stop
}

// Web servers that people have serve a mount, by http, and by https with HTTP/2 where they speak it. The kernel's view
// of the mounted tree is that of its source.
func TestRealServers(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	p := packOf(t, hotAndCold)
	ca := newTestCA(t)
	cert := ca.issue(t, "127.0.0.1", time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	caFile := pemFile(t, ca.cert)
	for _, s := range realServers {
		for _, secure := range []bool{false, true} {
			if secure && s.secure == "" {
				continue
			}
			t.Run(fmt.Sprintf("%s, https %t", s.program, secure), func(t *testing.T) {
				watchdog(t)
				dir := t.TempDir()
				if err := os.Mkdir(dir+"/root", 0o755); err != nil {
					t.Fatal(err)
				}
				testrig.WriteFile(t, dir+"/root/pack.bpk", p.raw)
				testrig.WriteFile(t, dir+"/cert.pem", pemOf(cert))
				testrig.WriteFile(t, dir+"/key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
				url, stop := s.start(t, dir, secure)
				o := mountOptions(t, url+"pack.bpk", func(o *MountOptions) { o.CAFile = caFile })
				m, err := Mount(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				r := &rig{Mounted: m, t: t, dir: o.Dir, run: o.RunDir, loop: -1}
				r.compare(p)
				retries, bytesCame := m.Client.fetch.src.count.retries.Load(), m.Client.fetch.src.count.bytes.Load()
				r.unmount()
				if retries > 0 && s.ranges {
					t.Errorf("%d requests were repeated", retries)
				}
				if bytesCame > int64(len(p.raw))*5/4 {
					t.Errorf("%d bytes came of a pack of %d", bytesCame, len(p.raw))
				}
				stop() // it then writes what is left of its log
				s.checkLog(t, dir, secure)
			})
		}
	}
}

// bootBuild in the environment names the directory in which make demo left its programs and its pack.
const bootBuild = "BOOTPROF_BOOT"

// The same servers serve the boot of a real Debian.
func TestRealServersBoot(t *testing.T) {
	t.Parallel()
	testrig.Slow(t)
	build := os.Getenv(bootBuild)
	if build == "" {
		testrig.Elsewhere(t, "needs a real pack: make demo, then %s=$PWD/build", bootBuild)
	}
	for _, s := range realServers {
		t.Run(s.program, func(t *testing.T) {
			watchdog(t)
			dir := t.TempDir()
			if err := os.Mkdir(dir+"/root", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(build+"/debian.bpk", dir+"/root/debian.bpk"); err != nil {
				t.Fatal(err)
			}
			url, _ := s.start(t, dir, false)
			cache := ""
			if !s.ranges { // all of the pack comes, and is not for the memory
				cache = t.TempDir()
			}
			o := mountOptions(t, url+"debian.bpk", func(o *MountOptions) { o.CacheDir = cache })
			m, err := Mount(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			r := &rig{Mounted: m, t: t, dir: o.Dir, run: o.RunDir, loop: -1}
			out, err := exec.Command(build+"/labboot", o.Dir).CombinedOutput()
			said := strings.TrimSpace(string(out))
			if err != nil || !strings.HasPrefix(said, "booted") || strings.Contains(said, "failed") {
				t.Errorf("%v\n%s", err, said)
			}
			t.Log(strings.ReplaceAll(said, "\n", ", "))
			r.unmount()
		})
	}
}

// checkLog compares what the server wrote into its log with what it can do.
func (s *realServer) checkLog(t *testing.T, dir string, secure bool) {
	t.Helper()
	log := testrig.ReadFile(t, dir+"/log")
	if gave := bytes.Contains(log, []byte(" 206 ")) || bytes.Contains(log, []byte(`"status":206`)); gave != s.ranges {
		t.Errorf("ranges given: %t, want %t:\n%s", gave, s.ranges, log)
	}
	if isHTTP2 := bytes.Contains(log, []byte("HTTP/2")); isHTTP2 != secure {
		t.Errorf("HTTP/2 used: %t, want %t:\n%s", isHTTP2, secure, log)
	}
}

func pemOf(cert tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
}
