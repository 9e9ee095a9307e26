package main

import (
	"os/exec"
	"strings"
	"testing"
)

// The boot binary must not come to import what only the lab needs.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("go list -deps named only %d packages", len(deps))
	}
	for _, d := range deps {
		for _, bad := range []string{"spf13/cobra", "spf13/pflag", "gonum", "go-diskfs", "prometheus", "ulikunitz/xz", "therootcompany/xz", "anchore/go-lzo", "aead.dev", "pierrec/lz4",
			"bootprof/analyzer", "bootprof/recorder", "bootprof/bench", "bootprof/imagepack/erofs", "bootprof/imagepack/squashfs", "bootprof/imagepack/tree"} {
			if strings.Contains(d, bad) {
				t.Errorf("bootprof-mount imports %s", d)
			}
		}
		if d == "bootprof/imagepack" {
			t.Error("bootprof-mount imports the pack writer")
		}
	}
}
