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
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"bootprof/internal/testrig"
	"bootprof/mountclient"
)

// TestMain runs the tests in a mount namespace of their own, with an empty /run: no other process comes to hold
// their mounts, and their clients are the only ones that status sees. As a program of the scripts it is bootprof.
func TestMain(m *testing.M) {
	if strings.HasSuffix(os.Args[0], ".test") {
		testrig.Private()
		testrig.EmptyRun()
		os.Setenv("GORACE", raceOptions)
	}
	testscript.Main(m, map[string]func(){"bootprof": main})
}

// raceOptions are for processes of a test binary with the race detector, of which each sleeps for a second
// at its end otherwise.
const raceOptions = "atexit_sleep_ms=0"

// mounters runs scripts that mount one after the other, as `bootprof status` shows every client of the
// machine, and then the others beside each other.
type mounters struct{ *testing.T }

func (mounters) Verbose() bool { return testing.Verbose() }

func (t mounters) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(mounters{t}) })
}

func (t mounters) Parallel() {
	_, name, _ := strings.Cut(t.Name(), "/")
	script := testrig.ReadFile(t, filepath.Join("testdata", name+".txtar"))
	if !mountsOrLooks.Match(script) {
		t.T.Parallel()
	}
}

var mountsOrLooks = regexp.MustCompile(`(?m)^.*\bbootprof (mount|status)\b`)

// The scripts in testdata show every command; they are examples, too. make check runs a few.
func TestScripts(t *testing.T) {
	testrig.NeedMounts(t)
	dir, files := "testdata", []string(nil)
	if testing.Short() {
		dir = ""
		files = []string{"testdata/analyze.txtar", "testdata/mistakes.txtar", "testdata/mount.txtar", "testdata/pack.txtar"}
	}
	testscript.RunT(mounters{t}, testscript.Params{
		Dir:                 dir,
		Files:               files,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", raceOptions)
			// For `bootprof serve --listen $ADDR`.
			env.Setenv("ADDR", fmt.Sprintf("127.0.0.1:%d", testrig.FreePort(t)))
			bin, _, _ := strings.Cut(env.Getenv("PATH"), ":")
			env.Setenv("BIN", bin)    // has bootprof and nothing else
			work := env.WorkDir + "/" // the name of another script's directory may begin with this one's
			script := env.T().(mounters).T
			env.Defer(func() {
				defer awaitNoClients(script)
				for _, m := range testrig.Mounts() {
					if strings.HasPrefix(m.Path, work) {
						script.Errorf("left mounted: %s", m.Path)
						_ = unix.Unmount(m.Path, unix.MNT_DETACH)
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
	if !testrig.Await(testrig.Patience, func() bool {
		left, _ = filepath.Glob(mountclient.DefaultRunDir + "/*")
		return len(left) == 0
	}) {
		t.Errorf("clients that did not end: %q", left)
	}
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
	if !testrig.Await(testrig.Patience, func() bool {
		c, err := net.Dial("tcp", args[0])
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		ts.Fatalf("nobody listens at %s", args[0])
	}
}
