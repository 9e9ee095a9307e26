package main

import (
	"bytes"
	"strings"
	"testing"

	"bootprof/imagepack"
)

// pack warns in one line of a head that delays boots, and only then.
func TestTellHead(t *testing.T) {
	for _, head := range []int64{0, imagepack.GoodHead, imagepack.GoodHead + 1} {
		var out bytes.Buffer
		p := &packJob{app: &app{stderr: &out}, bar: newProgress(&out, "packing")}
		p.tellBoot(&imagepack.Stats{Head: head, BootIndex: head})
		if warned := strings.Count(out.String(), "before the first boot byte"); warned != strings.Count(out.String(), "\n") || (warned == 1) != (head > imagepack.GoodHead) {
			t.Errorf("%d bytes: %q", head, out.String())
		}
	}
}
