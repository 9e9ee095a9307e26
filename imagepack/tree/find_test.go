package tree

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"usr/bin", "usr/lib/modules/6.1", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"usr/bin/sh", "usr/lib/modules/6.1/vmlinuz", "etc/passwd"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "lib": "./usr/lib/", "vmlinuz": "/usr/lib/modules/6.1/vmlinuz", "etc/up": "../../../usr", "loop": "loop2",
		"loop2": "loop", "gone": "no/such", "etc/self": ".", "chain": "etc/self/self/up/../bin/sh",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := FromDir(t.Context(), dir, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{ // "-": nothing there
		"": "", "/": "", "bin/sh": "usr/bin/sh", "/bin//./sh": "usr/bin/sh", "lib/modules": "usr/lib/modules",
		"vmlinuz": "usr/lib/modules/6.1/vmlinuz", "etc/up/bin/sh": "usr/bin/sh", "../..": "", "loop": "-", "gone": "-", "bin/sh/x": "-",
		"bin/../lib": "usr/lib", "etc/self/passwd": "etc/passwd", "chain": "usr/bin/sh", "nothing": "-", "bin/sh/": "-", "etc/": "etc",
	} {
		n, got := Find(root, path)
		if n == nil {
			got = "-"
		}
		if got != want {
			t.Errorf("%q is %q, want %q", path, got, want)
		}
		if n != nil && n.Type() == ModeRegular {
			if b, err := n.ReadFile(); err != nil || string(b) != want {
				t.Errorf("%q holds %q, %v", path, b, err)
			}
		}
	}
}
