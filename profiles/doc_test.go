package profiles

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"
)

const docPath = "../docs/profile.md"

// dumpBlock finds a hex dump in the document by its title.
func dumpBlock(title string) *regexp.Regexp {
	return regexp.MustCompile("(?s)(" + regexp.QuoteMeta(title) + "\n\n```\n)(.*?)(```\n)")
}

// TestDocDump holds the worked example of the format's document to what the codec writes, byte for byte.
func TestDocDump(t *testing.T) {
	run := exampleRun()
	payload, err := encodePayload(run)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	for title, b := range map[string][]byte{"The file:": mustWrite(t, run), "Its payload:": payload} {
		re := dumpBlock(title)
		m := re.FindSubmatch(doc)
		if m == nil {
			t.Fatalf("%s has no dump under %q", docPath, title)
		}
		want := hex.Dump(b)
		if *update {
			doc = re.ReplaceAll(doc, []byte("${1}"+strings.ReplaceAll(want, "$", "$$")+"${3}"))
			continue
		}
		if string(m[2]) != want {
			t.Errorf("the dump under %q is not what the codec writes:\n%s", title, want)
		}
	}
	if *update {
		if err := os.WriteFile(docPath, doc, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n := bytes.Count(doc, []byte("\n")); n >= 300 {
		t.Errorf("%s has %d lines, want fewer than 300", docPath, n)
	}
}
