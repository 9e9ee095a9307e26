package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bootprof/mountclient"
)

func cliDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section returns the part of a document below a heading of level two.
func section(t *testing.T, doc, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(doc, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/cli.md has no section %q", heading)
	}
	part, _, _ := strings.Cut(after, "\n## ")
	return part
}

// docs/cli.md names every verb and every flag, and no other.
func TestDocNamesEveryFlag(t *testing.T) {
	doc := cliDoc(t)
	root := (&app{stdout: io.Discard, stderr: io.Discard}).command()
	flag := regexp.MustCompile("`(?:-\\w, )?--([a-z-]+)[ `]")
	verbs := map[string]bool{}
	for _, cmd := range root.Commands() {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		verbs[cmd.Name()] = true
		part := section(t, doc, cmd.Name())
		if !strings.Contains(part, "bootprof "+cmd.Use) && !strings.Contains(part, "bootprof "+cmd.Name()) {
			t.Errorf("section %s does not show the command", cmd.Name())
		}
		named := map[string]bool{}
		for _, m := range flag.FindAllStringSubmatch(part, -1) {
			named[m[1]] = true
			if lookup(cmd, m[1]) == nil {
				t.Errorf("docs/cli.md: %s has no flag --%s", cmd.Name(), m[1])
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !f.Hidden && cmd.InheritedFlags().Lookup(f.Name) == nil && !named[f.Name] {
				t.Errorf("docs/cli.md: --%s of %s is missing", f.Name, cmd.Name())
			}
		})
	}
	for _, m := range regexp.MustCompile(`(?m)^## ([a-z]+)$`).FindAllStringSubmatch(doc, -1) {
		if !verbs[m[1]] {
			t.Errorf("docs/cli.md describes %q, which is not a command", m[1])
		}
	}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(section(t, doc, "For all commands"), "--"+f.Name) {
			t.Errorf("docs/cli.md: --%s is missing", f.Name)
		}
	})
	if n := strings.Count(doc, "\n"); n >= 300 {
		t.Errorf("docs/cli.md has %d lines", n)
	}
}

func lookup(cmd *cobra.Command, name string) *pflag.Flag {
	if f := cmd.Flags().Lookup(name); f != nil {
		return f
	}
	return cmd.InheritedFlags().Lookup(name)
}

// The table of exit codes is that of the code.
func TestDocExitCodes(t *testing.T) {
	want := map[int]string{
		mountclient.ExitOK: "ok", mountclient.ExitOther: "other", mountclient.ExitUsage: "usage", mountclient.ExitSetup: "setup",
		mountclient.ExitNetwork: "network", mountclient.ExitFormat: "format", mountclient.ExitTrust: "trust",
		mountclient.ExitSignal: "signal", exitCommand: "command",
	}
	got := map[int]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (\w+) \|`).FindAllStringSubmatch(section(t, cliDoc(t), "Exit codes"), -1) {
		n, _ := strconv.Atoi(m[1])
		got[n] = m[2]
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("docs/cli.md: %v, the code: %v", got, want)
	}
}

// Every default that docs/cli.md states is that of the flag.
func TestDocDefaults(t *testing.T) {
	doc := cliDoc(t)
	root := (&app{stdout: io.Discard, stderr: io.Discard}).command()
	row := regexp.MustCompile("(?m)^\\| `(?:-\\w, )?--([a-z-]+)[^|]*\\|.*\\(default ([^)]+)\\)")
	found := 0
	for _, cmd := range root.Commands() {
		if !strings.Contains(doc, "\n## "+cmd.Name()+"\n") {
			continue
		}
		for _, m := range row.FindAllStringSubmatch(section(t, doc, cmd.Name()), -1) {
			found++
			if f := lookup(cmd, m[1]); f == nil || strings.Trim(m[2], "`") != f.DefValue {
				t.Errorf("docs/cli.md: default of %s --%s is %s, in the code it is another", cmd.Name(), m[1], m[2])
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d defaults found in docs/cli.md", found)
	}
}

// What run says of an error is one line, whatever the error.
func TestRunSaysOneLine(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"--nonsense"}, {"pack"}, {"inspect", "a\nb"}, {"analyze", ""}, {"verify", "no\nsuch"}} {
		var out, errs bytes.Buffer
		code := run(t.Context(), args, &out, &errs)
		if code == 0 || strings.Count(errs.String(), "\n") != 1 || !strings.HasPrefix(errs.String(), "bootprof: ") || out.Len() > 0 {
			t.Errorf("%q: exit code %d, %q", args, code, errs.String())
		}
	}
}
