package recorder

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"bootprof/internal/testrig"
)

// readPage is a shell function: read_page IMAGE N.
const readPage = `read_page() { dd if=$1 of=/dev/null bs=4096 count=1 skip=$2 2>/dev/null; }; `

// untilTerm reads page 1, says so, and reads page 50 when it is told to end.
const untilTerm = readPage + `trap 'read_page $1 50; echo bye; exit 7' TERM; read_page $1 1; echo ready >&2
	while :; do sleep 0.02; done`

func TestUntilRegex(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	var out, errOut bytes.Buffer
	o.Stdout, o.Stderr = &out, &errOut
	o.Command = sh(untilTerm, "{}")
	o.UntilRegex = regexp.MustCompile("^ready$")
	run := mustRecord(t, o)
	wantPages(t, run, 1) // page 50 was served, but does not count
	wantEnd(t, run, "until", "start until end")
	if out.String() != "bye\n" || !strings.HasPrefix(errOut.String(), "ready\n") {
		t.Errorf("passed on %q and %q", out.String(), errOut.String())
	}
	if run.Marks[1].At != run.Marks[2].At || run.Marks[1].At < run.Touches[0].At {
		t.Errorf("marks %v, touched at %v", run.Marks, run.Touches[0].At)
	}
}

// TestUntilPrompt: a prompt without a line end is seen too, and so is the last line of a command that ends.
func TestUntilPrompt(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	o.UntilRegex = regexp.MustCompile("login: $")
	for name, script := range map[string]string{
		"goes on":      readPage + `read_page $1 1; printf 'Debian\r\n\nhost login: '; sleep 60`,
		"ends at once": readPage + `read_page $1 1; printf 'host login: '`,
	} {
		t.Run(name, func(t *testing.T) {
			o.Command = sh(script, "{}")
			run := mustRecord(t, o)
			wantPages(t, run, 1)
			wantEnd(t, run, "until", "start until end")
		})
	}
}

func TestKeepGoing(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	o.Command = sh(readPage+`read_page $1 1; echo ready; read_page $1 50`, "{}")
	o.UntilRegex, o.KeepGoing = regexp.MustCompile("ready"), true
	run := mustRecord(t, o)
	wantPages(t, run, 1, 50)
	wantEnd(t, run, "exit 0", "start until end")
}

func TestUntilFile(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	for name, script := range map[string]string{
		"goes on":      untilTerm,
		"ends at once": readPage + `read_page $1 1; : >"$2"`,
	} {
		t.Run(name, func(t *testing.T) {
			o.UntilFile = filepath.Join(t.TempDir(), "booted")
			script = strings.Replace(script, "echo ready >&2", `: >"$2"`, 1)
			o.Command = sh(script, "{}", o.UntilFile)
			run := mustRecord(t, o)
			wantPages(t, run, 1)
			wantEnd(t, run, "until-file", "start until-file end")
		})
	}
}

func TestNotReached(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	o.Command = sh(readPage+`read_page $1 1; echo not yet`, "{}")
	o.UntilRegex = regexp.MustCompile("^ready")
	run, err := record(t, t.Context(), o)
	if !errors.Is(err, ErrNotReached) {
		t.Errorf("error %v, want ErrNotReached", err)
	}
	wantPages(t, run, 1)
	wantEnd(t, run, "exit 0", "start end")
}

func TestDuration(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	o.Command = sh(untilTerm, "{}")
	o.Duration = 300 * time.Millisecond
	run, err := recordUntilTime(t, t.Context(), o)
	testrig.Must(t, err)
	wantPages(t, run, 1)
	wantEnd(t, run, "duration", "start end")
}

func TestCommandFails(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	for _, c := range []struct {
		name, script, end string
		code              int
		sig               syscall.Signal
	}{
		{"status", readPage + `read_page $1 9; exit 3`, "exit 3", 3, 0},
		{"signal", readPage + `read_page $1 9; kill -9 $$`, "exit 137", 137, syscall.SIGKILL},
	} {
		t.Run(c.name, func(t *testing.T) {
			o.Command = sh(c.script, "{}")
			run, err := record(t, t.Context(), o)
			var ce *CommandError
			if !errors.As(err, &ce) || ce.Code != c.code || ce.Signal != c.sig || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want a CommandError with %d", err, c.code)
			}
			wantPages(t, run, 9)
			wantEnd(t, run, c.end, "start end")
		})
	}
}

func TestNothingRead(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	o.Command = []string{"true"}
	run, err := record(t, t.Context(), o)
	if !errors.Is(err, ErrNothingRead) || run == nil || len(run.Touches) != 0 {
		t.Errorf("run %v, error %v, want an empty run and ErrNothingRead", run, err)
	}
	o.Command = sh(`exit 4`)
	run, err = record(t, t.Context(), o)
	var ce *CommandError
	if !errors.Is(err, ErrNothingRead) || !errors.As(err, &ce) || run == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("run %v, error %v, want ErrNothingRead and a CommandError in one line", run, err)
	}
}

func TestInterrupt(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := newNotifyWriter("ready")
	o.Stderr = w
	go func() {
		<-w.seen
		cancel()
	}()
	o.Command = sh(untilTerm, "{}")
	run, err := record(t, ctx, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	wantPages(t, run, 1)
	wantEnd(t, run, "interrupted", "start end")

	// Before anything was started there is no run.
	run, err = record(t, ctx, o)
	if !errors.Is(err, context.Canceled) || run != nil {
		t.Errorf("run %v, error %v", run, err)
	}
}

// TestGrace: a command that ignores SIGTERM is killed, with what it started.
func TestGrace(t *testing.T) {
	o, _ := randomImage(t, 1<<20)
	o.Command = sh(readPage+`trap '' TERM; read_page $1 1; (while :; do sleep 0.02; done) & echo ready; while :; do sleep 0.02; done`, "{}")
	o.UntilRegex, o.Grace = regexp.MustCompile("ready"), 100*time.Millisecond
	wantEnd(t, mustRecord(t, o), "until", "start until end")
}

// TestLeftProcess: a process left in the background holds the image and the output; both are taken from it.
func TestLeftProcess(t *testing.T) {
	testrig.Slow(t)
	o, _ := randomImage(t, 1<<20)
	var out bytes.Buffer
	o.Stdout = &out
	o.Command = sh(readPage+`read_page $1 1; exec 3<$1; (trap '' TERM; while :; do sleep 0.02; done) & exit 0`, "{}")
	o.Grace = 100 * time.Millisecond
	wantEnd(t, mustRecord(t, o), "exit 0", "start end")
}

// A panicHandler panics on the warning that the command is killed.
type panicHandler struct{ slog.Handler }

func (panicHandler) Enabled(context.Context, slog.Level) bool { return true }
func (panicHandler) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "killing the command") {
		panic("a panic while recording")
	}
	return nil
}

func TestPanic(t *testing.T) {
	testrig.NeedMounts(t)
	o, _ := randomImage(t, 1<<20)
	o.TempDir = t.TempDir()
	o.Logger = slog.New(panicHandler{slog.DiscardHandler})
	o.Command = sh(readPage+`trap '' TERM; read_page $1 1; echo ready; while :; do sleep 0.02; done`, "{}", "{dev}")
	o.UntilRegex, o.Grace = regexp.MustCompile("ready"), 50*time.Millisecond
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic: the test does not test it")
			}
		}()
		Record(t.Context(), o)
	}()
	assertNothingLeft(t, o.TempDir)
}
