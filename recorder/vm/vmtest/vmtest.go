// Package vmtest finds what tests that boot a machine need, or skips them.
package vmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"bootprof/recorder/vm"
)

// Env makes a test fail, not skip, when QEMU or a kernel is missing: set where set-up has installed them.
const Env = "BOOTPROF_NEED_VM"

// Kernel returns the path of a Debian kernel, which is fetched once and kept in the build directory. The test is skipped
// in short mode, and without QEMU.
func Kernel(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine")
	}
	skip := t.Skipf
	if os.Getenv(Env) != "" {
		skip = t.Fatalf
	}
	if _, err := exec.LookPath(vm.Program); err != nil {
		skip("%v", vm.ErrNoQEMU)
	}
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
		skip("no kernel to boot: %v: %s", err, out)
	}
	return kernel
}
