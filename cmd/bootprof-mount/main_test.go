package main

import (
	"bytes"
	"strings"
	"testing"

	"bootprof/mountclient"
)

func TestWrongArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "want URL and DIR"},
		{[]string{"http://host/x.bpk"}, "want URL and DIR"},
		{[]string{"/mnt", "http://host/x.bpk"}, "in this order"},
		{[]string{"host/x.bpk", "/mnt"}, "http://HOST/PATH"},
		{[]string{"-pubkey", "", "http://host/x.bpk", "/mnt"}, "-pubkey has an empty value"},
		{[]string{"-digest=", "http://host/x.bpk", "/mnt"}, "-digest has an empty value"},
		{[]string{"-memory", "-5", "http://host/x.bpk", "/mnt"}, "1 MiB or more"},
		{[]string{"-frobnicate"}, "frobnicate"},
	} {
		var stderr bytes.Buffer
		if code := run(c.args, &stderr); code != mountclient.ExitUsage || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%q: code %d, %s", c.args, code, &stderr)
		}
	}
}
