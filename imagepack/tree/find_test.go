package tree

import (
	"os"
	"path/filepath"
	"testing"

	"bootprof/internal/testrig"
)

func TestFind(t *testing.T) {
	dir := testrig.MemoryDir(t)
	for _, d := range []string{"usr/bin", "usr/lib/modules/6.1", "etc"} {
		testrig.Must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"usr/bin/sh", "usr/lib/modules/6.1/vmlinuz", "etc/passwd"} {
		testrig.WriteFile(t, filepath.Join(dir, f), []byte(f))
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "lib": "./usr/lib/", "vmlinuz": "/usr/lib/modules/6.1/vmlinuz", "etc/up": "../../../usr", "loop": "loop2",
		"loop2": "loop", "gone": "no/such", "etc/self": ".", "chain": "etc/self/self/up/../bin/sh",
	} {
		testrig.Must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	root, err := FromDir(t.Context(), dir, DirOptions{})
	testrig.Must(t, err)
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
