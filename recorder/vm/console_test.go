package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWaitConsole(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	synctest.Test(t, func(t *testing.T) {
		c, err := newConsole(log)
		if err != nil {
			t.Fatal(err)
		}
		v := &VM{console: c}
		say := func(s string) { c.Write([]byte(s)) }
		wait := func(re string, from int64) (int64, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return v.WaitConsole(ctx, regexp.MustCompile(re), from)
		}
		say("first\r\nsecond\r\nlogin: ")
		for _, tt := range []struct {
			re   string
			from int64
			end  int64 // 0: not found
		}{
			{"^first$", 0, 5}, {"^second$", 0, 13}, {"^login: $", 0, 22}, {"first", 1, 0}, {"irst", 1, 5}, {"first", 7, 0},
			{"", 22, 0}, {"first.*second", 0, 0},
		} {
			end, err := wait(tt.re, tt.from)
			if tt.end == 0 && !errors.Is(err, context.DeadlineExceeded) || tt.end != 0 && (err != nil || end != tt.end) {
				t.Errorf("%q from %d: %d, %v; want %d", tt.re, tt.from, end, err, tt.end)
			}
		}
		go func() {
			for _, c := range "root\r\nPass" {
				time.Sleep(time.Second)
				say(string(c))
			}
		}()
		if end, err := wait("^login: root$", 0); err != nil || end != 26 {
			t.Errorf("a line that comes byte by byte: %d, %v", end, err)
		}
		if end, err := wait("^Pass$", 26); err != nil || end != 32 {
			t.Errorf("a line after the position: %d, %v", end, err)
		}
		go func() {
			time.Sleep(time.Second)
			c.close()
		}()
		var ce *ConsoleError
		if _, err := wait("never", 0); !errors.Is(err, ErrEnded) || !errors.As(err, &ce) || ce.Tail != "first\nsecond\nlogin: root\nPass" {
			t.Errorf("at the end: %v", err)
		}
	})
	if b, err := os.ReadFile(log); err != nil || string(b) != "first\r\nsecond\r\nlogin: root\r\nPass" {
		t.Errorf("log: %q, %v", b, err)
	}
}

// TestConsoleForgets wants positions to stay what they are when old text is dropped.
func TestConsoleForgets(t *testing.T) {
	c, err := newConsole(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	v := &VM{console: c}
	line := strings.Repeat("x", 1<<20-1) + "\n"
	for range 40 {
		c.Write([]byte(line))
	}
	c.Write([]byte("mark"))
	if got := v.ConsolePos(); got != 40<<20+4 {
		t.Errorf("position %d", got)
	}
	end, err := v.WaitConsole(t.Context(), regexp.MustCompile("^mark$"), 0)
	if err != nil || end != 40<<20+4 {
		t.Errorf("%d, %v", end, err)
	}
}

func TestLastLines(t *testing.T) {
	const text = "\x1b[2J\x1b[1;1Hone\r\n\r\n\x1b[0;32mtwo\x1b[0m\r\n  \r\nthree: "
	for n, want := range []string{"", "three:", "two\nthree:", "one\ntwo\nthree:", "one\ntwo\nthree:"} {
		if got := lastLines(text, n); got != want {
			t.Errorf("%d lines: %q, want %q", n, got, want)
		}
	}
}
