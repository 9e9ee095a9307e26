// Package vmtest finds what tests that boot a machine need, or skips them.
package vmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"bootprof/internal/testrig"
	"bootprof/recorder/vm"
)

// Kernel returns the path of a Debian kernel, which is fetched once and kept in the build directory.
// Without it or without QEMU the test is skipped as testrig.Missing says, and in make check as
// testrig.Slow does.
func Kernel(t testing.TB) string {
	t.Helper()
	testrig.Slow(t)
	testrig.NeedProgram(t, vm.Program)
	_, file, _, _ := runtime.Caller(0)
	top := filepath.Join(filepath.Dir(file), "../../..")
	build := os.Getenv("BUILD")
	if build == "" {
		build = "build"
	}
	if !filepath.IsAbs(build) { // as make has it: relative to the top
		build = filepath.Join(top, build)
	}
	kernel := filepath.Join(build, "lab-kernel")
	if out, err := exec.Command(filepath.Join(top, "scripts/lab-kernel.sh"), kernel).CombinedOutput(); err != nil {
		testrig.Missing(t, "no kernel to boot: %v: %s", err, out)
	}
	return kernel
}
