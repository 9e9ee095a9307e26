package mountclient

import (
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A client that carries a root file system lives from the initramfs to the power switch. What could end it on the way,
// and what keeps that from happening, is in docs/root-daemon.md. MountOptions.Root is the mode; this file has what
// concerns the process.

// httpfsName is the name under which live-boot calls its FUSE client: NAME URL DIR. The image file is
// then DIR/NAME-OF-THE-FILE-ON-THE-SERVER.
const httpfsName = "httpfs"

// MarkRoot is to be the first statement of main in a program that may carry a root file system. If args, which are those
// behind the program's name, ask for that, or the name is httpfs, it makes the first byte of the process's command line
// an '@': systemd then spares the process, in the change of the root and at shutdown.
func MarkRoot(args []string) {
	root := IsHTTPFS()
	for _, a := range args {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
		root = root || (name == "-root" || name == "root" && a[0] == '-') && value != "false"
	}
	if !root || os.Args[0] == "" {
		return
	}
	mapped := os.Args[0] // its bytes are the kernel's
	os.Args[0] = strings.Clone(mapped)
	*unsafe.StringData(mapped) = '@'
}

// IsHTTPFS tells whether the program was called by the name of live-boot's client.
func IsHTTPFS() bool { return len(os.Args) > 0 && filepath.Base(os.Args[0]) == httpfsName }

// etcDir holds, in an initramfs, what its maker wants every boot to use.
const etcDir = "/etc/bootprof"

// AsHTTPFS changes options to what live-boot expects of its client, which it calls without a flag: what the scripts of our own make
// flags of is taken from etcDir.
func (o *MountOptions) AsHTTPFS() {
	o.Root, o.Raw, o.StartTimeout = true, true, time.Minute
	for name, option := range map[string]*string{"ca.pem": &o.CAFile, "pubkey": &o.PublicKey, "credentials": &o.CredentialsFile} {
		if path := filepath.Join(etcDir, name); *option == "" && exists(path) {
			*option = path
		}
	}
	for _, url := range SplitURLs(o.URL)[:1] {
		if src, err := newHTTPSource(url); err == nil {
			if name := filepath.Base(src.path()); name != "/" && name != "." {
				o.ImageName = name
			}
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// untouchable are the signals that a root's client ignores from its start on. SIGINT and SIGTERM join them when the mount
// is ready: before that they end a start that makes no progress.
var untouchable = []os.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGPWR}

// harden prepares the process for carrying a root file system.
func harden(log *slog.Logger) {
	signal.Ignore(untouchable...)
	// After systemd or a shell started it by another path, the name is still what it was called by.
	name := filepath.Base(os.Args[0])
	_ = os.WriteFile("/proc/self/comm", []byte(name[:min(len(name), 15)]), 0)
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		log.Warn("the kernel may end the client when memory is short", "error", err)
	}
}

// settle is called when the mount is ready: from now on nothing but the end of the mount ends the process, and nothing of
// the file systems of the start is in use by it.
func settle(m *Mounted, log *slog.Logger) {
	m.Client.fetch.access.roots()
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		defer null.Close()
		for fd := range 2 {
			_ = unix.Dup3(int(null.Fd()), fd, 0)
		}
	}
	leaveTerminal(log)
	if err := enterVoid(); err != nil {
		log.Warn("files are still reached by their paths", "error", err)
	}
}
