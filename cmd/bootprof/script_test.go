package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"bootprof/mountclient"
)

// privateEnv says that this process has a mount namespace of its own.
const privateEnv = "BOOTPROF_TEST_PRIVATE"

// TestMain runs the tests in a mount namespace of their own, with an empty /run: no other process comes to hold
// their mounts, and their clients are the only ones that status sees.
func TestMain(m *testing.M) {
	isTests := strings.HasSuffix(os.Args[0], ".test")
	if isTests && os.Geteuid() == 0 && os.Getenv(privateEnv) == "" {
		os.Exit(runPrivately())
	}
	if isTests && os.Getenv(privateEnv) != "" {
		leaveMounts()
		if err := unix.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mounting an empty /run:", err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){"bootprof": main})
}

func runPrivately() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "starting the tests in a mount namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// leaveMounts takes other programs' images out of this namespace, which began with a copy of all mounts: a copy
// would keep them alive.
func leaveMounts() {
	for _, f := range mountinfo() {
		if strings.HasPrefix(f[2], "7:") || strings.Contains(strings.Join(f, " "), " - fuse.") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

func mountinfo() (out [][]string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 5 {
			out = append(out, f)
		}
	}
	return out
}

// oneByOne runs scripts one after the other: `bootprof status` shows every client of the machine.
type oneByOne struct{ *testing.T }

func (oneByOne) Parallel()     {}
func (oneByOne) Verbose() bool { return testing.Verbose() }

func (t oneByOne) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(oneByOne{t}) })
}

// The scripts in testdata show every command; they are examples, too.
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("recording and mounting need root")
	}
	testscript.RunT(oneByOne{t}, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer l.Close()
			env.Setenv("ADDR", l.Addr().String()) // free, for `bootprof serve --listen $ADDR`
			bin, _, _ := strings.Cut(env.Getenv("PATH"), ":")
			env.Setenv("BIN", bin)    // has bootprof and nothing else
			work := env.WorkDir + "/" // the name of another script's directory may begin with this one's
			env.Defer(func() {
				defer awaitNoClients(t)
				for _, f := range mountinfo() {
					if strings.HasPrefix(f[4], work) {
						t.Errorf("left mounted: %s", f[4])
						_ = unix.Unmount(f[4], unix.MNT_DETACH)
					}
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": cmdFails, "patch": cmdPatch, "reseal": cmdReseal, "await": cmdAwait,
		},
	})
}

// awaitNoClients waits until the clients of a script have ended, which they do soon after the unmount.
func awaitNoClients(t *testing.T) {
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if left, _ = filepath.Glob(mountclient.DefaultRunDir + "/*"); len(left) == 0 {
			return
		}
	}
	t.Errorf("clients that did not end: %q", left)
}

// cmdFails is `fails CODE COMMAND...`: the command ends with the exit code and says one line on stderr, which
// begins with "bootprof: ".
func cmdFails(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	code := 0
	if exit != nil {
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
	if said := ts.ReadFile("stderr"); strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "bootprof: ") {
		ts.Fatalf("said %q, want one line", said)
	}
}

// cmdPatch is `patch FILE OFFSET HEX`; a negative offset counts from the end.
func cmdPatch(ts *testscript.TestScript, _ bool, args []string) {
	b, at := []byte(ts.ReadFile(args[0])), 0
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	with, err := hex.DecodeString(args[2])
	ts.Check(err)
	if at < 0 {
		at += len(b)
	}
	if copy(b[at:], with) != len(with) || bytes.Equal([]byte(ts.ReadFile(args[0])), b) {
		ts.Fatalf("nothing to patch at %d of %d bytes", at, len(b))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// cmdReseal is `reseal pack|profile FILE`: it makes the checksum of the header or of the file right again.
func cmdReseal(ts *testscript.TestScript, _ bool, args []string) {
	b := []byte(ts.ReadFile(args[1]))
	end := len(b)
	if args[0] == "pack" {
		end = 512
	}
	sum := sha256.Sum256(b[:end-32])
	copy(b[end-32:end], sum[:])
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o644))
}

// cmdAwait is `await ADDRESS`: it waits until somebody listens there.
func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", args[0]); err == nil {
			c.Close()
			return
		}
	}
	ts.Fatalf("nobody listens at %s", args[0])
}
